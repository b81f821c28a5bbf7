"""Ranges, records, and which layers stay float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import TensorsData

from edgegen.pack import Pack
from quantize.calibrate import METHODS, Recorder, Records, tensor_ranges
from quantize.graphs import annotate_types, layers, load_graph, save_graph
from quantize.int8 import FORMATS, quantize_layers, split_layers
from quantize.ranges import best_range
from quantize.sensitivity import LayerNoise, first_outputs, layer_noises, loudest_to_keep, noise_ratio


@pytest.fixture
def graph(packs: dict[str, Pack], tmp_path: Path) -> Path:
    """The float decoder, with types annotated as export leaves them."""
    model = annotate_types(load_graph(packs["fp32"].graph("vae_decoder")))
    path = tmp_path / "vae_decoder" / "model.onnx"
    path.parent.mkdir()
    save_graph(model, path)
    return path


@pytest.fixture
def records(tmp_path: Path) -> Records:
    recorder, rng = Recorder(tmp_path / "records", limit=6), np.random.default_rng(1)
    for _ in range(9):
        recorder("vae_decoder", {"latent_sample": rng.standard_normal((1, 4, 8, 8), np.float32)})
    return recorder.records("vae_decoder")


def test_a_recorder_keeps_a_uniform_sample(tmp_path: Path):
    kept: list[int] = []
    for seed in range(60):
        recorder = Recorder(tmp_path / str(seed), limit=5, seed=seed)
        for i in range(20):
            recorder("unet", {"x": np.array([i])})
        rows = [int(row["x"][0]) for row in recorder.records("unet")]
        assert len(rows) == len(set(rows)) == 5
        kept += rows
    assert 8 < np.mean(kept) < 11  # 9.5 when early and late have the same chance
    assert set(kept) == set(range(20))


def test_records_spread_evenly(records: Records):
    assert len(records) == 6
    assert len(records.spread(3)) == 3
    assert len(records.spread(100)) == 6
    assert np.array_equal(records.spread(3)[1]["latent_sample"], records[2]["latent_sample"])


def rounding_error(values: np.ndarray, low: float, high: float) -> float:
    """What really happens: mean squared error of 8 bits over a range."""
    step = (high - low) / 255
    return float(np.square(values - (np.rint((values.clip(low, high) - low) / step) * step + low)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_best_range_clips_long_tails_and_rounds_better_for_it(seed: int):
    values = np.random.default_rng(seed).laplace(0, 1, 100_000)
    hist, edges = np.histogram(values, 2048, range=(-20, 20))
    low, high = best_range(hist, edges, float(values.min()), float(values.max()))
    assert values.min() < low < 0 < high < values.max()
    best = rounding_error(values, low, high)
    for shrink in (1.0, 0.9, 0.4, 0.2):
        assert best < 1.02 * rounding_error(values, values.min() * shrink, values.max() * shrink)


def test_the_best_range_always_holds_zero():
    assert best_range(*np.histogram([2.0, 3.0], 64), 2.0, 3.0)[0] == 0.0
    assert best_range(*np.histogram([0.0, 0.0], 64), 0.0, 0.0) == (0.0, 0.0)


def test_the_best_range_keeps_all_of_an_even_spread():
    values = np.linspace(-1, 1, 10_001)
    low, high = best_range(*np.histogram(values, 2048), -1.0, 1.0)
    assert (low, high) == pytest.approx((-1, 1), abs=0.03)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_finds_ranges_that_quantize_well(
    graph: Path, records: Records, tmp_path: Path, method: str
):
    ranges = tensor_ranges(graph, records, method, tmp_path / "work")  # type: ignore[arg-type]
    assert noise_of(graph, ranges, records, FORMATS["any"]) < 10**-2


def noise_of(graph: Path, ranges: TensorsData, records: Records, number_format: object) -> float:
    model = quantize_layers(load_graph(graph), ranges, layers(load_graph(graph)), number_format)  # type: ignore[arg-type]
    save_graph(model, graph.with_name("int8.onnx"))
    feeds = list(records)
    return noise_ratio(first_outputs(graph, feeds), first_outputs(graph.with_name("int8.onnx"), feeds))


def test_arm_gets_signed_activations_and_eight_bit_weights(graph: Path, records: Records, tmp_path: Path):
    ranges = tensor_ranges(graph, records, "minmax", tmp_path / "work")
    widest = {}
    for target in ("arm64", "x86-64"):
        model = quantize_layers(load_graph(graph), ranges, layers(load_graph(graph)), FORMATS[target])
        arrays = [t for t in model.graph.initializer if t.name.endswith("_quantized") and len(t.dims) == 4]
        widest[target] = max(int(np.abs(np.frombuffer(t.raw_data, np.int8)).max()) for t in arrays)
    assert 100 < widest["arm64"] <= 128
    assert widest["x86-64"] <= 64


def test_layers_alone_make_less_noise_than_all_together(graph: Path, records: Records, tmp_path: Path):
    ranges = tensor_ranges(graph, records, "minmax", tmp_path / "work")
    noises = layer_noises(graph, ranges, records, FORMATS["any"], probes=3)
    assert {n.name for n in noises} == set(layers(load_graph(graph)))
    assert [n.noise for n in noises] == sorted((n.noise for n in noises), reverse=True)
    assert 0 < noises[0].noise < noise_of(graph, ranges, records, FORMATS["any"])
    assert not graph.with_name("probe.onnx").exists()


def test_the_loudest_layers_within_the_budget_stay_float():
    noises = [LayerNoise("a", 0.6, 100), LayerNoise("b", 0.3, 1000), LayerNoise("c", 0.1, 100)]
    assert loudest_to_keep(noises, 1.0, 0.5, 5000) == ["a"]
    assert loudest_to_keep(noises, 1.0, 0.2, 5000) == ["a", "b"]
    assert loudest_to_keep(noises, 1.0, 0.2, 500) == ["a", "c"]  # b is too large
    assert loudest_to_keep(noises, 0.1, 0.5, 5000) == []


def test_patterns_keep_layers_float(graph: Path, records: Records, tmp_path: Path):
    names, kept = split_layers(load_graph(graph), ["*conv_in*", "*conv_out*"])
    assert len(kept) == 2
    assert set(names) | set(kept) == set(layers(load_graph(graph)))
    ranges = tensor_ranges(graph, records, "minmax", tmp_path / "work")
    model = quantize_layers(load_graph(graph), ranges, names, FORMATS["any"])
    rounded = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.name in kept:
            assert node.input[1] not in rounded


def test_only_layers_read_rounded_tensors(graph: Path, records: Records, tmp_path: Path):
    """A residual sum must get the float tensor that a quantized layer also reads."""
    ranges = tensor_ranges(graph, records, "minmax", tmp_path / "work")
    names = layers(load_graph(graph))
    model = quantize_layers(load_graph(graph), ranges, names, FORMATS["any"])
    by_output = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for name in node.input:
            source = by_output.get(name)
            if node.name not in names and source is not None and source.op_type == "DequantizeLinear":
                rounding = by_output[source.input[0]]
                assert by_output[rounding.input[0]].name in names
