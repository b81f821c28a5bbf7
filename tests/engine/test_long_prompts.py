"""More words than one chunk holds, on the built-in pack, whose denoiser takes any number of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgegen.engine.conditioning import Encoding, feeds_of
from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
from edgegen.errors import BadRequest
from edgegen.pack import Pack, builtin_packs_dir

SETTINGS = GenerationSettings("a red apple", "", 3, 2, 2.0, 256, 256, "euler")
LONG = "a red apple on a blue background, " * 8


@pytest.fixture(scope="module")
def engine() -> Iterator[TextToImage]:
    with TextToImage(Pack.open(builtin_packs_dir() / "pocket"), "cpu", 1) as engine:
        yield engine


def draw(engine: TextToImage, **changes: object) -> np.ndarray:
    *_, picture = engine.generate(replace(SETTINGS, **changes))
    assert isinstance(picture, Picture)
    return picture.pixels


def test_chunks_are_encoded_each_on_its_own_and_joined(engine: TextToImage) -> None:
    words = engine.stages.words
    first, second, both = words.encode(["a red apple", "a blue cat", "a red apple BREAK a blue cat"], "a1111")
    assert both.hidden.shape[1] == 2 * first.hidden.shape[1]
    assert np.array_equal(both.hidden, np.concatenate([first.hidden, second.hidden], axis=1))


def test_a_long_prompt_draws_and_its_end_counts(engine: TextToImage) -> None:
    one, other = draw(engine, prompt=LONG + "a cat"), draw(engine, prompt=LONG + "a green rocket")
    assert one.shape == (256, 256, 3)
    assert not np.array_equal(one, other)


def test_both_of_guidances_passes_may_differ_in_length(engine: TextToImage) -> None:
    plain = draw(engine, prompt=LONG, negative_prompt="a dog")
    engine._batch_guidance = True
    try:
        paired = draw(engine, prompt=LONG, negative_prompt="a dog")
    finally:
        engine._batch_guidance = False
    # rows repeated to one length say the same; this INT8 pack rounds a last bit of difference up to a level
    assert np.abs(plain.astype(int) - paired).mean() < 3


def test_rows_are_repeated_to_a_common_length() -> None:
    rows = [Encoding(np.arange(n, dtype=np.float32).reshape(1, n, 1)) for n in (2, 3)]
    hidden = feeds_of(rows, 64, 64)["encoder_hidden_states"]
    assert hidden[..., 0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]


def test_the_syntax_decides_what_brackets_mean(engine: TextToImage) -> None:
    by_comfyui = draw(engine, prompt="a (red:1.4) apple")
    by_webui = draw(engine, prompt="a (red:1.4) apple", prompt_syntax="a1111")
    assert not np.array_equal(by_comfyui, by_webui)
    assert np.array_equal(
        draw(engine, prompt="a red apple", prompt_syntax="a1111"), draw(engine, prompt="a red apple")
    )


def test_what_cannot_be_read_as_meant_is_refused_before_any_work(engine: TextToImage) -> None:
    with pytest.raises(BadRequest, match="no embedding of that name is here"):
        draw(engine, prompt="a cat, embedding:fluffy")
    with pytest.raises(BadRequest, match="words that change between steps"):
        draw(engine, prompt="[cat:dog:0.5]", prompt_syntax="a1111")
    with pytest.raises(BadRequest, match="the weight 100"):
        draw(engine, prompt="(cat:100)", prompt_syntax="a1111")


def test_a_pack_of_one_chunk_refuses_more(tiny: Pack) -> None:
    with TextToImage(tiny, "cpu", 1) as engine:
        settings = GenerationSettings("a BREAK b", "", 3, 2, 2.0, 64, 64, "euler", prompt_syntax="a1111")
        with pytest.raises(BadRequest, match="this pack reads one chunk only"):
            list(engine.generate(settings))
        *_, picture = engine.generate(replace(settings, prompt_syntax="comfyui"))
        assert isinstance(picture, Picture)
