"""The gated linear unit by our operator beside ONNX Runtime's nodes, at Stable Diffusion's sizes; medians.

python -m bench.geglu [--threads 2] [--rounds 15]

`other bytes`: the share of the result's bytes that differ, all by one level. Needs `onnx`, as tests do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from edgegen.engine.providers import choose_provider
from edgegen.engine.session import GraphSession, open_session
from tests.gatedunits import Unit, bytes_of

SIZES = [  # rows, depth, width, where it is
    (4096, 320, 1280, "SD 1.x, 64x64"),
    (1024, 640, 2560, "SD 1.x, 32x32"),
    (256, 1280, 5120, "SD 1.x, 16x16"),
    (64, 1280, 5120, "SD 1.x, 8x8"),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--rounds", type=int, default=15, help="of each (default 15)")
    args = parser.parse_args()
    if choose_provider("cpu").operators is None:
        raise SystemExit("no operators of our own here: they were not built, or the processor has no VNNI")
    print("| rows | depth | width | where, at 512x512 | ms | ONNX Runtime's | ratio | other bytes |")
    print("|---|---|---|---|---:|---:|---:|---:|")
    for rows, depth, width, where in SIZES:
        feeds = bytes_of(rows, depth)
        own, stock = (session_of(Unit(depth, width), args.threads, way) for way in ("auto", "runtime"))
        seconds: dict[GraphSession, list[float]] = {own: [], stock: []}
        for _ in range(args.rounds):
            for session, times in seconds.items():
                began = time.perf_counter()
                session.run(feeds)
                times.append(time.perf_counter() - began)
        ms, theirs = (1000 * median(times) for times in seconds.values())
        share = other_bytes(own.run(feeds)["out"], stock.run(feeds)["out"])
        told = f"{ms:.2f} | {theirs:.2f} | {ms / theirs:.2f} | {share:.0e}"
        print(f"| {rows} | {depth} | {width} | {where} | {told} |")


def session_of(unit: Unit, threads: int, operators: str) -> GraphSession:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(unit.model(), path)
        return open_session(path, choose_provider("cpu", operators=operators), threads, "unit")


def other_bytes(got: np.ndarray, want: np.ndarray) -> float:
    """Raises ValueError when one is off by more than a level."""
    off = np.abs(got.astype(int) - want)
    if off.max() > 1:
        raise ValueError(f"a byte is off by {off.max()} levels")
    return float((off != 0).mean())


if __name__ == "__main__":
    main()
