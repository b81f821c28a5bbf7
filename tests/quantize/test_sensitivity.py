"""Quiet neighbours are judged together: loud layers among them are found, and it costs fewer runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import TensorsData

from quantize.calibrate import Recorder, Records, observations
from quantize.graphs import annotate_types, layers, load_graph, save_graph
from quantize.int8 import FORMATS
from quantize.layerrounding import layer_roundings
from quantize.observe import Observations, observed_graph
from quantize.probe import Probe
from quantize.runner import open_session
from quantize.sensitivity import LOUD_SHARE, LayerNoise, judge_layers, layer_noises

WIDTH, LAYERS, GROUP = 24, 136, 8
LOUD = (19, 77)  # in the middle of a group, at the edge of one
FORMAT = FORMATS["any"]


def residual_chain(loud: tuple[int, ...]) -> ModelProto:
    """x + gain tanh(x) w, again and again; the gain of loud layers is forty times the others'."""
    rng, nodes, weights, now = np.random.default_rng(4), [], [], "x"
    for i in range(LAYERS):
        gain = 1.2 if i in loud else rng.uniform(0.02, 0.04)
        weight = gain * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        out = "y" if i == LAYERS - 1 else f"x{i}"
        nodes += [
            helper.make_node("Tanh", [now], [f"t{i}"], f"tanh{i}"),
            helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"m{i}"], f"layer{i}"),
            helper.make_node("Add", [now, f"m{i}"], [out], f"add{i}"),
        ]
        now = out
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class Chain:
    """Such a graph with what its tensors held in 20 runs."""

    def __init__(self, folder: Path, loud: tuple[int, ...]):
        self.path = folder / "model.onnx"
        save_graph(annotate_types(residual_chain(loud)), self.path)
        session, recorder = open_session(observed_graph(self.path)), Recorder(folder / "records", limit=4)
        names = [output.name for output in session.get_outputs()]
        rng = np.random.default_rng(5)
        for _ in range(20):
            feed = {"x": rng.normal(size=(1, WIDTH)).astype(np.float32)}
            recorder("unet", feed, dict(zip(names, session.run(None, feed), strict=True)))
        recorder.save()
        self.records: Records = Records.of(folder / "records", "unet")
        self.seen: Observations = observations(folder / "records", "unet")
        self.ranges: TensorsData = self.seen.ranges("mse")

    def noises(self, group: int) -> dict[str, LayerNoise]:
        found = layer_noises(self.path, self.seen, self.ranges, self.records, FORMAT, group=group)
        return {layer.name: layer for layer in found}

    def runs(self, group: int) -> int:
        """Of the graph, for each record."""
        roundings = layer_roundings(self.path, self.seen, self.ranges, FORMAT)
        probe = Probe(self.path, roundings, list(self.records))
        judge_layers(probe, roundings, group)
        return probe.runs // len(self.records)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"), LOUD)


def test_a_loud_layer_in_a_quiet_neighbourhood_is_found(chain: Chain) -> None:
    alone, grouped = chain.noises(1), chain.noises(GROUP)
    assert set(grouped) == set(layers(load_graph(chain.path)))
    assert list(grouped)[:2] == list(alone)[:2]
    assert set(list(alone)[:2]) == {f"layer{i}" for i in LOUD}
    for name in list(alone)[:2]:
        assert not grouped[name].is_shared
        assert grouped[name].noise == pytest.approx(alone[name].noise, rel=1e-6)


def test_quiet_groups_are_told_by_their_share_of_noise_measured_together(chain: Chain) -> None:
    alone, grouped = chain.noises(1), chain.noises(GROUP)
    shared = {name for name, layer in grouped.items() if layer.is_shared}
    assert len(shared) > LAYERS / 2
    assert not any(layer.is_shared for layer in alone.values())
    total = sum(layer.noise for layer in alone.values())
    assert sum(layer.noise for layer in grouped.values()) == pytest.approx(total, rel=0.1)
    assert max(alone[name].noise for name in shared) < 1.5 * LOUD_SHARE * total
    ratios = [grouped[name].noise / alone[name].noise for name in shared]
    assert np.median(ratios) == pytest.approx(1, abs=0.25)


def test_quiet_groups_cost_fewer_runs(chain: Chain) -> None:
    assert chain.runs(1) == 1 + LAYERS
    told_apart = [layer for layer in chain.noises(GROUP).values() if not layer.is_shared]
    assert chain.runs(GROUP) == 1 + LAYERS // GROUP + len(told_apart)
    assert chain.runs(GROUP) < 0.5 * chain.runs(1)


def test_of_few_layers_each_is_judged_alone(chain: Chain) -> None:
    assert chain.runs(LAYERS // 8) == 1 + LAYERS
    assert not any(layer.is_shared for layer in chain.noises(LAYERS // 8).values())
