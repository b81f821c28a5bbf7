"""PyTorch -> ONNX, one graph at a time, and the proof that both compute the same.

The tracing exporter is used, not `dynamo=True`: on the same UNet it takes seconds where the other takes
minutes, keeps the module path of every layer in the node's name (what `--keep-float` and the reports
speak of), and ONNX Runtime makes the same kernels of both. Attention is one node either way, see
`attention`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from torch import nn
from torch.onnx import symbolic_helper

from edgegen.errors import EdgegenError

from .freeing import give_back
from .graphs import annotate_types, load_graph, save_graph
from .metrics import relative_error
from .rules.tune import tune
from .runner import open_session
from .source import Source
from .specs import SPECS, GraphSpec

OPSET = 18
PARITY = 1e-4
# (batch, share of the native side): traced and compared small, once compared at full size
SHAPES = ((2, (1, 2)), (1, (1, 1)), (3, (1, 4)))


class ExportError(EdgegenError, RuntimeError):
    """The exported graph does not compute what the checkpoint computes."""

    code = "bad_export"
    exit_code = 5


def export(source: Source, role: str, path: Path, without_rules: Collection[str] = ()) -> float:
    """Export one role in float32, check it, and compare it with torch at three shapes.

    Args:
        path: the .onnx to write; its folder is made, its weights go beside it.
        without_rules: names of rewrites to leave out.
    Returns:
        The largest relative error found, at most 1e-4.
    Raises:
        ExportError: the graph is invalid, or computes something else than torch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return export_spec(SPECS[role](source), path, without_rules)


def export_spec(spec: GraphSpec, path: Path, without_rules: Collection[str] = ()) -> float:
    """As `export`, of a part that is loaded already; its weights are freed."""
    runs = [spec.examples(*which) for which in SHAPES]
    later = answers(spec, runs[1:])
    try:
        wanted = [trace(spec, runs[0], path), *later]
        spec = replace(spec, module=nn.Identity())  # the weights are on disk now: once in memory is enough
        tidy(path, without_rules)
        onnx.checker.check_model(str(path))
        return worst_error(spec, runs, wanted, path)
    except onnx.checker.ValidationError as err:
        raise ExportError(f"{spec.role}: the exported graph is not valid ONNX: {err}") from err
    finally:
        del spec
        give_back()


def trace(spec: GraphSpec, example: tuple[torch.Tensor, ...], path: Path) -> tuple[torch.Tensor, ...]:
    """Write the graph as traced, weights beside it; what torch made of the example meanwhile."""
    torch.onnx.register_custom_op_symbolic("aten::movedim", _movedim, OPSET)
    made: list[Any] = []
    keeping = spec.module.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of every Python branch; parity at 3 shapes is the proof
        torch.onnx.export(
            spec.module,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_axes=spec.axes,
        )
    keeping.remove()
    return _as_tuple(made[0])


def _movedim(g: Any, x: Any, source: Any, destination: Any) -> Any:
    """Transpose; the exporter's own version passes negative axes on, which ONNX forbids."""
    rank = symbolic_helper._get_tensor_rank(x)
    if rank is None:
        raise ExportError("movedim of a tensor whose rank is not known cannot be exported")
    src, dst = (_axes_of(value, rank) for value in (source, destination))
    rest = iter([axis for axis in range(rank) if axis not in src])
    return g.op("Transpose", x, perm_i=[src[dst.index(i)] if i in dst else next(rest) for i in range(rank)])


def _axes_of(value: Any, rank: int) -> list[int]:
    constant = symbolic_helper._maybe_get_const(value, "t")
    return [int(axis) % rank for axis in torch.atleast_1d(torch.as_tensor(constant))]


def tidy(path: Path, without_rules: Collection[str] = ()) -> dict[str, int]:
    """Fold constants, apply the rules, annotate types, and store the weights aligned in one file.

    Returns:
        Rule -> how often it fired, for those that did.
    """
    traced = path.parent / "traced"
    traced.mkdir()
    for file in [p for p in path.parent.iterdir() if p.is_file()]:
        file.rename(traced / file.name)
    model = onnx_ir.load(traced / path.name)
    fired = tune(model, without_rules)
    proto = onnx_ir.serde.serialize_model(model)
    del model
    save_graph(proto, path, traced, consume=True)
    del proto
    shutil.rmtree(traced)
    annotated = annotate_types(load_graph(path, weights=False))
    path.write_bytes(annotated.SerializeToString())
    return fired


def answers(spec: GraphSpec, runs: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    """What torch makes of every run."""
    with torch.no_grad():
        return [_as_tuple(spec.module(*run)) for run in runs]


def _as_tuple(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def compare(spec: GraphSpec, runs: list[tuple[torch.Tensor, ...]], path: Path) -> float:
    """Largest relative error of the graph in ONNX Runtime against torch over all runs."""
    return worst_error(spec, runs, answers(spec, runs), path)


def worst_error(
    spec: GraphSpec,
    runs: list[tuple[torch.Tensor, ...]],
    wanted: list[tuple[torch.Tensor, ...]],
    path: Path,
) -> float:
    """Largest relative error of the graph in ONNX Runtime against given answers.

    Raises:
        ExportError: it is beyond `PARITY`.
    """
    session = open_session(path)
    worst = 0.0
    for run, answer in zip(runs, wanted, strict=True):
        feeds = {name: tensor.numpy() for name, tensor in zip(spec.inputs, run, strict=True)}
        for name, want, got in zip(spec.outputs, answer, session.run(list(spec.outputs), feeds), strict=True):
            error = relative_error(np.asarray(want), got)
            worst = max(worst, error)
            if not error <= PARITY:
                shapes = ", ".join(str(tuple(t.shape)) for t in run)
                raise ExportError(
                    f"{spec.role}: {name} differs from torch by {error:.2e} at {shapes}; at most {PARITY}"
                )
    return worst
