"""A whole picture under hard memory limits: seconds, memory and the picture's hash, by limit and mode.

    python bench/low_memory.py [PACK ...] [--limits 0 256 192] [--modes full mapped low tiled] [--output FILE]

Each run is a process of its own in a cgroup of its own: interpreter, libraries and file pages all count. File
caches are dropped first (for the whole machine), and there is no swap. Limits are MB of 10^6 bytes; 0: none.
Limits alternate within a round, and of several rounds the medians count. CPU seconds are the process's own:
they say what the mode costs also where others use the machine. Read MB came from the disk: weights that did
not stay count each time they are read. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cgroups import MemoryGroup, drop_caches, memory_group

ROOT = Path(__file__).resolve().parent.parent
ENTER = 'echo $$ > "$1" && shift && exec "$@"'  # the group must own the process before Python starts
SAMPLE_S = 0.01
ONE_RUN = """
import hashlib, json, pathlib, resource, sys, time
from edgegen.engine.pipeline import TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import builtin_packs_dir, find_pack
from edgegen.settings import LimitSettings
pack = find_pack(sys.argv[1], [builtin_packs_dir()])
steps, guidance = int(sys.argv[4]) or None, float(sys.argv[5]) or None
request = JobRequest(id="bench", prompt="a fox on a teal background", seed=1, steps=steps, guidance=guidance)
engine = TextToImage(pack, "cpu", int(sys.argv[3]), memory=sys.argv[2])
began = time.monotonic()
*_, picture = engine.generate(resolve_settings(pack, request, LimitSettings()))
used = resource.getrusage(resource.RUSAGE_SELF)
told = {"seconds": round(time.monotonic() - began, 2), "mode": engine.memory.mode.name}
told |= {"cpu_s": round(used.ru_utime + used.ru_stime, 2), "decoding": picture.decoding}
read = next(r for r in pathlib.Path("/proc/self/io").read_text().splitlines() if r.startswith("read_bytes"))
told |= {"read_mb": round(int(read.split()[1]) / 1e6)}
print(json.dumps(told | {"sha256": hashlib.sha256(picture.pixels.tobytes()).hexdigest()}))
"""


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that group and process go, too
    runs: dict[tuple[str, int, str], list[dict]] = {}
    for _, *wanted in itertools.product(range(args.rounds), args.packs, args.limits, args.modes):
        pack, limit_mb, mode = wanted
        found = {"pack": pack, "limit_mb": limit_mb, "asked": mode, **run(pack, limit_mb, mode, args)}
        runs.setdefault((pack, limit_mb, mode), []).append(found)
        print(line(found), file=sys.stderr, flush=True)
    rows = [median(found) for found in runs.values()]
    text = json.dumps(rows, indent=1) + "\n" if args.json else "\n".join(table(rows)) + "\n"
    if args.output:
        args.output.write_text(text, "utf-8")
    print(text, end="")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packs", nargs="*", default=["pocket"], metavar="PACK", help="names or folders")
    parser.add_argument("--limits", type=int, nargs="+", default=[0, 512, 256, 192, 128, 96], metavar="MB")
    modes = ("auto", "full", "mapped", "low", "tiled")
    parser.add_argument("--modes", nargs="+", default=["full", "mapped", "low"], choices=modes)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="denoising steps; 0: the pack's own")
    parser.add_argument("--guidance", type=float, default=0.0, help="1: one pass a step; 0: the pack's own")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is run")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="a run that takes longer")
    parser.add_argument("--output", type=Path, help="file for the table, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def run(pack: str, limit_mb: int, mode: str, args: argparse.Namespace) -> dict:
    """One picture in a fresh process below the limit: what it told, or how it ended."""
    told = [pack, mode, str(args.threads), str(args.steps), str(args.guidance)]
    with memory_group(f"edgegen-bench-{os.getpid()}") as group:
        group.set_limit(limit_mb * 10**6)
        drop_caches()
        with entered(group, [sys.executable, "-c", ONE_RUN, *told]) as process:
            anonymous = watch(process, args.timeout)
            out, err = process.communicate()
        peak = group.peak_bytes()
    found = {"anonymous_mb": round(anonymous / 1e6), "group_mb": peak and round(peak / 1e6)}
    if process.returncode == 0:
        return found | json.loads(out)
    return found | {"ended": ending(process.returncode, err)}


@contextlib.contextmanager
def entered(group: MemoryGroup, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command inside the group; killed and waited for at the end."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", ENTER, "sh", str(group.procs), *command]
    pipe = subprocess.PIPE
    process = subprocess.Popen(shell, stdout=pipe, stderr=pipe, text=True, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def watch(process: subprocess.Popen[str], timeout_s: float) -> int:
    """Largest anonymous memory (bytes) seen until the process ends; it is killed when it takes too long."""
    deadline, largest = time.monotonic() + timeout_s, 0
    while process.poll() is None:
        largest = max(largest, anonymous_bytes(process.pid))
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(SAMPLE_S)
    return largest


def anonymous_bytes(pid: int) -> int:
    """RssAnon: what the kernel cannot drop without swap."""
    with contextlib.suppress(OSError):
        for row in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if row.startswith("RssAnon:"):
                return int(row.split()[1]) * 1024
    return 0


def median(rows: list[dict]) -> dict:
    """One row of several rounds: medians of times, the largest memory; a round that failed, or drew another
    picture, is what is told."""
    for row in rows:
        if row.get("sha256") != rows[0].get("sha256"):
            return row if "ended" in row else row | {"ended": "another picture each round"}
    times = {
        key: statistics.median(row[key] for row in rows) for key in ("seconds", "cpu_s") if key in rows[0]
    }
    peaks = {key: max(row[key] or 0 for row in rows) for key in ("anonymous_mb", "group_mb")}
    return rows[0] | times | peaks


def ending(code: int, err: str) -> str:
    if code == -signal.SIGKILL:
        return "killed"
    return (err.strip().splitlines() or [f"exit code {code}"])[-1][:200]


def table(rows: list[dict]) -> list[str]:
    """Markdown; ratios are to the pack's first run."""
    names = (
        "pack",
        "limit MB",
        "mode",
        "s",
        "ratio",
        "CPU s",
        "ratio",
        "read MB",
        "anonymous MB",
        "group MB",
    )
    head = [f"| {' | '.join(names)} | picture |", "|" + "---|" * (len(names) + 1)]
    return head + [line(row, next(r for r in rows if r["pack"] == row["pack"])) for row in rows]


def ratio(row: dict, first: dict | None, key: str) -> str:
    """To the pack's first run; `-` where one of the two ended early."""
    value, base = row.get(key), (first or {}).get(key)
    return f"{value / base:.2f}" if value and base else "-"


def line(row: dict, first: dict | None = None) -> str:
    """One row; a picture is `same` when its hash is the first run's."""
    picture = row.get("ended") or row["sha256"][:12]
    if first and first is not row and row.get("sha256") == first.get("sha256", ""):
        picture = "same"
    picture += f" ({row['decoding']})" if row.get("decoding") else ""
    mode = row["asked"] if row["asked"] == row.get("mode", row["asked"]) else f"auto: {row['mode']}"
    cells = (
        Path(row["pack"]).name,
        row["limit_mb"] or "none",
        mode,
        row.get("seconds", "-"),
        ratio(row, first, "seconds"),
        row.get("cpu_s", "-"),
        ratio(row, first, "cpu_s"),
        row.get("read_mb", "-"),
        row["anonymous_mb"],
        row["group_mb"] or "-",
        picture,
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
