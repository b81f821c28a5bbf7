"""`python -m tests.torture [--seed N] [--scale F] [SCENARIO ...]`: everything that may happen to a device.

Prints one row a scenario. The same seed repeats the same blows, though not their exact moments. Exit code 1
when a job was lost, or something was done or told twice more often than there were crashes.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable

from . import clock, damage, disk, flood, kills, links
from .tally import Row, table

Scenario = Callable[[int, float], Row]


def scaled(number: int, scale: float) -> int:
    return max(3, round(number * scale))


SCENARIOS: dict[str, Scenario] = {
    "kills": lambda seed, f: kills.run(seed, scaled(200, f), scaled(20, f)),
    "links": lambda seed, f: links.run(seed, scaled(200, f), scaled(20, f)),
    "disk-full": lambda seed, f: disk.run_full(seed, scaled(100, f), scaled(8, f)),
    "disk-read-only": lambda seed, f: disk.run_read_only(seed, scaled(20, f)),
    "database": lambda seed, f: damage.run_database(seed, scaled(100, f)),
    "clock": lambda seed, f: clock.run(seed, scaled(100, f), scaled(20, f)),
    "flood": lambda seed, f: flood.run(seed, scaled(10_000, f)),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; none: all of them")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the jobs and blows")
    asked = parser.parse_args()
    if unknown := set(asked.scenario) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(SCENARIOS)}")
    print(f"seed {asked.seed} (repeat with --seed {asked.seed})", file=sys.stderr, flush=True)
    rows, faults = [], []
    for name in asked.scenario or SCENARIOS:
        rows.append(SCENARIOS[name](asked.seed, asked.scale))
        faults += [f"{name}: {fault}" for fault in rows[-1].faults()]
        print(f"{name}: {rows[-1]}", file=sys.stderr, flush=True)
    print(table(rows))
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
