"""The FP16 pack: half the bytes; the runtime contract and the arithmetic stay float32."""

from __future__ import annotations

from pathlib import Path

from .graphs import save_graph, weights_read_from
from .rewrites import stamp, weights_as_fp16


def convert_fp16(graph: Path, out: Path, version: str) -> list[Path]:
    """Store a float32 graph's weights as FP16.

    ONNX Runtime's x86 kernels compute in float32: the Casts are folded at load, so that speed and memory
    are those of float32 and only the files are smaller.

    Returns:
        The files written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out = out.absolute()
    with weights_read_from(graph) as model:
        weights_as_fp16(model)
        stamp(model, version)
        return save_graph(model, out)
