"""Where a graph may be cut so that what lies before runs once, and only what comes after for a whole batch.

The places of a probe's batch differ only from the first layer on that one of them rounds. A cut is a place in
the order of nodes where every value that is still to be read either has the batch as its first axis or does
not depend on it: there one row can be made many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from .graphs import LAYER_OPS, annotate_types, initializers
from .runner import Feeds

FEW, MANY = 2, 3  # rows, to see what grows with the batch; of one, shape inference knows less
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """A place before a node.

    Attributes:
        place: number of the node in graph order.
        crossing: values with a batch that are read from there on, and their ranks.
    """

    place: int
    crossing: tuple[tuple[str, int], ...]


def choose_cuts(model: ModelProto, feed: Feeds, layers: Sequence[str], every: int) -> list[Cut]:
    """A cut as near as possible before every so many layers; fewer where the graph has none.

    Args:
        model: with types annotated.
        feed: inputs, by which shapes are told.
        layers: names of nodes in graph order.
    """
    wanted = set(layers[every::every])
    possible, found, last = list(_cuts(model, feed)), list[Cut](), 0
    for place, node in enumerate(model.graph.node):
        if node.name in wanted:
            before = [cut for cut in possible if last < cut.place <= place]
            found += before[-1:]
            last = before[-1].place if before else last
    return found


def _cuts(model: ModelProto, feed: Feeds) -> Iterator[Cut]:
    """All that are possible, in graph order."""
    ranks = _ranks_with_batch(model, feed)
    readers = _last_readers(model)
    weights = initializers(model)
    alive = {i.name for i in model.graph.input if i.name not in weights}
    for place, node in enumerate(model.graph.node):
        alive = {name for name in alive if readers.get(name, -1) >= place}
        if place and all(name in ranks for name in alive):
            crossing = sorted((name, ranks[name]) for name in alive if ranks[name])
            yield Cut(place, tuple(crossing))
        alive.update(name for name in node.output if name)


def _last_readers(model: ModelProto) -> dict[str, int]:
    """Value -> place of the last node that reads it; the graph itself reads its first output at the end."""
    found = {name: place for place, node in enumerate(model.graph.node) for name in node.input}
    return found | {model.graph.output[0].name: len(model.graph.node)}


def _ranks_with_batch(model: ModelProto, feed: Feeds) -> dict[str, int]:
    """Rank of every value whose first axis is the batch, 0 for floats without one; others are left out.

    Whole numbers without a batch may be a shape that holds it. The graph's outputs are left out too: they
    cannot be called otherwise.
    """
    few, many = _sized(model, feed, FEW), _sized(model, feed, MANY)
    floats = {name for name, (is_float, _) in few.items() if is_float}
    outputs = {output.name for output in model.graph.output}
    found = {}
    for name in few.keys() & many.keys() - outputs:
        less, more = few[name][1], many[name][1]
        if less == more and name in floats:
            found[name] = 0
        elif less[:1] == (FEW,) and more == (MANY, *less[1:]):
            found[name] = len(less)
    return found


def _sized(model: ModelProto, feed: Feeds, batch: int) -> dict[str, tuple[bool, Shape]]:
    """Whether they are floats, and shapes, of all values, as far as they follow from those of the inputs."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        dims = value.type.tensor_type.shape.dim
        sides = feed[value.name].shape if value.name in feed else ()
        for axis, (dim, side) in enumerate(zip(dims, sides, strict=False)):
            dim.dim_value = batch if axis == 0 and dim.dim_param else side
    known = _known_shapes(sized)
    told = {name: shape for name, (_, shape) in known.items()}
    return _known_shapes(sized) if _spell_out_expansions(sized, told) else known


def _known_shapes(model: ModelProto) -> dict[str, tuple[bool, Shape]]:
    graph = annotate_types(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = ((value.name, value.type, _shape(value.type)) for value in values)
    return {
        name: (kind.tensor_type.elem_type == TensorProto.FLOAT, shape)
        for name, kind, shape in shapes
        if shape is not None
    }


def _spell_out_expansions(model: ModelProto, known: Mapping[str, Shape]) -> int:
    """Make constants of shapes that Expand is told and ONNX's inference did not follow; how many."""
    weights, found = initializers(model), 0
    by_output = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Expand" and node.output[0] not in known and node.input[1] not in weights:
            shape = _computed(node.input[1], by_output, weights, known)
            if shape is not None:
                name = f"{node.output[0]}/judge_shape"
                model.graph.initializer.append(numpy_helper.from_array(shape, name))
                node.input[1], found = name, found + 1
    return found


def _computed(
    name: str,
    by_output: Mapping[str, NodeProto],
    weights: Mapping[str, TensorProto],
    known: Mapping[str, Shape],
) -> np.ndarray | None:
    """A value that follows from shapes and constants alone; None where it does not."""
    if name in weights:
        is_here = not uses_external_data(weights[name])
        return numpy_helper.to_array(weights[name]) if is_here else None
    node = by_output.get(name)
    if node is None or node.op_type in LAYER_OPS:
        return None
    if node.op_type == "Shape":
        full = node.input[0] in known and not node.attribute
        return np.array(known[node.input[0]], np.int64) if full else None
    inputs = {part: _computed(part, by_output, weights, known) for part in node.input}
    if any(value is None for value in inputs.values()):
        return None
    result: np.ndarray = ReferenceEvaluator(node).run(None, inputs)[0]
    return result


def _shape(kind: TypeProto) -> Shape | None:
    """None of what has a side that is not known."""
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def segment_of(cuts: Sequence[Cut], place: int) -> int:
    """Number of the part of the graph that a node lies in: 0 before the first cut."""
    return sum(cut.place <= place for cut in cuts)
