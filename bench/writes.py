"""Bytes that the device writes to its card: idle, and for a job. Counted by the kernel (/proc/PID/io).

python bench/writes.py [--seconds 180] [--jobs 50] [--pack pocket --pack-dir tests/packs] [--json]

The folder must be on a real file system: a tmpfs counts nothing (set TMPDIR).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from idle_front import broker
from latency import BASE, CONFIG, Listener

SETTLE_S = 7.0  # the engine's first look at the queue after a commit is over


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="how long to watch it idle (default 180)"
    )
    parser.add_argument("--jobs", type=int, default=50, help="jobs one after the other (default 50)")
    parser.add_argument("--pack", default="pocket")
    parser.add_argument("--pack-dir", type=Path, default=Path("tests/packs"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eg") as folder, broker(Path(folder)) as port:
        time.sleep(1)  # mosquitto listens
        config = Path(folder) / "config.toml"
        pack_dir = args.pack_dir.resolve()
        config.write_text(CONFIG.format(folder=folder, port=port, pack=args.pack, pack_dir=pack_dir))
        found = measure(config, Listener(port), args)
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


def measure(config: Path, listener: Listener, args: argparse.Namespace) -> dict[str, float]:
    """Front and engine together, under a process that keeps count of the children it has waited for."""
    command = [sys.executable, "-m", "edgegen", "--config", str(config), "run"]
    front = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        listener.wait(f"{BASE}/availability", "online")
        draw(listener, "warm", 2)
        time.sleep(SETTLE_S)
        before, began = written(front.pid), time.monotonic()
        time.sleep(args.seconds)
        idle = (written(front.pid) - before) * 3600 / (time.monotonic() - began)
        before = written(front.pid)
        draw(listener, "job", args.jobs)
        time.sleep(SETTLE_S)
        a_job = (written(front.pid) - before) / args.jobs
    finally:
        front.terminate()
        front.wait()
    files = [path.stat().st_size for path in (config.parent / "data/gallery").rglob("*") if path.is_file()]
    pictures = sum(files) / (args.jobs + 2)
    return {
        "written per idle hour, bytes": round(idle),
        "written per job, bytes": round(a_job),
        "of these the picture and its copy, bytes": round(pictures),
    }


def draw(listener: Listener, name: str, jobs: int) -> None:
    for number in range(jobs):
        listener.publish(f"{name}{number}", steps=2)
        listener.wait(f"{name}{number}", "done")


def written(pid: int) -> int:
    """Bytes that a process and its children have had sent to storage so far."""
    own = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text("ascii").splitlines())
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text("ascii").split()]
    return int(own["write_bytes"]) + sum(map(written, children))


if __name__ == "__main__":
    main()
