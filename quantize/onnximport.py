"""A graph that others exported, made one of ours: names and types as the pack's contract has them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .export import tidy
from .graphs import load_graph, save_graph
from .onnxfolder import HIDDEN, graph_problems, penultimate_output, read_skeleton
from .refusal import SourceError, raise_if
from .source import Source

TYPES = {"input_ids": TensorProto.INT64}  # all others are float32
_ROUNDED = (TensorProto.INT32, TensorProto.INT64)


def import_graph(source: Source, role: str, path: Path, without_rules: Collection[str] = ()) -> None:
    """Write the source's graph of a role as `path`, weights beside it.

    Raises:
        SourceError: it is missing, unfit, or its weights are not where they may be.
    """
    theirs = source.folder / role / "model.onnx"
    if not theirs.is_file():
        raise SourceError(f"{source.folder} has no {role}/model.onnx")
    raise_if(source.folder, graph_problems(role, read_skeleton(theirs), source.is_sdxl))
    path.parent.mkdir(parents=True, exist_ok=True)
    model = load_graph(theirs, weights=False)
    _choose_outputs(model, role, source.is_sdxl)
    _fit_inputs(model)
    try:
        save_graph(model, path, theirs.parent)  # refuses weights outside the graph's own folder
    except (onnx.checker.ValidationError, OSError, ValueError) as err:
        raise SourceError(f"{role}/model.onnx: its weights cannot be read: {err}") from None
    del model
    tidy(path, without_rules)


def _choose_outputs(model: ModelProto, role: str, is_sdxl: bool) -> None:
    """Of SDXL's encoders only what is read, the numbered states under their common name."""
    if not (is_sdxl and role.startswith("text_encoder")):
        return
    chosen = penultimate_output([output.name for output in model.graph.output])
    kept = {chosen, "text_embeds"} if role == "text_encoder_2" else {chosen}
    outputs = [output for output in model.graph.output if output.name in kept]
    outputs.sort(key=lambda output: output.name != chosen)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    if chosen and chosen != HIDDEN:
        _rename(model, chosen, HIDDEN)


def _rename(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in model.graph.output:
        value.name = new if value.name == old else value.name


def _fit_inputs(model: ModelProto) -> None:
    """Inputs of the contract's types; what the graph takes instead is made of them at its start."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    nodes = [node for value in inputs for node in _adapters(model, value)]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def _adapters(model: ModelProto, value: ValueInfoProto) -> list[NodeProto]:
    """Round and Cast to another type, Squeeze to a scalar timestep; none where the input fits."""
    kind, name = value.type.tensor_type, value.name
    wanted = TYPES.get(name, TensorProto.FLOAT)
    steps: list[tuple[str, dict[str, int]]] = []
    if name == "timestep" and not kind.shape.dim:
        steps.append(("Squeeze", {}))
        kind.shape.dim.add().dim_value = 1
    if kind.elem_type != wanted:
        rounds = kind.elem_type in _ROUNDED and wanted == TensorProto.FLOAT
        steps += [("Round", {})] if rounds else []
        steps.append(("Cast", {"to": kind.elem_type}))
        kind.elem_type = wanted
    if not steps:
        return []
    fitted = f"{name}_as_exported"
    for node in model.graph.node:
        node.input[:] = [fitted if given == name else given for given in node.input]
    names = [name, *(f"{name}_step_{i}" for i in range(1, len(steps))), fitted]
    return [
        helper.make_node(op, [names[i]], [names[i + 1]], f"{name}_{op.lower()}", **attributes)
        for i, (op, attributes) in enumerate(steps)
    ]
