"""The pack that ships: whole, small, and drawing what the palette promises."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.pipeline import Picture, TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import builtin_packs_dir, find_pack
from edgegen.settings import LimitSettings
from quantize.pocket.data import emoji_list, taught
from quantize.pocket.obedience import THUMB, judge, summary

MAX_BYTES = 25_000_000
THINGS = Path(__file__).parent / "packs" / "things.webp"


@pytest.fixture(scope="module")
def pocket():
    return find_pack("pocket", [builtin_packs_dir()])


def draw(engine: TextToImage, prompt: str, seed: int) -> np.ndarray:
    request = JobRequest(id="t", prompt=prompt, seed=seed)
    settings = resolve_settings(engine.pack, request, LimitSettings())
    *_, picture = engine.generate(settings)
    assert isinstance(picture, Picture)
    return picture.pixels


def test_it_is_whole_and_small_enough(pocket):
    pocket.verify()
    assert sum(f.bytes for g in pocket.manifest.graphs.values() for f in g.files.values()) <= MAX_BYTES
    assert {g.precision for g in pocket.manifest.graphs.values()} == {"int8"}


def test_it_carries_its_evaluation_licence_and_provenance(pocket):
    manifest = pocket.manifest
    assert manifest.evaluation["pictures"]["pictures"] >= 50
    assert "MIT" in manifest.licence
    assert "fox" in manifest.provenance["things"]
    assert manifest.min_ram_mb > 0


def test_it_obeys_its_words(pocket):
    """`python -m quantize.pocket judge` asks 100 captions; here it is 60."""
    emojis = emoji_list()
    things = [emojis[i] for i in taught(emojis, "first")]
    assert [e.label for e in things] == pocket.manifest.provenance["things"]
    pictures = np.asarray(Image.open(THINGS)).reshape(len(things), THUMB, THUMB, 4)
    with TextToImage(pocket, "cpu", threads=2) as engine:
        verdicts, _ = judge(partial(draw, engine), pictures, things, 60)
    figures = summary(verdicts)
    assert figures["nearest"] >= 80, verdicts
    assert figures["among_five"] >= 95, verdicts
    assert figures["background"] >= 90, verdicts


def test_words_and_seeds_both_matter(pocket):
    with TextToImage(pocket, "cpu", threads=2) as engine:
        sun = draw(engine, "a sun on a white background", 1)
        assert np.array_equal(sun, draw(engine, "a sun on a white background", 1))
        assert not np.array_equal(sun, draw(engine, "a sun on a white background", 2))
        frog = draw(engine, "a frog on a white background", 1)
    middle = np.s_[64:192, 64:192]
    red_over_green = [p[middle][..., 0].mean() / p[middle][..., 1].mean() for p in (sun, frog)]
    assert red_over_green[0] > red_over_green[1]  # the sun is yellow, the frog is green
