"""How long accepting a job takes while the engine's process writes to the same database.

python bench/contention.py [--rate 200] [--seconds 3] [--rounds 6]

Rounds alternate between our wait for the other process (`jobs.sync.patiently`, by the millisecond) and
SQLite's own (its busy handler sleeps up to 100 ms at a time): what else the machine does weighs on both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from edgegen.jobs.job import JobRequest
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.sync import LOCK_WAIT_S, LOOK_EVERY_MS

WAYS = {"ours": LOOK_EVERY_MS, "SQLite's": int(1000 * LOCK_WAIT_S)}  # the connection's busy_timeout in ms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0, help="jobs a second (default 200)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--rounds", type=int, default=6, help="of each way (default 6)")
    parser.add_argument("--engine", nargs=2, metavar=("FILE", "MS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        be_engine(Path(args.engine[0]), int(args.engine[1]))
        return
    waits: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, timeout_ms in WAYS.items():
            waits[way] += one_round(timeout_ms, args.rate, args.seconds)
    for way, found in waits.items():
        cuts = quantiles(found, n=1000, method="inclusive")
        figures = {"p50": median(found), "p99": cuts[989], "p99.9": cuts[998], "longest": max(found)}
        print(f"{way:9}", ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in figures.items()))


def one_round(timeout_ms: int, rate: float, seconds: float) -> list[float]:
    """Seconds that each accepted job took to be on the disk."""
    with tempfile.TemporaryDirectory(prefix="eg") as folder:
        path = Path(folder) / "edgegen.db"
        queue = queue_with(path, timeout_ms)
        command = [sys.executable, __file__, "--engine", str(path), str(timeout_ms)]
        engine = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert engine.stdout is not None
        engine.stdout.readline()  # it works
        waits, began = [], time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked = time.monotonic()
            queue.enqueue(JobRequest(id=f"j{number}", prompt="a red apple"))
            waits.append(time.monotonic() - asked)
        engine.kill()
        engine.wait()
        queue.close()
        return waits


def be_engine(path: Path, timeout_ms: int) -> None:
    """Claims and finishes whatever comes, with nothing in between."""
    queue = queue_with(path, timeout_ms)
    print("works", flush=True)
    while True:
        if (job := queue.claim()) is None:
            time.sleep(0.001)
        else:
            queue.finish(job, picture="a.png", seed=1, seconds=1.0)


def queue_with(path: Path, timeout_ms: int) -> JobQueue:
    queue = JobQueue(path)
    queue.database.rows(f"PRAGMA busy_timeout = {timeout_ms}")
    return queue


if __name__ == "__main__":
    main()
