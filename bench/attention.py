"""Attention by our operator beside ONNX Runtime's, at Stable Diffusion's sizes at 512x512, in turns; medians.

python bench/attention.py [--threads 2] [--rounds 9] [--kind avx2]

Errors are relative to attention in float64 (root of the mean square). Needs `onnx`, as tests do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.engine.operators.library import choose_kind
from edgegen.engine.providers import choose_provider
from edgegen.engine.session import open_session

SIZES = [  # queries, keys, heads, depth of a head, what it is
    (4096, 4096, 8, 40, "SD 1.x, 64x64, itself"),
    (4096, 77, 8, 40, "SD 1.x, 64x64, words"),
    (1024, 1024, 8, 80, "SD 1.x, 32x32, itself"),
    (1024, 77, 8, 80, "SD 1.x, 32x32, words"),
    (256, 256, 8, 160, "SD 1.x, 16x16, itself"),
    (64, 64, 8, 160, "SD 1.x, 8x8, itself"),
    (1024, 1024, 10, 64, "SDXL, 32x32, itself"),
    (4096, 4096, 1, 512, "KL decoder, itself"),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--rounds", type=int, default=9, help="of each (default 9)")
    parser.add_argument("--kind", default="", help="instructions to take; default: the best there are")
    args = parser.parse_args()
    library = choose_provider("cpu").operators
    if library is None:
        raise SystemExit("no operator of our own here: it was not built, or the processor has no VNNI")
    print(f"instructions: {choose_kind(library, args.kind) or 'not to be had here: ' + args.kind}")
    print("| queries | keys | heads x depth | what | ms | ONNX Runtime's | ratio | error |")
    print("|---|---|---|---|---:|---:|---:|---:|")
    for queries, keys, heads, depth, what in SIZES:
        feeds = drawn(queries, keys, heads * depth)
        ways = {way: runner(heads, heads * depth, args.threads, way, feeds) for way in ("auto", "runtime")}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - began)
        own, stock = (1000 * median(seconds[way]) for way in ways)
        error = relative_error(ways["auto"](), reference(feeds, heads))
        print(
            f"| {queries} | {keys} | {heads} x {depth} | {what} | {own:.2f} | {stock:.2f} | {own / stock:.2f}"
            f" | {error:.1e} |"
        )


def drawn(queries: int, keys: int, width: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {"q": queries, "k": keys, "v": keys}
    return {name: random.standard_normal((1, size, width), np.float32) for name, size in sizes.items()}


def runner(
    heads: int, width: int, threads: int, attention: str, feeds: dict[str, np.ndarray]
) -> Callable[[], np.ndarray]:
    """A session of nothing but attention."""
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=heads
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, None, width]) for n in "qkv"]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, None, width])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", values, out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        session = open_session(path, choose_provider("cpu", operators=attention), threads, "attention")
    return lambda: session.run(feeds)["out"]


def reference(feeds: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """In float64, head by head, a few queries at a time."""
    q, k, v = (np.stack(np.split(feeds[n][0].astype(np.float64), heads, -1)) for n in "qkv")
    parts = []
    for some in np.array_split(q, max(1, q.shape[1] // 256), axis=1):
        scores = some @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(weights / weights.sum(-1, keepdims=True) @ v)
    return np.concatenate(list(np.concatenate(parts, 1)), -1)[None]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


if __name__ == "__main__":
    main()
