"""An engine with a clock, for bench/latency.py: for each picture one JSON line on standard output.

`decoded`: when its pixels were there (CLOCK_MONOTONIC, the same for all processes); `graphs_s`: how long ONNX
Runtime worked for it; `dealings_s`: how long the daemon held it up between two steps; `drawn_s`: all of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.config.files import load_settings
from edgegen.engine.pipeline import Picture, TextToImage
from edgegen.engine.session import GraphSession
from edgegen.jobs.worker import run_engine

spent = {"graphs_s": 0.0, "dealings_s": 0.0}


def timed(run: Any) -> Any:
    def run_and_count(self: GraphSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        began = time.monotonic()
        result: dict[str, np.ndarray] = run(self, feeds)
        spent["graphs_s"] += time.monotonic() - began
        return result

    return run_and_count


def told(generate: Any) -> Any:
    def generate_and_tell(self: TextToImage, *asked: Any, **more: Any) -> Any:
        began = time.monotonic()
        spent.update(graphs_s=0.0, dealings_s=0.0)
        for part in generate(self, *asked, **more):
            if isinstance(part, Picture):
                decoded = time.monotonic()
                print(json.dumps({"decoded": decoded, "drawn_s": decoded - began, **spent}), flush=True)
            handed_over = time.monotonic()
            yield part
            spent["dealings_s"] += time.monotonic() - handed_over

    return generate_and_tell


if __name__ == "__main__":
    GraphSession.run = timed(GraphSession.run)  # type: ignore[method-assign]
    TextToImage.generate = told(TextToImage.generate)  # type: ignore[method-assign]
    sys.exit(run_engine(load_settings(Path(sys.argv[1]))))
