"""What comes before the first rounded layer runs once, and noises are those of a batch that runs whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantize import probe as probing
from quantize.calibrate import Recorder, Records, observations
from quantize.export import export
from quantize.graphs import layers, load_graph
from quantize.int8 import FORMATS
from quantize.layerrounding import LayerRounding, layer_roundings
from quantize.observe import observed_graph
from quantize.probe import Probe
from quantize.probecuts import choose_cuts
from quantize.runner import Feeds, open_session
from quantize.source import open_source

EVERY = 8  # the tiny denoiser has few layers


class Judged:
    """A tiny denoiser with skip connections and attention on words, and what its layers were given."""

    def __init__(self, checkpoint: Path, folder: Path, role: str, feed: Feeds):
        self.path, self.feed = folder / role / "model.onnx", feed
        export(open_source(checkpoint), role, self.path)
        session, recorder = open_session(observed_graph(self.path)), Recorder(folder / "records", limit=4)
        names = [output.name for output in session.get_outputs()]
        recorder(role, feed, dict(zip(names, session.run(None, feed), strict=True)))
        recorder.save()
        seen = observations(folder / "records", role)
        self.records = Records.of(folder / "records", role)
        ranges = seen.ranges("mse")
        self.roundings: list[LayerRounding] = layer_roundings(self.path, seen, ranges, FORMATS["any"])

    def noises(self) -> np.ndarray:
        return Probe(self.path, self.roundings, [self.feed]).noises(
            [(i,) for i in range(len(self.roundings))]
        )


@pytest.fixture(scope="module")
def unet(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    rng = np.random.default_rng(1)
    feed = {
        "sample": rng.normal(size=(1, 4, 8, 8)).astype(np.float32),
        "timestep": np.array([500], np.float32),
        "encoder_hidden_states": rng.normal(size=(1, 16, 16)).astype(np.float32),
    }
    return Judged(checkpoint, tmp_path_factory.mktemp("cuts"), "unet", feed)


def test_a_denoiser_has_cuts_all_along(unet: Judged) -> None:
    model = load_graph(unet.path, weights=False)
    names = layers(model)
    cuts = choose_cuts(model, unet.feed, names, EVERY)
    assert len(cuts) >= 8, "11 would be one for every eight layers, but the first are the time's"
    assert [cut.place for cut in cuts] == sorted({cut.place for cut in cuts})
    assert max(len(cut.crossing) for cut in cuts) > 4, "skip connections cross"
    assert all(("encoder_hidden_states", 3) in cut.crossing for cut in cuts[:2])


def test_noises_are_those_of_a_batch_that_runs_whole(unet: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "BATCH", EVERY)
    cut = unet.noises()
    monkeypatch.setattr(probing, "choose_cuts", lambda *_: [])
    whole = unet.noises()
    assert np.count_nonzero(whole) > 0.9 * len(unet.roundings)
    # sums of another batch differ in their last bits, by which a value in a million is rounded otherwise
    np.testing.assert_allclose(cut, whole, rtol=0.03)
    assert np.median(np.abs(cut / whole - 1)[whole > 0]) < 1e-3


def test_only_what_comes_after_grows(unet: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take no more rows than they need: seen by a layer's rows in the first and the last part."""
    monkeypatch.setattr(probing, "BATCH", EVERY)
    probe = Probe(unet.path, unet.roundings, [unet.feed])
    last = len(unet.roundings) - 1
    _, early = probe._run(unet.feed, [(0,), (last,)])
    _, late = probe._run(unet.feed, [(last,), (last - 1,)])
    assert early[0] == 2 * probe.sizes[0]
    assert early[last] == late[last] == 2 * probe.sizes[last]
    assert late[0] == probe.sizes[0]


def test_a_text_encoder_is_cut_too(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pooler looks for the last word: whole numbers with a batch cross the cuts."""
    monkeypatch.setattr(probing, "BATCH", EVERY)
    ids = np.random.default_rng(2).integers(0, 40, (1, 16)).astype(np.int64)
    words = Judged(checkpoint, tmp_path, "text_encoder", {"input_ids": ids})
    model = load_graph(words.path, weights=False)
    cuts = choose_cuts(model, words.feed, layers(model), EVERY)
    assert cuts
    cut = words.noises()
    monkeypatch.setattr(probing, "choose_cuts", lambda *_: [])
    np.testing.assert_allclose(cut, words.noises(), rtol=0.03)
