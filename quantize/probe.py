"""A graph that can round any of its layers, and what that does to its result.

A layer's input is moved towards its 8-bit rounding, as far as makes the noise of its input, weights and
result together. One run tries many sets of layers, each in its own place of the batch. Up to the first layer
that any of them rounds all places are the same: there the batch is one, and grows at the next cut
(`probecuts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .graphs import load_graph
from .layerrounding import LayerRounding
from .probecuts import Cut, choose_cuts, segment_of
from .runner import Feeds, open_session

BATCH = 16  # sets of layers tried in one run
_FILE = "probe.onnx"
_AMOUNTS = "judge/amounts"
_SIZES = "judge/sizes"
_ROWS = "judge/rows"


class Probe:
    """A float graph, ready to be run with some of its layers rounded.

    Args:
        roundings: of its layers; sets of layers are told by their places in this.
        feeds: inputs to judge by.
    Attributes:
        sizes: how many values each layer gave in one run.
        runs: places of batches that were run, the float graph's own included.
    """

    def __init__(self, graph: Path, roundings: Sequence[LayerRounding], feeds: Sequence[Feeds]):
        self._roundings, self._feeds = roundings, feeds
        path, model = graph.with_name(_FILE), load_graph(graph, weights=False)
        names = [rounding.name for rounding in roundings]
        cuts = choose_cuts(model, feeds[0], names, BATCH) if feeds else []
        places = {node.name: place for place, node in enumerate(model.graph.node)}
        self._segments = np.array([segment_of(cuts, places[name]) for name in names], np.int64)
        self._parts = np.arange(len(cuts) + 1)
        path.write_bytes(probe_graph(model, roundings, cuts).SerializeToString())
        try:
            self._session = open_session(path)
        finally:
            path.unlink()
        self.runs = 0
        alone = [self._run(feed, [()]) for feed in feeds]
        self._references = [output[0].astype(np.float64) for output, _ in alone]
        self.sizes: list[int] = alone[-1][1].tolist() if alone else [0] * len(roundings)

    def noises(self, sets: Sequence[Sequence[int]]) -> np.ndarray:
        """Of each set of layers rounded together: energy of the difference over energy of the result."""
        noise = np.zeros(len(sets))
        for feed, reference in zip(self._feeds, self._references, strict=True):
            for start in range(0, len(sets), BATCH):
                moved, _ = self._run(feed, sets[start : start + BATCH])
                noise[start : start + BATCH] += [float(np.square(row - reference).sum()) for row in moved]
        signal = sum(float(np.square(reference).sum()) for reference in self._references)
        return noise / signal if signal > 0 else np.zeros(len(sets))

    def _run(self, feed: Feeds, sets: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The first output, (sets, ...), of one input with each set rounded; the layers' sizes."""
        amounts = np.zeros((len(sets), len(self._roundings)), np.float32)
        for place, members in enumerate(sets):
            for i in members:
                amounts[place, i] = self._roundings[i].amount
        rounded = [self._segments[i] for members in sets for i in members]
        rows = np.where(self._parts < min(rounded, default=0), 1, len(sets)).astype(np.int64)
        inputs, first = self._session.get_inputs(), self._session.get_outputs()[0].name
        batched = {i.name for i in inputs if i.shape and isinstance(i.shape[0], str)}
        repeated = {
            name: np.repeat(value[:1], rows[0], axis=0) if name in batched else value
            for name, value in feed.items()
        }
        self.runs += len(sets)
        output, sizes = self._session.run([first, _SIZES], {**repeated, _AMOUNTS: amounts, _ROWS: rows})
        return output, sizes


def probe_graph(
    model: ModelProto, roundings: Sequence[LayerRounding], cuts: Sequence[Cut] = ()
) -> ModelProto:
    """The graph that can move each layer's input towards its rounding.

    It has two more inputs, (batch, layers) float32: how far, and (cuts + 1,) int64: the rows of every part of
    the graph, one up to some part and the batch from there on; and one more output, (layers,) int64: how many
    values each layer gave.
    """
    places = {r.name: (i, r) for i, r in enumerate(roundings)}
    by_place = {cut.place: (part, cut) for part, cut in enumerate(cuts, start=1)}
    nodes, part, called = list(_beginning(0)), 0, dict[str, str]()
    rounded: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if place in by_place:
            part, cut = by_place[place]
            nodes += [*_beginning(part), *_grown(cut, part, called)]
            called |= {name: _in_part(name, part) for name, _ in cut.crossing}
        source = node.input[0] if node.input else ""
        for i, name in enumerate(node.input):
            node.input[i] = called.get(name, name)
        if node.name in places:
            i, rounding = places[node.name]
            if source not in rounded:
                nodes += _error_of(model, rounding, node.input[0])
                rounded.add(source)
            nodes += _moved(model, node, i, source, part)
        nodes.append(node)
    _forget_free_sides(model)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *_counting(roundings)])
    model.graph.output.append(helper.make_tensor_value_info(_SIZES, TensorProto.INT64, [len(roundings)]))
    constants = [("judge/one", [1]), ("judge/row", [1, -1]), ("judge/flat", [-1]), ("judge/zero", [0])]
    constants += [(_number(part), [part]) for part in range(len(cuts) + 1)]
    constants += [(_ones(rank), [1] * (rank - 1)) for rank in {rank for c in cuts for _, rank in c.crossing}]
    for name, value in constants:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.input.append(
        helper.make_tensor_value_info(_AMOUNTS, TensorProto.FLOAT, ["judge/batch", len(roundings)])
    )
    model.graph.input.append(helper.make_tensor_value_info(_ROWS, TensorProto.INT64, [len(cuts) + 1]))
    return model


