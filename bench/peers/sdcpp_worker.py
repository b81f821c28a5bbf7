"""stable-diffusion.cpp, by its Python package: whole pictures; a step is the time between two reports.

    python sdcpp_worker.py WORK --wtype q8_0 --size 512 --threads 2 --steps 3

Prints one line of JSON with the same keys as worker.py.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--wtype", default="q8_0")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    print(json.dumps(measure(parser.parse_args())), flush=True)


def measure(args: argparse.Namespace) -> dict[str, object]:
    from stable_diffusion_cpp import StableDiffusion

    folder, reports = (args.work / "checkpoint").resolve(), [time.perf_counter()]
    began = time.perf_counter()
    model = StableDiffusion(
        model_path=str(folder),
        taesd_path=str(folder / "vae/diffusion_pytorch_model.safetensors"),
        n_threads=args.threads,
        wtype=args.wtype,
        verbose=False,
    )
    found: dict[str, object] = {"load_s": time.perf_counter() - began}
    began = time.perf_counter()
    model.generate_image(
        "a red apple",
        width=args.size,
        height=args.size,
        cfg_scale=1.0,
        sample_method="euler",
        sample_steps=args.steps + 1,
        progress_callback=lambda *_: reports.append(time.perf_counter()),
    )
    whole = time.perf_counter() - began
    gaps = [b - a for a, b in pairwise(reports)]
    steps = gaps[-args.steps :]
    status = Path("/proc/self/status").read_text()
    peak = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM")) * 1024 / 1e6
    return found | {"step_s": steps, "picture_s": whole if args.steps == 3 else None, "peak_mb": peak}


if __name__ == "__main__":
    main()
