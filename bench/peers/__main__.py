"""The same work by us and by what people would use instead: SD 1.5's full layout, random weights, in one run.

    python -m bench.peers [--work DIR] [--rounds 3] [--only RUNNER ...] [--sizes 256 384 512 768]

Every round starts each runner in a fresh process, one at a time and in turns, so that a machine whose speed
drifts is fair to all; figures are medians. A step is one run of the UNet at batch 1; a picture
is text, four steps without guidance and the tiny decoder. Peers whose environment is missing are left out and
named: `make peers` builds them. WORK keeps checkpoint and graphs (about 20 GB) from one run to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from edgegen.jobs.supervisor import engine_environ

from . import prepare, report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgegen/bench"
DEV, OPENVINO, PROVIDER, SDCPP = (
    ROOT / ".venv" / n for n in ("dev", "peers-openvino", "peers-ep", "peers-sdcpp")
)
PLACES = {  # OpenVINO made to believe that it runs on another chip
    "nuc": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},  # for processors that have VNNI for AVX-512 alone
}
PLACE_PRECISION = "-f32"  # such chips have no bfloat16, which OpenVINO would take where the real one has it
ENVIRONMENTS = {
    "diffusers-fp32": DEV,
    "diffusers-bf16": DEV,
    "ort-exported": DEV,
    "ort-stock-qdq": DEV,
    "edgegen-int8": DEV,
    "edgegen-int8-openvino": PROVIDER,
    "openvino-fp16": OPENVINO,
    "openvino-fp16-f32": OPENVINO,
    "openvino-w8": OPENVINO,
    "openvino-nncf-int8": OPENVINO,
    "openvino-nncf-int8-f32": OPENVINO,
    "sd.cpp-q8_0": SDCPP,
    "edgegen-int8-openvino@nuc": PROVIDER,
    "openvino-fp16@nuc": OPENVINO,
    "openvino-nncf-int8@nuc": OPENVINO,
    "edgegen-int8-openvino@vnni": PROVIDER,
    "openvino-fp16@vnni": OPENVINO,
    "openvino-nncf-int8@vnni": OPENVINO,
}
GROWING = ("edgegen-int8", "diffusers-fp32")


def main() -> None:
    args = arguments()
    present = [name for name in args.only if (ENVIRONMENTS[name] / "bin/python").exists()]
    prepared(args.work, present)
    rows = [
        {"runner": name, "missing": "not installed: make peers"} for name in args.only if name not in present
    ]
    found: dict[str, list[dict]] = {name: [] for name in present}
    for round_ in range(args.rounds):
        for name in present:
            result = run(name, args.work, 512, args.threads, args.steps, picture=True)
            found[name].append(result)
            say(f"round {round_ + 1}: {name}: {brief(result)}")
    growth = grow(args, [name for name in GROWING if name in present])
    rows = [*rows, *({"runner": name, "runs": runs} for name, runs in found.items())]
    drift = {name: report.sqnr_db(args.work, runner_of(name)) for name in present}
    report.write(args.output, {"rows": rows, "growth": growth, "sqnr_db": drift, "threads": args.threads})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a process, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 384, 512, 768], help="for the growth")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs/bench", help="folder for table, plots, JSON"
    )
    return parser.parse_args()


def prepared(work: Path, names: list[str]) -> None:
    """All that these runners need; each part is made once."""
    work.mkdir(parents=True, exist_ok=True)
    for part in ("checkpoint", "exported"):
        prepare.make(part, work)
    if "ort-stock-qdq" in names:
        prepare.make("stock-qdq", work)
    if any(name.startswith("edgegen") for name in names):
        prepare.make("edgegen-int8", work)
    if any(name.startswith("openvino") for name in names):
        command = [str(OPENVINO / "bin/python"), "-m", "bench.peers.prepare_openvino", str(work)]
        subprocess.run(command, check=True, cwd=ROOT)


def run(name: str, work: Path, size: int, threads: int, steps: int, picture: bool = False) -> dict:
    """One fresh process: what it measured, or {"failed": its last line}."""
    python, runner = ENVIRONMENTS[name] / "bin/python", runner_of(name)
    asked = [str(work), "--size", str(size), "--threads", str(threads), "--steps", str(steps)]
    if runner.startswith("sd.cpp"):
        command = [str(python), str(HERE / "sdcpp_worker.py"), *asked, "--wtype", runner.split("-")[1]]
    else:
        command = [str(python), str(HERE / "worker.py"), runner, *asked, *(["--picture"] if picture else [])]
    ours = engine_environ(os.environ) if name.startswith("edgegen") else os.environ
    env = {**ours, "PYTHONPATH": str(ROOT), **PLACES.get(name.partition("@")[2], {})}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def runner_of(name: str) -> str:
    """What runs, without where it is made to believe that it does."""
    runner, _, place = name.partition("@")
    return runner + PLACE_PRECISION if place else runner


def grow(args: argparse.Namespace, names: list[str]) -> dict[str, list[tuple[int, float]]]:
    """Runner -> [(side in pixels, seconds a step)]."""
    series: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for size in args.sizes:
        for name in names:
            result = run(name, args.work, size, args.threads, 1)
            if "failed" not in result:
                series[name].append((size, report.median(result["step_s"])))
            say(f"{size}x{size}: {name}: {brief(result)}")
    return series


def brief(result: dict) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    steps = " ".join(f"{s:.2f}" for s in result["step_s"])
    picture = result.get("picture_s")
    return (
        f"{steps} s a step"
        + (f", {picture:.1f} s a picture" if picture else "")
        + f", {result['peak_mb']:.0f} MB"
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
