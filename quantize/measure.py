"""`python -m quantize.measure PACK PROMPT THREADS`: what one picture costs, as one line of JSON.

A process of its own, with nothing in it but ONNX Runtime and numpy, so that its peak memory means
something.
"""

from __future__ import annotations

import json
import resource
import sys
import time
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


def main() -> None:
    """Load a pack, make two pictures, print {seconds, load_s, peak_mb} of it."""
    folder, prompt, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    start = time.perf_counter()
    runner = Runner.of_pack(Pack.open(folder), threads)
    loaded = time.perf_counter()
    runner.picture(prompt, 1)
    warm = time.perf_counter()
    runner.picture(prompt, 2)
    cost = {
        "seconds": round(time.perf_counter() - warm, 3),
        "load_s": round(loaded - start, 3),
        "peak_mb": round(peak_bytes() / 1e6),
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
