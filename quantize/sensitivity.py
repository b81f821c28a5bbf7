"""Which layers 8 bits hurt: how much of the noise in a graph's result comes of rounding each one alone.

What 8 bits do inside a layer follows from its weights and from what it was seen to be given. What that does
to the result is measured: the layer's input is moved towards its 8-bit rounding, as far as makes the noise
of its input, weights and result together. One run judges many layers, each in its own place of the batch.

Noise of different layers is nearly independent, so powers add: the sum over layers predicts the noise of
all (`floatchoice` builds on that).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import TensorsData

from .calibrate import Records
from .graphs import initializers, load_graph, weight_name
from .int8 import Int8Format
from .metrics import ratio_db
from .observe import Observations
from .runner import Feeds, open_session

_PROBE = "probe.onnx"
_AMOUNTS = "judge/amounts"
_SIZES = "judge/sizes"
BATCH = 16  # layers judged in one run
CROP = {"vae_encoder": 256}
CROP_LATENTS = 32
HINT = "controlnet_cond"


@dataclass(frozen=True)
class LayerNoise:
    """What 8 bits in one layer alone do to the graph's first output.

    Attributes:
        noise: energy of the difference over energy of the float output.
        weight_bytes: of the float32 weight.
        macs: multiply-adds of one run, of inputs as they were cropped; only ratios count.
    """

    name: str
    noise: float
    weight_bytes: int
    macs: int

    @property
    def sqnr_db(self) -> float:
        return ratio_db(1.0, self.noise)


@dataclass(frozen=True)
class LayerRounding:
    """A layer's own errors.

    Attributes:
        input: tensor that will be rounded.
        low, high: the range its 8 bits cover.
        amount: times the input's rounding error, the noise of input, weights and result together.
        result: tensor that the layer gives.
        outputs: of the weight: channels or columns.
    """

    name: str
    input: str
    low: float
    high: float
    amount: float
    weight_bytes: int
    result: str
    outputs: int

    def macs(self, values: int) -> int:
        """Multiply-adds for a result of so many values."""
        return values // self.outputs * (self.weight_bytes // 4)


def layer_roundings(
    graph: Path, seen: Observations, ranges: TensorsData, number_format: Int8Format
) -> list[LayerRounding]:
    """Every layer with weights, in graph order; one weight at a time is in memory."""
    model = load_graph(graph, weights=False)
    weights = initializers(model)
    found = []
    for node in model.graph.node:
        name = weight_name(node, weights)
        if name and node.input[0] in seen.histograms:
            matrix = _output_rows(node, numpy_helper.to_array(weights[name], str(graph.parent)))
            found.append(_rounding_of(node, matrix, seen, ranges, number_format))
    return found


def _output_rows(node: NodeProto, weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs) of a Conv's, MatMul's or Gemm's weight."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    if node.op_type == "Conv" or (node.op_type == "Gemm" and transposed):
        return weight.reshape(len(weight), -1)
    return weight.reshape(-1, weight.shape[-1]).T


def _rounding_of(
    node: NodeProto, rows: np.ndarray, seen: Observations, ranges: TensorsData, number_format: Int8Format
) -> LayerRounding:
    source, result = node.input[0], node.output[0]
    low, high = (float(v) for v in ranges[source].range_value)
    low, high = min(low, 0.0), max(high, 0.0)
    given = seen.histograms[source]
    largest = 63 if number_format.seven_bit_weights else 127
    steps = np.abs(rows).max(axis=1, keepdims=True) / largest
    steps[steps == 0] = 1
    lost = float(np.square(rows - np.rint(rows / steps) * steps).sum(axis=1).mean())
    of_input = given.rounding_error(low, high) * float(np.square(rows).sum(axis=1).mean())
    others = lost * given.mean_square()
    if node.op_type == "Conv" and result in seen.histograms:
        others += seen.histograms[result].rounding_error(*(float(v) for v in ranges[result].range_value))
    amount = float(np.sqrt(1 + others / of_input)) if of_input > 0 else 0.0
    return LayerRounding(node.name, source, low, high, amount, rows.nbytes, result, len(rows))


def layer_noises(
    graph: Path,
    seen: Observations,
    ranges: TensorsData,
    records: Records,
    number_format: Int8Format,
    crop: int = CROP_LATENTS,
) -> list[LayerNoise]:
    """Noise of every layer with weights, loudest first.

    Args:
        graph: float, with annotated types.
        records: inputs to judge by.
        crop: sides to cut pictures and latents to, in elements.
    """
    roundings = layer_roundings(graph, seen, ranges, number_format)
    probe = graph.with_name(_PROBE)
    probe.write_bytes(probe_graph(load_graph(graph, weights=False), roundings).SerializeToString())
    try:
        energies, sizes = _energies(probe, roundings, [cropped(feed, crop) for feed in records])
    finally:
        probe.unlink(missing_ok=True)
    judged = zip(roundings, energies, sizes, strict=True)
    found = [LayerNoise(r.name, e, r.weight_bytes, r.macs(size)) for r, e, size in judged]
    return sorted(found, key=lambda layer: -layer.noise)


def cropped(feeds: Feeds, side: int) -> Feeds:
    """The middle of every picture or latents, (batch, channels, side, side) at most; of a hint as much as
    belongs to that."""
    latents = feeds.get("sample")
    found = {}
    for name, value in feeds.items():
        scale = value.shape[2] // latents.shape[2] if name == HINT and latents is not None else 1
        found[name] = _middle(value, side * scale) if value.ndim == 4 else value
    return found


def _middle(value: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(0, (size - side) // 2) for size in value.shape[2:])
    return value[:, :, top : top + side, left : left + side]


def probe_graph(model: ModelProto, roundings: Sequence[LayerRounding]) -> ModelProto:
    """The graph that can move each layer's input towards its rounding.

    It has one more input, (batch, layers) float32: how far; and one more output, (layers,) int64: how many
    values each layer gave.
    """
    places = {r.name: (i, r) for i, r in enumerate(roundings)}
    nodes: list[NodeProto] = []
    rounded: set[str] = set()
    for node in model.graph.node:
        if node.name in places:
            i, rounding = places[node.name]
            if rounding.input not in rounded:
                nodes += _error_of(model, rounding)
                rounded.add(rounding.input)
            nodes += _moved(model, node, i, rounding.input)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *_counting(roundings)])
    model.graph.output.append(helper.make_tensor_value_info(_SIZES, TensorProto.INT64, [len(roundings)]))
    for name, value in (("judge/one", [1]), ("judge/row", [1, -1]), ("judge/flat", [-1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.input.append(
        helper.make_tensor_value_info(_AMOUNTS, TensorProto.FLOAT, ["batch", len(roundings)])
    )
    return model


def _counting(roundings: Sequence[LayerRounding]) -> Iterator[NodeProto]:
    """The sizes of all layers' results, in one tensor."""
    sizes = [f"judge/{i}/size" for i in range(len(roundings))]
    for r, size in zip(roundings, sizes, strict=True):
        yield helper.make_node("Size", [r.result], [f"{size}/scalar"], f"{size}/scalar")
        yield helper.make_node("Reshape", [f"{size}/scalar", "judge/flat"], [size], size)
    yield helper.make_node("Concat", sizes, [_SIZES], _SIZES, axis=0)


