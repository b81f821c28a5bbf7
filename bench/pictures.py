"""Seconds and memory of a picture: a fresh process loads a pack and draws, provider by provider.

    python bench/pictures.py [PACK ...] [--count 5] [--threads 2] [--json]

Packs are measured in turns (A B A B ...), so that a machine whose speed drifts is fair to all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ONE_RUN = """
import json, pathlib, sys, time
from edgegen.engine.pipeline import TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import builtin_packs_dir, find_pack
from edgegen.settings import LimitSettings
pack = find_pack(sys.argv[1], [builtin_packs_dir()])
began = time.monotonic()
engine = TextToImage(pack, sys.argv[2], int(sys.argv[3]))
seconds = []
for seed in range(int(sys.argv[4])):
    request = JobRequest(id="bench", prompt="a fox on a teal background", seed=seed)
    *_, picture = engine.generate(resolve_settings(pack, request, LimitSettings()))
    seconds.append(picture.seconds)
# not ru_maxrss: Linux hands that down from the process that started this one
status = pathlib.Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6
print(json.dumps({"first": seconds[0], "later": seconds[1:], "peak_mb": peak, "mb": pack.size_bytes / 1e6}))
"""


def run_once(pack: str, provider: str, threads: int, count: int) -> dict:
    command = [sys.executable, "-c", ONE_RUN, pack, provider, str(threads), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{pack}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packs", nargs="*", default=["pocket"], metavar="PACK", help="names or folders")
    parser.add_argument("--provider", default="cpu", choices=("cpu", "openvino", "auto"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=5, help="pictures a run (default 5)")
    parser.add_argument("--runs", type=int, default=3, help="fresh processes a pack (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    runs: dict[str, list[dict]] = {pack: [] for pack in args.packs}
    for _ in range(args.runs):
        for pack in args.packs:
            runs[pack].append(run_once(pack, args.provider, args.threads, args.count))
    table = {pack: summary(found) for pack, found in runs.items()}
    if args.json:
        print(json.dumps(table, indent=1))
        return
    print("pack                         s/picture  first s  peak MB  graphs MB")
    for pack, row in table.items():
        figures = f"{row['seconds']:9.2f} {row['first']:8.2f} {row['peak_mb']:8.0f} {row['mb']:10.1f}"
        print(f"{pack[-28:]:28} {figures}")


def summary(runs: list[dict]) -> dict[str, float]:
    """Medians over the runs; `first` includes loading the graphs."""
    later = [s for run in runs for s in run["later"] or [run["first"]]]
    return {
        "seconds": statistics.median(later),
        "first": statistics.median(run["first"] for run in runs),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
        "mb": runs[0]["mb"],
    }


if __name__ == "__main__":
    main()
