"""`python -m quantize.measure PACK PROMPT THREADS`: what one picture costs, as one line of JSON.

A process of its own, with nothing in it but ONNX Runtime and numpy, so that its peak memory means
something.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from edgegen.pack import Pack

from .runner import Runner


def main() -> None:
    """Load a pack, make two pictures, print {seconds, load_s, peak_mb} of it."""
    folder, prompt, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    start = time.perf_counter()
    runner = Runner.of_pack(Pack.open(folder), threads)
    loaded = time.perf_counter()
    runner.picture(prompt, 1)
    warm = time.perf_counter()
    runner.picture(prompt, 2)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = {
        "seconds": round(time.perf_counter() - warm, 3),
        "load_s": round(loaded - start, 3),
        "peak_mb": round(peak_kib * 1024 / 1e6),
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
