"""The most memory a whole build holds, all its processes together, below a hard limit.

    python bench/build_memory.py CHECKPOINT OUT [--limit-mb 8000] [--flags ...]

`python -m quantize CHECKPOINT -o OUT` in a cgroup of its own, without swap: what does not fit ends it. Prints
a Markdown table: for each stage the most anonymous memory, of all processes at one moment, as looked at every
tenth of a second. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from cgroups import MemoryGroup, memory_group

ROOT = Path(__file__).resolve().parent.parent
LOOK_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit-mb", type=int, default=8000, help="millions of bytes (default 8000)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="of `quantize`")
    args = parser.parse_args()
    with memory_group(f"edgegen-build-{os.getpid()}") as group:
        group.set_limit(args.limit_mb * 10**6)
        code, stages = build(group, args)
    print("| stage | s | anonymous MB, at most |\n|---|---|---|")
    for name, seconds, peak in stages:
        print(f"| {name} | {seconds:.0f} | {peak / 1e6:.0f} |")
    if code:
        sys.exit(f"the build ended with {code} below {args.limit_mb} MB")
    print(f"\nThe pack was made below {args.limit_mb} MB.")


def build(group: MemoryGroup, args: argparse.Namespace) -> tuple[int, list[tuple[str, float, int]]]:
    """The build's exit code, and of each stage its name, seconds and the most memory held meanwhile."""
    command = [
        sys.executable,
        "-m",
        "quantize",
        str(args.checkpoint.absolute()),
        "-o",
        str(args.out.absolute()),
    ]
    process = subprocess.Popen(
        [*command, "--json", *args.flags],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: group.procs.write_text(str(os.getpid())),
    )
    assert process.stdout is not None
    peak, stop, stages = [0], threading.Event(), []
    watcher = threading.Thread(target=watch, args=(group, peak, stop))
    watcher.start()
    for line in process.stdout:
        told = json.loads(line)
        if told["event"] == "stage" and told["state"] == "begun":
            peak[0] = 0
        elif told["event"] == "stage" and told["state"] == "done":
            stages.append((told["stage"], told["stage_s"], peak[0]))
    code = process.wait()
    stop.set()
    watcher.join()
    return code, stages


def watch(group: MemoryGroup, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(LOOK_S):
        peak[0] = max(peak[0], anonymous_bytes(group))


def anonymous_bytes(group: MemoryGroup) -> int:
    """What no file stands behind, of all the group's processes, as the kernel counts it."""
    name = {1: "total_rss", 2: "anon"}[group.version]
    with contextlib.suppress(OSError, ValueError):
        rows = (group.folder / "memory.stat").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.split()[0] == name)
    return 0


if __name__ == "__main__":
    main()
