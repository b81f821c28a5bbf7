"""`python -m quantize.measure PACK FOLDER`: pictures by a pack, and what one costs, as one line of JSON.

A process of its own, with nothing in it but ONNX Runtime and numpy, so that its peak memory means
something. `FOLDER/asked.json` says what to draw; the pictures go into `FOLDER/pictures`, and a line tells of
each when it is made.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from edgegen.pack import Pack

from .runner import Feeds, Runner

ASKED, PICTURES, DRAWN = "asked.json", "pictures", "drawn"
FEWEST_TIMED = 2  # pictures, or steps of one; the first bears the start


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


def reckoned_seconds(
    runs: Mapping[str, Sequence[float]], steps: int, timed_steps: int, pictures: int = 1
) -> float:
    """A picture of `steps` from the runs of some of `timed_steps`, at least 2: all count as the warm ones.

    Args:
        runs: role -> seconds of each run in order; each graph's first, and the denoiser's whole first step,
            bear the start. Of the decoder there may be a run more than pictures.
    """
    passes = len(runs["unet"]) / timed_steps / pictures  # a sampler may take two in a step, one in its last
    found = steps * passes * statistics.median(runs["unet"][math.ceil(passes) :])
    for role, seconds in runs.items():
        if role != "unet":
            found += min(seconds) * (1 if role == "vae_decoder" else len(seconds) / pictures)
    return found


@dataclass(frozen=True)
class Asked:
    """What to draw; `steps` None: the pack's own."""

    prompts: Sequence[str]
    seed: int
    steps: int | None
    threads: int


def _draw(runner: Runner, watch: Stopwatch, asked: Asked, file: IO[bytes]) -> float:
    """Write the pictures; seconds of a warm one of all the steps, reckoned where no such was made."""
    steps, timed = runner.recipe.steps, asked.steps or runner.recipe.steps
    runner.recipe = replace(runner.recipe, steps=timed)
    seconds = []
    for i, prompt in enumerate(asked.prompts):
        watch.start()
        start = time.perf_counter()
        pixels = runner.picture(prompt, asked.seed + i)
        seconds.append(time.perf_counter() - start)
        np.save(file, pixels)
        print(DRAWN, flush=True)
    if timed < FEWEST_TIMED and len(seconds) < FEWEST_TIMED:  # nothing is warm yet
        watch.start()
        start = time.perf_counter()
        runner.picture(asked.prompts[0], asked.seed)
        seconds.append(time.perf_counter() - start)
    if timed == steps and len(seconds) >= FEWEST_TIMED:
        return statistics.median(seconds[1:])
    watch.start()
    runner.run("vae_decoder", watch.feeds["vae_decoder"])
    return reckoned_seconds(watch.runs, steps, timed, len(seconds))


def main() -> None:
    """Load a pack, make pictures, print {seconds, load_s, peak_mb, timed_steps} of one."""
    pack, folder = sys.argv[1], Path(sys.argv[2])
    asked = Asked(**json.loads((folder / ASKED).read_text("utf-8")))
    start, watch = time.perf_counter(), Stopwatch()
    runner = Runner.of_pack(Pack.open(pack), asked.threads, watch)
    loaded = time.perf_counter()
    with (folder / PICTURES).open("wb") as file:
        seconds = _draw(runner, watch, asked, file)
    cost = {
        "seconds": round(seconds, 3),
        "load_s": round(loaded - start, 3),
        "peak_mb": round(peak_bytes() / 1e6),
        "timed_steps": runner.recipe.steps,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