def _error_of(model: ModelProto, r: LayerRounding) -> Iterator[NodeProto]:
    """DequantizeLinear(QuantizeLinear(x)) - x."""
    scale = max((r.high - r.low) / 255, 1e-12)
    zero = int(np.clip(round(-r.low / scale), 0, 255))
    scale_name, zero_name = f"{r.input}/judge_scale", f"{r.input}/judge_zero"
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), scale_name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), zero_name))
    names = [f"{r.input}/judge_{part}" for part in ("bits", "rounded", "error")]
    yield helper.make_node("QuantizeLinear", [r.input, scale_name, zero_name], [names[0]], names[0])
    yield helper.make_node("DequantizeLinear", [names[0], scale_name, zero_name], [names[1]], names[1])
    yield helper.make_node("Sub", [names[1], r.input], [names[2]], names[2])


def _moved(model: ModelProto, node: NodeProto, i: int, source: str) -> Iterator[NodeProto]:
    """x + amount * error; where rows and batch are one axis, each place of the batch has many rows."""
    index = f"judge/{i}/index"
    model.graph.initializer.append(numpy_helper.from_array(np.array([i], np.int64), index))

    def step(op: str, inputs: Sequence[str], out: str, **attributes: object) -> NodeProto:
        return helper.make_node(op, list(inputs), [f"judge/{i}/{out}"], f"judge/{i}/{out}", **attributes)

    here = f"judge/{i}"
    yield step("Gather", [_AMOUNTS, index], "amounts", axis=1)  # (batch, 1)
    yield step("Shape", [source], "first", start=0, end=1)
    yield step("Shape", [_AMOUNTS], "batch", start=0, end=1)
    yield step("Div", [f"{here}/first", f"{here}/batch"], "repeats")
    yield step("Concat", [f"{here}/batch", f"{here}/repeats"], "table", axis=0)
    yield step("Expand", [f"{here}/amounts", f"{here}/table"], "repeated")
    yield step("Shape", [source], "rest", start=1)
    yield step("Shape", [f"{here}/rest"], "dims")
    ones = numpy_helper.from_array(np.array([1], np.int64))
    yield step("ConstantOfShape", [f"{here}/dims"], "ones", value=ones)
    yield step("Concat", ["judge/flat", f"{here}/ones"], "shape", axis=0)
    yield step("Reshape", [f"{here}/repeated", f"{here}/shape"], "factor")
    yield step("Mul", [f"{source}/judge_error", f"{here}/factor"], "move")
    yield step("Add", [source, f"{here}/move"], "moved")
    node.input[0] = f"{here}/moved"


