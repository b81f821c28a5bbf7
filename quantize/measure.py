"""`python -m quantize.measure PACK PROMPT THREADS STEPS`: what one picture costs, as one line of JSON.

A process of its own, with nothing in it but ONNX Runtime and numpy, so that its peak memory means
something.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgegen.pack import Pack

from .runner import Feeds, Runner

FEWEST_TIMED = 2  # steps; the first bears the start


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Not `ru_maxrss` where it can be helped: Linux hands that down from the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Stopwatch:
    """Seconds of every run of every graph, and what it was run with last: an observer of a `Runner`."""

    def __init__(self) -> None:
        self.runs: dict[str, list[float]] = {}
        self.feeds: dict[str, Feeds] = {}
        self.start()

    def start(self) -> None:
        """A run begins."""
        self._since = time.perf_counter()

    def __call__(self, role: str, feeds: Feeds, _outputs: Feeds) -> None:
        """The signature of `runner.Observer`: a run ends, and the next begins."""
        self.runs.setdefault(role, []).append(time.perf_counter() - self._since)
        self.feeds[role] = feeds
        self.start()


def reckoned_seconds(runs: Mapping[str, Sequence[float]], steps: int, timed_steps: int) -> float:
    """A picture of `steps` from the runs of one of `timed_steps`, at least 2: all count as the warm ones.

    Args:
        runs: role -> seconds of each run in order; each graph's first, and the denoiser's whole first step,
            bear the start. Of the decoder the second run is one too many.
    """
    passes = len(runs["unet"]) / timed_steps  # a sampler may take two in a step, and one in its last
    found = steps * passes * statistics.median(runs["unet"][math.ceil(passes) :])
    for role, seconds in runs.items():
        if role != "unet":
            found += min(seconds) * (1 if role == "vae_decoder" else len(seconds))
    return found


def _picture_seconds(runner: Runner, watch: Stopwatch, prompt: str, timed_steps: int) -> float:
    """Of a warm picture; where not all steps are timed, reckoned."""
    steps = runner.recipe.steps
    runner.recipe = replace(runner.recipe, steps=timed_steps)
    watch.start()
    runner.picture(prompt, 1)
    if timed_steps < steps:
        watch.start()
        runner.run("vae_decoder", watch.feeds["vae_decoder"])
        return reckoned_seconds(watch.runs, steps, timed_steps)
    start = time.perf_counter()
    runner.picture(prompt, 1)
    return time.perf_counter() - start


def main() -> None:
    """Load a pack, make pictures, print {seconds, load_s, peak_mb, timed_steps} of it."""
    folder, prompt, threads, timed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    start, watch = time.perf_counter(), Stopwatch()
    runner = Runner.of_pack(Pack.open(folder), threads, watch)
    loaded, steps = time.perf_counter(), runner.recipe.steps
    timed = min(max(FEWEST_TIMED, timed), steps) if timed else steps
    seconds = _picture_seconds(runner, watch, prompt, timed)
    cost = {
        "seconds": round(seconds, 3),
        "load_s": round(loaded - start, 3),
        "peak_mb": round(peak_bytes() / 1e6),
        "timed_steps": timed,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
