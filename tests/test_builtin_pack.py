"""The pack that ships: whole, small, and drawing what the palette promises."""

import numpy as np
import pytest

from edgegen.engine.pipeline import Picture, TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import builtin_packs_dir, find_pack
from edgegen.settings import LimitSettings
from quantize.pocket.obedience import colour_error
from quantize.pocket.palette import BACKGROUNDS

MAX_BYTES = 25_000_000


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


def test_backgrounds_have_the_colours_of_their_names(pocket):
    with TextToImage(pocket, "cpu", threads=2) as engine:
        errors = {
            colour: colour_error(draw(engine, f"a star on a {colour} background", 5), BACKGROUNDS[colour])
            for colour in ("white", "black", "red", "green", "blue", "yellow")
        }
    assert sum(error <= 12 for error in errors.values()) >= 5, errors


def test_words_and_seeds_both_matter(pocket):
    with TextToImage(pocket, "cpu", threads=2) as engine:
        sun = draw(engine, "a sun on a white background", 1)
        assert np.array_equal(sun, draw(engine, "a sun on a white background", 1))
        assert not np.array_equal(sun, draw(engine, "a sun on a white background", 2))
        frog = draw(engine, "a frog on a white background", 1)
    middle = np.s_[64:192, 64:192]
    red_over_green = [p[middle][..., 0].mean() / p[middle][..., 1].mean() for p in (sun, frog)]
    assert red_over_green[0] > red_over_green[1]  # the sun is yellow, the frog is green
