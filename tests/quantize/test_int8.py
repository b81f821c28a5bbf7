"""Ranges, records, and which layers stay float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import TensorsData

from edgegen.pack import Pack
from quantize.calibrate import Recorder, Records, observations
from quantize.graphs import annotate_types, layers, load_graph, save_graph
from quantize.histogram import CHOOSERS
from quantize.int8 import FORMATS, quantize_layers, split_layers
from quantize.metrics import noise_ratio
from quantize.observe import Observations, observed_graph, observed_tensors
from quantize.ranges import best_range
from quantize.runner import Feeds, first_outputs, open_session
from quantize.sensitivity import (
    cropped,
    layer_noises,
)


@pytest.fixture
def graph(packs: dict[str, Pack], tmp_path: Path) -> Path:
    """The float decoder, with types annotated as export leaves them."""
    model = annotate_types(load_graph(packs["fp32"].graph("vae_decoder")))
    path = tmp_path / "vae_decoder" / "model.onnx"
    path.parent.mkdir()
    save_graph(model, path)
    return path


def run_all(graph: Path, recorder: Recorder, feeds: list[Feeds]) -> None:
    session = open_session(observed_graph(graph))
    names = [output.name for output in session.get_outputs()]
    for feed in feeds:
        recorder("vae_decoder", feed, dict(zip(names, session.run(None, feed), strict=True)))
    recorder.save()


@pytest.fixture
def folder(graph: Path, tmp_path: Path) -> Path:
    """Of 31 runs of the decoder, six held out."""
    recorder, rng = Recorder(tmp_path / "records", limit=6), np.random.default_rng(1)
    rows = [{"latent_sample": rng.standard_normal((1, 4, 8, 8), np.float32)} for _ in range(31)]
    run_all(graph, recorder, rows)
    return tmp_path / "records"


@pytest.fixture
def records(folder: Path) -> Records:
    return Records.of(folder, "vae_decoder")


@pytest.fixture
def seen(folder: Path) -> Observations:
    return observations(folder, "vae_decoder")


def test_a_recorder_holds_out_a_uniform_sample(tmp_path: Path):
    kept: list[int] = []
    for seed in range(60):
        recorder = Recorder(tmp_path / str(seed), limit=5, seed=seed)
        for i in range(100):
            recorder("unet", {"x": np.array([i])}, {"y": np.array([-i])})
        records = Records.of(tmp_path / str(seed), "unet")
        rows = [int(row["x"][0]) for row in records]
        assert [int(y[0]) for y in records.references()] == [-i for i in rows]
        assert len(rows) == len(set(rows)) == 5
        kept += rows
    assert 44 < np.mean(kept) < 59  # 51.5 when early and late have the same chance
    assert set(kept) == set(range(4, 100, 5))


def test_few_runs_serve_ranges_and_judgement_alike(graph: Path, tmp_path: Path):
    recorder = Recorder(tmp_path / "few", limit=6)
    run_all(graph, recorder, [{"latent_sample": np.full((1, 4, 8, 8), i, np.float32)} for i in range(3)])
    assert len(Records.of(tmp_path / "few", "vae_decoder")) == 3
    assert observations(tmp_path / "few", "vae_decoder").histograms["latent_sample"].high == 2


def test_observing_changes_no_output_and_counts_what_the_tensors_held(graph: Path, records: Records):
    model = load_graph(graph, weights=False)
    session, feeds = open_session(observed_graph(graph)), list(records)
    names = [output.name for output in session.get_outputs()]
    for feed, wanted in zip(feeds, records.references(), strict=True):
        assert np.array_equal(session.run(None, feed)[0], wanted)
    outputs = dict(zip(names, session.run(None, feeds[0]), strict=True))
    assert {name.removesuffix("/seen") for name in names[1:]} == set(observed_tensors(model))
    latents = feeds[0]["latent_sample"].ravel()
    seen = outputs["latent_sample/seen"]
    assert np.array_equal(seen, [*latents, latents.min(), latents.max()])


def test_large_tensors_are_sampled_all_over(graph: Path):
    latents = np.arange(4 * 64 * 64, dtype=np.float32).reshape(1, 4, 64, 64)
    outputs = open_session(observed_graph(graph)).run(["latent_sample/seen"], {"latent_sample": latents})[0]
    sample = outputs[:-2]
    assert 4096 < len(sample) <= latents.size
    assert len(np.unique(sample % 64)) == 64, "not always the same column"
    assert tuple(outputs[-2:]) == (0, latents.size - 1)


def test_a_histogram_grows_with_what_comes_and_comes_back_from_disk(tmp_path: Path):
    rng, seen, everything = np.random.default_rng(0), Observations(), []
    for width in (0.1, 3.0, 0.5, 40.0):
        values = rng.normal(0, width, 10_000).astype(np.float32)
        everything.append(values)
        seen.add({"out": values, "x/seen": np.array([*values, values.min(), values.max()])})
    seen.save(tmp_path / "seen.npz")
    h, values = Observations.load(tmp_path / "seen.npz").histograms["x"], np.concatenate(everything)
    assert (h.low, h.high, h.counts.sum()) == (values.min(), values.max(), len(values))
    assert h.mean_square() == pytest.approx(float(np.square(values).mean()), rel=0.01)
    assert h.rounding_error(-20, 20) == pytest.approx(rounding_error(values, -20, 20), rel=0.02)
    low, high = (float(v) for v in Observations.load(tmp_path / "seen.npz").ranges("minmax")["x"].range_value)
    assert (low, high) == (values.min(), values.max())


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


@pytest.mark.parametrize("method", sorted(CHOOSERS))
def test_every_method_finds_ranges_that_quantize_well(
    graph: Path, records: Records, seen: Observations, method: str
):
    assert noise_of(graph, seen.ranges(method), records, FORMATS["any"]) < 10**-2


def noise_of(graph: Path, ranges: TensorsData, records: Records, number_format: object) -> float:
    model = quantize_layers(load_graph(graph), ranges, layers(load_graph(graph)), number_format)  # type: ignore[arg-type]
    save_graph(model, graph.with_name("int8.onnx"))
    return noise_ratio(records.references(), first_outputs(graph.with_name("int8.onnx"), records))


def test_arm_gets_signed_activations_and_eight_bit_weights(graph: Path, seen: Observations):
    ranges = seen.ranges("minmax")
    widest = {}
    for target in ("arm64", "x86-64"):
        model = quantize_layers(load_graph(graph), ranges, layers(load_graph(graph)), FORMATS[target])
        arrays = [t for t in model.graph.initializer if t.name.endswith("_quantized") and len(t.dims) == 4]
        widest[target] = max(int(np.abs(np.frombuffer(t.raw_data, np.int8)).max()) for t in arrays)
    assert 100 < widest["arm64"] <= 128
    assert widest["x86-64"] <= 64


def alone(graph: Path, ranges: TensorsData, records: Records, name: str) -> float:
    """What judging predicts, really done."""
    model = quantize_layers(load_graph(graph), ranges, [name], FORMATS["any"])
    save_graph(model, graph.with_name("alone.onnx"))
    return noise_ratio(records.references(), first_outputs(graph.with_name("alone.onnx"), records))


def test_judging_predicts_what_each_layer_alone_does(graph: Path, records: Records, seen: Observations):
    ranges = seen.ranges("mse")
    noises = layer_noises(graph, seen, ranges, records, FORMATS["any"])
    assert {n.name for n in noises} == set(layers(load_graph(graph)))
    assert [n.noise for n in noises] == sorted((n.noise for n in noises), reverse=True)
    assert not graph.with_name("probe.onnx").exists()
    first = next(n for n in noises if n.name.endswith("conv_in/Conv"))
    assert first.macs == first.weight_bytes // 4 * 8 * 8
    for layer in [*noises[:4], noises[len(noises) // 2]]:
        really = 10 * np.log10(alone(graph, ranges, records, layer.name))
        assert 10 * np.log10(layer.noise) == pytest.approx(really, abs=4), layer.name
    together = 10 * np.log10(noise_of(graph, ranges, records, FORMATS["any"]))
    assert 10 * np.log10(sum(n.noise for n in noises)) == pytest.approx(together, abs=3)


def test_layers_are_judged_by_the_middle_of_large_pictures():
    feeds = {"sample": np.arange(36.0).reshape(1, 1, 6, 6), "timestep": np.array([5.0])}
    middle = cropped(feeds, 2)
    assert middle["sample"].tolist() == [[[[14, 15], [20, 21]]]]
    assert middle["timestep"] is feeds["timestep"]
    assert cropped(feeds, 8)["sample"].shape == (1, 1, 6, 6)


def test_patterns_keep_layers_float(graph: Path, seen: Observations):
    names, kept = split_layers(load_graph(graph), ["*conv_in*", "*conv_out*"])
    assert len(kept) == 2
    assert set(names) | set(kept) == set(layers(load_graph(graph)))
    ranges = seen.ranges("minmax")
    model = quantize_layers(load_graph(graph), ranges, names, FORMATS["any"])
    rounded = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.name in kept:
            assert node.input[1] not in rounded


def test_only_layers_read_rounded_tensors(graph: Path, seen: Observations):
    """A residual sum must get the float tensor that a quantized layer also reads."""
    ranges = seen.ranges("minmax")
    names = layers(load_graph(graph))
    model = quantize_layers(load_graph(graph), ranges, names, FORMATS["any"])
    by_output = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for name in node.input:
            source = by_output.get(name)
            if node.name not in names and source is not None and source.op_type == "DequantizeLinear":
                rounding = by_output[source.input[0]]
                assert by_output[rounding.input[0]].name in names
