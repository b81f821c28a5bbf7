"""Where the time of one job goes, from publish to picture: for each call on the way, when and how long.

python bench/timeline.py [--pack tiny --pack-dir tests/packs] [--jobs 15] [--pause 0.5]

Milliseconds after the publish, medians over jobs one after the other; a call that comes several times has a
number. Waits of more than a millisecond between two calls of one process are where to look.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from idle_front import broker
from latency import BASE, CONFIG, Listener

AFTER_S = 0.3  # what still belongs to a job once its picture is there

Calls = list[tuple[str, float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", default="pocket")
    parser.add_argument("--pack-dir", type=Path, default=Path("tests/packs"))
    parser.add_argument("--jobs", type=int, default=15)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two jobs (default 0.5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eg") as folder, broker(Path(folder)) as port:
        time.sleep(1)  # mosquitto listens
        config = Path(folder) / "config.toml"
        text = CONFIG.format(folder=folder, port=port, pack=args.pack, pack_dir=args.pack_dir.resolve())
        config.write_text(text)
        listener = Listener(port)
        with traced("front", config), traced("engine", config):
            listener.wait(f"{BASE}/availability", "online")
            for number in range(args.jobs + 1):
                time.sleep(args.pause)
                listener.publish(f"j{number}", steps=2)
                listener.wait("image", str(number))
            time.sleep(AFTER_S)
        calls = {role: read_calls(Path(folder) / f"{role}.trace") for role in ("front", "engine")}
        show(calls, listener, [f"j{number}" for number in range(1, args.jobs + 1)])


@contextlib.contextmanager
def traced(role: str, config: Path) -> Iterator[None]:
    """A process that writes its calls beside the configuration."""
    command = [sys.executable, str(Path(__file__).with_name("traced.py")), role, str(config)]
    with (config.parent / f"{role}.trace").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def read_calls(path: Path) -> Calls:
    """What a process wrote, in the order in which the calls began."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(((line["what"], line["began"], line["ended"]) for line in lines), key=lambda call: call[1])


def show(calls: dict[str, Calls], listener: Listener, jobs: list[str]) -> None:
    """One table of both processes and what the listener saw."""
    rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    ends = [listener.sent[job] for job in jobs[1:]] + [float("inf")]
    for job, end in zip(jobs, ends, strict=True):
        began = listener.sent[job]
        for role, found in calls.items():
            seen: Counter[str] = Counter()
            for what, start, stop in found:
                if began <= start < end:
                    seen[what] += 1
                    rows[role, f"{what} {seen[what]}"].append((start - began, stop - start))
        for (name, state), at in listener.at.items():
            if name == job:
                rows["seen", state].append((at - began, 0.0))
    common = [(key, found) for key, found in rows.items() if 2 * len(found) > len(jobs)]
    table = [(median(at for at, _ in found), median(t for _, t in found), *key) for key, found in common]
    print("    at ms   took ms  who     what")
    for at, took, who, what in sorted(table):
        print(f"{1000 * at:9.1f} {1000 * took:9.1f}  {who:7} {what}")


if __name__ == "__main__":
    main()
