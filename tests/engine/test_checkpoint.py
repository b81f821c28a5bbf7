"""A run that is cut off, written as bytes, read and gone on with: the identical picture."""

from __future__ import annotations

import hashlib
import io
import random

import numpy as np
import pytest

from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.engine.checkpoint import MAGIC, freeze, run_label, state_arrays, state_from, thaw
from edgegen.engine.pipeline import GenerationSettings, Picture, Progress, TextToImage
from edgegen.pack import Pack


@pytest.fixture
def engine(tiny: Pack):
    with TextToImage(tiny, "cpu", 1) as engine:
        yield engine


def settings(sampler: str) -> GenerationSettings:
    return GenerationSettings("a red apple", "a dog", 7, 5, 3.0, 64, 64, sampler)


def test_every_sampler_goes_on_to_the_identical_picture(engine: TextToImage) -> None:
    for sampler in SCHEDULERS:
        *steps, whole = engine.generate(settings(sampler))
        assert isinstance(whole, Picture)
        cut = steps[3]
        assert isinstance(cut, Progress)
        assert (cut.step, cut.steps) == (3, 5)
        facts, arrays = thaw(freeze({"seed": 7}, state_arrays(cut.state)))
        assert facts == {"seed": 7}
        first, *_, rest = engine.generate(settings(sampler), state_from(arrays))
        assert (first.step, first.steps) == (3, 5)
        assert np.array_equal(rest.pixels, whole.pixels), sampler


def test_a_state_after_the_last_step_is_only_decoded(engine: TextToImage) -> None:
    *_, last, whole = engine.generate(settings("dpmpp_sde"))
    again = list(engine.generate(settings("dpmpp_sde"), last.state))
    assert [type(part).__name__ for part in again] == ["Progress", "Picture"]
    assert np.array_equal(again[1].pixels, whole.pixels)


def frozen(engine: TextToImage) -> bytes:
    part = [part for part in engine.generate(settings("euler_ancestral")) if isinstance(part, Progress)][2]
    return freeze({"seed": 7}, state_arrays(part.state))


def sealed(body: bytes) -> bytes:
    return MAGIC + hashlib.sha256(body).digest() + body


def test_whatever_was_cut_off_or_flipped_is_refused(engine: TextToImage) -> None:
    data, rng = frozen(engine), random.Random(3)
    for _ in range(200):
        at = rng.randrange(len(data))
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError, match=r"is damaged|is no checkpoint"):
            thaw(bytes(broken))
        with pytest.raises(ValueError, match=r"is damaged|is no checkpoint"):
            thaw(data[:at])


def saved(**arrays: np.ndarray) -> bytes:
    body = io.BytesIO()
    np.savez(body, **arrays)
    return body.getvalue()


def test_what_is_sealed_but_no_checkpoint_is_refused() -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, facts=np.zeros(1 << 20, np.uint8))
    plain = np.frombuffer(b"{}", np.uint8)
    for body, why in (
        (b"", "is no checkpoint"),
        (b"PK\x03\x04", "is no checkpoint"),
        (saved(facts=np.frombuffer(b"[1]", np.uint8)), "its facts are none"),
        (saved(latents=np.zeros(3)), "facts"),
        (saved(facts=plain, latents=np.array([{}], object)), "allow_pickle"),
        (packed.getvalue(), "is compressed"),
    ):
        with pytest.raises(ValueError, match=why):
            thaw(sealed(body))


@pytest.mark.parametrize(
    "changed",
    [
        {"at": np.array([0, 3])},
        {"at": np.array([1, 900])},
        {"at": np.array([1])},
        {"latents": np.full((1, 4, 2, 2), np.nan, np.float32)},
        {"latents": np.zeros((4, 2, 2), np.float32)},
        {"latents": np.zeros((1, 4, 2, 2), np.float64)},
        {"noise": np.zeros(3, np.uint32)},
        {"history1": np.zeros(3)},
    ],
)
def test_arrays_that_are_no_state_are_refused(changed: dict[str, np.ndarray]) -> None:
    good = {
        "at": np.array([1, 3]),
        "latents": np.zeros((1, 4, 2, 2), np.float32),
        "noise": np.zeros(624, np.uint32),
        "spare": np.zeros(0),
    }
    assert state_from(good).index == 1
    with pytest.raises(ValueError, match=r"is no sampler's state|not enough values"):
        state_from({**good, **changed})


def test_a_label_tells_runs_apart() -> None:
    assert run_label("a", {"steps": 3}) == run_label("a", {"steps": 3})
    assert len({run_label("a", {"steps": 3}), run_label("b", {"steps": 3}), run_label("a", {})}) == 3
