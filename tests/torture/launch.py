"""`python -m tests.torture.launch front|engine [CLOCK]`: one process of the device, as its unit runs it.

Settings come as one line of JSON on standard input. CLOCK is a file that holds how many seconds the wall
clock is off: whatever is written there while the process runs is a jump.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path


def bend_clock(file: Path) -> None:
    """From now on `time.time` is off by what the file says; before anything of ours is imported."""
    right = time.time

    def bent() -> float:
        return right() + float(file.read_text() or 0)

    time.time = bent


def main() -> int:
    part = sys.argv[1]
    if len(sys.argv) > 2:
        bend_clock(Path(sys.argv[2]))
    if part == "engine":
        from edgegen.jobs.worker import main as engine

        return engine()
    from edgegen.daemon import run_front
    from edgegen.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return run_front(Settings.model_validate_json(sys.stdin.buffer.readline()), with_engine=False)


if __name__ == "__main__":
    sys.exit(main())