def _forget_free_sides(model: ModelProto) -> None:
    """Names of sides that runs choose: ONNX Runtime takes sides of one name to be equal, in all parts."""
    for value in [*model.graph.value_info, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")


def _number(part: int) -> str:
    return f"judge/number{part}"


def _ones(rank: int) -> str:
    return f"judge/ones{rank}"


def _in_part(name: str, part: int) -> str:
    """What a value that crossed a cut is called behind it."""
    return f"{name}/judge{part}"


def _beginning(part: int) -> Iterator[NodeProto]:
    """The rows of a part, and the amounts of as many places."""
    rows, amounts = f"{_ROWS}/{part}", f"{_AMOUNTS}/{part}"
    yield helper.make_node("Gather", [_ROWS, _number(part)], [rows], rows)
    yield helper.make_node("Slice", [_AMOUNTS, "judge/zero", rows, "judge/zero"], [amounts], amounts)


def _grown(cut: Cut, part: int, called: Mapping[str, str]) -> Iterator[NodeProto]:
    """All that crosses a cut, with the rows of the part behind it."""
    for rank in sorted({rank for _, rank in cut.crossing}):
        shape = f"{_ROWS}/{part}/{rank}"
        yield helper.make_node("Concat", [f"{_ROWS}/{part}", _ones(rank)], [shape], shape, axis=0)
    for name, rank in cut.crossing:
        grown, shape = _in_part(name, part), f"{_ROWS}/{part}/{rank}"
        yield helper.make_node("Expand", [called.get(name, name), shape], [grown], grown)


def _counting(roundings: Sequence[LayerRounding]) -> Iterator[NodeProto]:
    """The sizes of all layers' results, in one tensor."""
    sizes = [f"judge/{i}/size" for i in range(len(roundings))]
    for r, size in zip(roundings, sizes, strict=True):
        yield helper.make_node("Size", [r.result], [f"{size}/scalar"], f"{size}/scalar")
        yield helper.make_node("Reshape", [f"{size}/scalar", "judge/flat"], [size], size)
    yield helper.make_node("Concat", sizes, [_SIZES], _SIZES, axis=0)


def _error_of(model: ModelProto, r: LayerRounding, source: str) -> Iterator[NodeProto]:
    """DequantizeLinear(QuantizeLinear(x)) - x, of the layer's input as it is called where first read."""
    scale = max((r.high - r.low) / 255, 1e-12)
    zero = int(np.clip(round(-r.low / scale), 0, 255))
    scale_name, zero_name = f"{r.input}/judge_scale", f"{r.input}/judge_zero"
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), scale_name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), zero_name))
    names = [f"{r.input}/judge_{part}" for part in ("bits", "rounded", "error")]
    yield helper.make_node("QuantizeLinear", [source, scale_name, zero_name], [names[0]], names[0])
    yield helper.make_node("DequantizeLinear", [names[0], scale_name, zero_name], [names[1]], names[1])
    yield helper.make_node("Sub", [names[1], source], [names[2]], names[2])


def _moved(model: ModelProto, node: NodeProto, i: int, source: str, part: int) -> Iterator[NodeProto]:
    """x + amount * error; where rows and batch are one axis, each place of the batch has many rows.

    Args:
        source: what the layer's input was called before any cut; its error is called after that.
        part: of the graph, in which the layer is.
    """
    amounts, given = f"{_AMOUNTS}/{part}", node.input[0]
    index = f"judge/{i}/index"
    model.graph.initializer.append(numpy_helper.from_array(np.array([i], np.int64), index))

    def step(op: str, inputs: Sequence[str], out: str, **attributes: object) -> NodeProto:
        return helper.make_node(op, list(inputs), [f"judge/{i}/{out}"], f"judge/{i}/{out}", **attributes)

    here = f"judge/{i}"
    yield step("Gather", [amounts, index], "amounts", axis=1)  # (batch, 1)
    yield step("Shape", [given], "first", start=0, end=1)
    yield step("Shape", [amounts], "batch", start=0, end=1)
    yield step("Div", [f"{here}/first", f"{here}/batch"], "repeats")
    yield step("Concat", [f"{here}/batch", f"{here}/repeats"], "table", axis=0)
    yield step("Expand", [f"{here}/amounts", f"{here}/table"], "repeated")
    yield step("Shape", [given], "rest", start=1)
    yield step("Shape", [f"{here}/rest"], "dims")
    ones = numpy_helper.from_array(np.array([1], np.int64))
    yield step("ConstantOfShape", [f"{here}/dims"], "ones", value=ones)
    yield step("Concat", ["judge/flat", f"{here}/ones"], "shape", axis=0)
    yield step("Reshape", [f"{here}/repeated", f"{here}/shape"], "factor")
    yield step("Mul", [f"{source}/judge_error", f"{here}/factor"], "move")
    yield step("Add", [given, f"{here}/move"], "moved")
    node.input[0] = f"{here}/moved"
