"""`python -m quantize.measure PACK PROMPT THREADS STEPS`: what one picture costs, as one line of JSON.

A process of its own, with nothing in it but ONNX Runtime and numpy, so that its peak memory means
something.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from edgegen.pack import Pack

from .runner import Runner


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


def _seconds(runner: Runner, prompt: str, steps: int) -> float:
    runner.recipe = replace(runner.recipe, steps=steps)
    start = time.perf_counter()
    runner.picture(prompt, 1)
    return time.perf_counter() - start


def main() -> None:
    """Load a pack, make pictures, print {seconds, load_s, peak_mb, timed_steps} of it."""
    folder, prompt, threads, timed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    start = time.perf_counter()
    runner = Runner.of_pack(Pack.open(folder), threads)
    loaded = time.perf_counter()
    steps = runner.recipe.steps
    timed = min(timed, steps) or steps
    first = _seconds(runner, prompt, timed if timed == steps else 1)
    seconds = _seconds(runner, prompt, timed)
    if timed < steps:
        one = min(first, _seconds(runner, prompt, 1))  # the first may have borne the start
        seconds += (steps - timed) * max(0.0, seconds - one) / max(1, timed - 1)
    cost = {
        "seconds": round(seconds, 3),
        "load_s": round(loaded - start, 3),
        "peak_mb": round(peak_bytes() / 1e6),
        "timed_steps": timed,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
