"""Attention's scores are never whole in memory: 4096 tokens look at 4096 tokens in far fewer bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from test_rules import Function, linears, traced

from edgegen.pack import Pack
from quantize.graphs import load_graph, op_counts
from quantize.rules.tune import tune

TOKENS, HEADS = 4096, 4
SCORES_MB = HEADS * TOKENS * TOKENS * 4 / 1e6  # 268

RUN = """
import sys
import numpy as np
import onnxruntime as ort

def peak_mb():
    rows = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(rows["VmHWM"].split()[0]) * 1024 / 1e6

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = [tuple(map(int, shape.split("x"))) for shape in sys.argv[2:]]
feeds = {i.name: np.ones(shape, np.float32) for i, shape in zip(session.get_inputs(), shapes, strict=True)}
before = peak_mb()
session.run(None, feeds)
print(peak_mb() - before)
"""


def peak_mb(graph: Path, *shapes: str) -> float:
    """What a run adds to the process's peak memory."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(graph), *shapes],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return float(done.stdout)


def attention(
    to_q: torch.nn.Module, to_k: torch.nn.Module, to_v: torch.nn.Module, x: torch.Tensor
) -> torch.Tensor:
    q, k, v = (f(x).view(len(x), -1, HEADS, 8).transpose(1, 2) for f in (to_q, to_k, to_v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(len(x), -1, HEADS * 8)


def test_one_node_attention_in_float(tmp_path: Path):
    width = HEADS * 8
    spelled_out = traced(Function(attention, *linears(*[(width, width)] * 3)), (torch.randn(1, 16, width),))
    model = ir.from_proto(spelled_out)
    assert tune(model)["one-node-attention"] == 1
    onnx.save(spelled_out, tmp_path / "before.onnx")
    onnx.save(ir.to_proto(model), tmp_path / "after.onnx")
    shape = f"1x{TOKENS}x{width}"
    assert peak_mb(tmp_path / "before.onnx", shape) > SCORES_MB  # the measure sees them
    assert peak_mb(tmp_path / "after.onnx", shape) < SCORES_MB / 8


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_denoiser_of_a_pack(packs: dict[str, Pack], precision: str):
    """Its attention works on half the sides: 2 heads, 64x64 places each."""
    graph = packs[precision].graph("unet")
    assert "Softmax" not in op_counts(load_graph(graph, weights=False))
    assert peak_mb(graph, "1x4x128x128", "1", "1x16x16") < 2 * TOKENS * TOKENS * 4 / 1e6 / 2
