"""One runner in a process of its own: loads its graphs, takes steps, makes a picture, says what that cost.

    python worker.py RUNNER WORK --size 512 --threads 2 --steps 3 [--picture]

Runs in whatever environment has the runner's library; imports edgegen's ground floor (numpy) alone. Prints
one line of JSON: load_s, first_s, step_s (a list), picture_s, peak_step_mb, peak_mb. The first step's result
goes to WORK/output-RUNNER-SIZE.npy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from runners import RUNNERS, Runner

from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.sampler import sample
from edgegen.diffusion.schedulers import make_scheduler
from edgegen.diffusion.schedules import NoiseSchedule

SCHEDULE = NoiseSchedule("scaled_linear", 0.00085, 0.012, 1000, False, "trailing", 0)
PICTURE_STEPS = 4
DOWNSCALE, CHANNELS, TOKENS, WIDTH = 8, 4, 77, 768


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runner", choices=sorted(RUNNERS))
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--picture", action="store_true")
    args = parser.parse_args()
    print(json.dumps(measure(RUNNERS[args.runner](args.work, args.threads), args)), flush=True)


def measure(runner: Runner, args: argparse.Namespace) -> dict[str, object]:
    """Steps first, the picture after; peaks are of the process so far."""
    began = time.perf_counter()
    runner.load("unet")
    found: dict[str, object] = {"load_s": time.perf_counter() - began}
    latents, words = inputs(args.size)
    output, found["first_s"] = timed(lambda: runner.unet(latents, 501.0, words))
    found["step_s"] = [timed(lambda: runner.unet(latents, 501.0, words))[1] for _ in range(args.steps)]
    found["peak_step_mb"] = peak_mb()
    np.save(args.work / f"output-{args.runner}-{args.size}.npy", output)
    if args.picture:
        for role in ("text_encoder", "vae_decoder"):
            runner.load(role)
        found["picture_s"] = timed(lambda: picture(runner, args.size))[1]
    return found | {"peak_mb": peak_mb()}


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same latents and words for every runner."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, CHANNELS, size // DOWNSCALE, size // DOWNSCALE), np.float32)
    return latents, rng.standard_normal((1, TOKENS, WIDTH), np.float32)


def picture(runner: Runner, size: int) -> np.ndarray:
    """Text, four steps without guidance, decoder: the work of a distilled checkpoint."""
    ids = np.arange(TOKENS, dtype=np.int64)[None] + 300
    scheduler = make_scheduler("euler", SCHEDULE, "epsilon", PICTURE_STEPS)
    noise = NoiseSource(1)
    sides = size // DOWNSCALE
    latents = noise.normal((1, CHANNELS, sides, sides)) * np.float32(scheduler.init_noise_sigma)
    for step in sample(runner.unet, scheduler, latents, runner.text(ids), None, 1.0, noise):
        latents = step.latents
    return runner.decode(latents.astype(np.float32))


def timed(call):  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    value = call()
    return value, time.perf_counter() - began


def peak_mb() -> float:
    """Most resident memory so far, file pages included, in MB of 10^6 bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    main()
