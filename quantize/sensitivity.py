"""Which layers 8 bits hurt: each is quantized alone, and the graph's result compared with float.

Noise of different layers is nearly independent, so powers add: the sum over layers predicts the noise of
all, and leaving the loudest ones float buys the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnxruntime.quantization.calibrate import TensorsData
from tqdm import tqdm

from .calibrate import Records
from .graphs import initializers, layers, load_graph, weight_name
from .int8 import Int8Format, quantize_layers
from .metrics import ratio_db
from .runner import open_session

PROBES = 6  # recorded inputs each layer is judged by


@dataclass(frozen=True)
class LayerNoise:
    """What 8 bits in one layer alone do to the graph's first output.

    Attributes:
        noise: energy of the difference over energy of the float output.
        weight_bytes: of the float32 weight.
    """

    name: str
    noise: float
    weight_bytes: int

    @property
    def sqnr_db(self) -> float:
        return ratio_db(1.0, self.noise)


def layer_noises(
    graph: Path, ranges: TensorsData, records: Records, number_format: Int8Format, probes: int = PROBES
) -> list[LayerNoise]:
    """Noise of every layer with weights, loudest first.

    Weights stay in their file: each probe is the graph alone, with one layer's weights read and quantized.
    """
    skeleton = load_graph(graph, weights=False)
    feeds = list(records.spread(probes))
    reference = first_outputs(graph, feeds)
    probe = graph.with_name("probe.onnx")
    found = []
    try:
        for name in tqdm(layers(skeleton), desc=f"judging layers of {graph.parent.name}", leave=False):
            probe.write_bytes(_only(skeleton, name, graph.parent, ranges, number_format).SerializeToString())
            noise = noise_ratio(reference, first_outputs(probe, feeds))
            found.append(LayerNoise(name, noise, weight_bytes(skeleton, name)))
    finally:
        probe.unlink(missing_ok=True)
    return sorted(found, key=lambda layer: -layer.noise)


def _only(
    skeleton: ModelProto, name: str, folder: Path, ranges: TensorsData, number_format: Int8Format
) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(skeleton)
    wanted = {tensor for node in model.graph.node if node.name == name for tensor in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in wanted and tensor.data_location == TensorProto.EXTERNAL:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return quantize_layers(model, ranges, [name], number_format)


def first_outputs(graph: Path, feeds: Iterable[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """The graph's first output for each of the inputs."""
    session = open_session(graph)
    return [session.run(None, feed)[0] for feed in feeds]


def noise_ratio(reference: Iterable[np.ndarray], got: Iterable[np.ndarray]) -> float:
    """Energy of all differences over energy of all reference outputs."""
    noise = signal = 0.0
    for want, have in zip(reference, got, strict=True):
        noise += float(np.square(want.astype(np.float64) - have).sum())
        signal += float(np.square(want.astype(np.float64)).sum())
    return noise / signal if signal > 0 else 0.0


def weight_bytes(model: ModelProto, name: str) -> int:
    """Bytes of a layer's float32 weight."""
    weights = initializers(model)
    for node in model.graph.node:
        if node.name == name and (weight := weight_name(node, weights)):
            return 4 * int(np.prod(weights[weight].dims))
    raise KeyError(name)


def loudest_to_keep(
    noises: Sequence[LayerNoise], measured: float, target: float, budget_bytes: float
) -> list[str]:
    """The fewest of the loudest layers that must stay float for the noise to reach a target.

    Args:
        noises: loudest first.
        measured: noise ratio with all of them quantized; predictions are scaled to it.
        target: the largest noise ratio allowed.
        budget_bytes: float32 weight bytes that may stay float; larger layers are passed over.
    """
    total = sum(layer.noise for layer in noises)
    scale = measured / total if total > 0 else 0.0
    kept: list[str] = []
    left = measured
    for layer in noises:
        if left <= target:
            break
        if layer.weight_bytes <= budget_bytes:
            kept.append(layer.name)
            budget_bytes -= layer.weight_bytes
            left -= layer.noise * scale
    return kept