def _energies(
    probe: Path, roundings: Sequence[LayerRounding], feeds: Sequence[Feeds]
) -> tuple[list[float], list[int]]:
    """Of each layer the noise ratio, and how many values it gave in one run."""
    session = open_session(probe)
    noise, signal, sizes = np.zeros(len(roundings)), 0.0, np.zeros(len(roundings), np.int64)
    for feed in feeds:
        output, sizes = _run(session, feed, np.zeros((1, len(roundings)), np.float32))
        reference = output[0].astype(np.float64)
        signal += float(np.square(reference).sum())
        for start in range(0, len(roundings), BATCH):
            rows = range(start, min(start + BATCH, len(roundings)))
            amounts = np.zeros((len(rows), len(roundings)), np.float32)
            for place, i in enumerate(rows):
                amounts[place, i] = roundings[i].amount
            moved, _ = _run(session, feed, amounts)
            noise[rows.start : rows.stop] += [float(np.square(row - reference).sum()) for row in moved]
    ratios = noise / signal if signal > 0 else np.zeros(len(roundings))
    return ratios.tolist(), sizes.tolist()


def _run(session: object, feed: Feeds, amounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first output, (len(amounts), ...), of one input repeated along the batch; the layers' sizes."""
    inputs = session.get_inputs()  # type: ignore[attr-defined]
    batched = {i.name for i in inputs if i.shape and isinstance(i.shape[0], str)}
    repeated = {
        name: np.repeat(value[:1], len(amounts), axis=0) if name in batched else value
        for name, value in feed.items()
    }
    first = session.get_outputs()[0].name  # type: ignore[attr-defined]
    output, sizes = session.run([first, _SIZES], {**repeated, _AMOUNTS: amounts})  # type: ignore[attr-defined]
    return output, sizes
