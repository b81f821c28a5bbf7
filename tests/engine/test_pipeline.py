from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.diffusion.sigma_schedules import SIGMA_SCHEDULES
from edgegen.engine.pipeline import GenerationSettings, Picture, Progress, TextToImage
from edgegen.engine.session import GraphSession
from edgegen.engine.words import PROMPTS_REMEMBERED
from edgegen.errors import BadRequest, EngineError, OutOfMemory, PackError
from edgegen.pack import Pack

SETTINGS = GenerationSettings("a red apple", "", 1, 3, 3.0, 64, 64, "euler")


@pytest.fixture
def engine(tiny: Pack) -> Iterator[TextToImage]:
    with TextToImage(tiny, "cpu", threads=1) as engine:
        yield engine


def draw(engine: TextToImage, settings: GenerationSettings) -> Picture:
    *_, picture = engine.generate(settings)
    assert isinstance(picture, Picture)
    return picture


def test_progress_and_picture(engine: TextToImage) -> None:
    *steps, picture = engine.generate(SETTINGS)
    assert [(p.step, p.steps) for p in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert steps[0].denoised is None
    assert all(p.latents.shape == p.denoised.shape == (1, 4, 8, 8) for p in steps[1:])
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.std() > 1
    assert (picture.provider, picture.pack_name, picture.settings) == ("cpu", "tiny", SETTINGS)
    assert picture.seconds > 0


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_same_seed_same_pixels(tiny: Pack, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler)
    with TextToImage(tiny, "cpu", 1) as one, TextToImage(tiny, "cpu", 1) as other:
        first = draw(one, settings).pixels
        draw(one, replace(settings, seed=9, prompt="something else"))
        assert np.array_equal(first, draw(one, settings).pixels)
        assert np.array_equal(first, draw(other, settings).pixels)
        assert not np.array_equal(first, draw(one, replace(settings, seed=2)).pixels)


def test_words_matter(engine: TextToImage) -> None:
    pictures = [
        draw(engine, replace(SETTINGS, prompt=p, negative_prompt=n, guidance=g)).pixels
        for p, n, g in [
            ("a red apple", "", 3),
            ("1 2 3 4 5 6", "", 3),
            ("a red apple", "1 2 3", 3),
            ("a red apple", "", 1),
        ]
    ]
    for k, picture in enumerate(pictures):
        assert not any(np.array_equal(picture, other) for other in pictures[k + 1 :])


@pytest.mark.parametrize(("guidance", "runs"), [(1.0, 5), (3.0, 10)])
def test_guidance_1_runs_the_unet_once_a_step(engine: TextToImage, guidance: float, runs: int) -> None:
    draw(engine, replace(SETTINGS, guidance=guidance, steps=5))
    assert engine.sessions.get("unet").runs == runs
    assert engine.sessions.get("text_encoder").runs == (1 if guidance == 1 else 2)


def test_cfg_pp_runs_the_unet_twice_a_step_at_guidance_1(engine: TextToImage) -> None:
    settings = replace(SETTINGS, sampler="euler_cfg_pp", guidance=1, steps=5)
    plain = draw(engine, settings).pixels
    assert engine.sessions.get("unet").runs == 10
    assert not np.array_equal(plain, draw(engine, replace(settings, negative_prompt="1 2 3")).pixels)
    assert not np.array_equal(plain, draw(engine, replace(settings, sampler="euler")).pixels)


def test_guidance_as_one_batch_gives_the_same_picture(tiny: Pack, engine: TextToImage) -> None:
    with TextToImage(tiny, "cpu", 1, batch_guidance=True) as batched:
        got, want = draw(batched, SETTINGS).pixels, draw(engine, SETTINGS).pixels
        assert batched.sessions.get("unet").runs == 3
    assert np.abs(got.astype(int) - want).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(32, 32), (128, 32), (48, 96)])
def test_sizes(engine: TextToImage, width: int, height: int) -> None:
    picture = draw(engine, replace(SETTINGS, width=width, height=height))
    assert picture.pixels.shape == (height, width, 3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_packs_of_other_kinds(changed_tiny, prediction: str, spacing: str) -> None:
    zero_snr = prediction != "epsilon"
    pack = changed_tiny(
        prediction_type=prediction, timestep_spacing=spacing, rescale_zero_terminal_snr=zero_snr
    )
    with TextToImage(pack, "cpu", 1) as engine:
        for sampler in SCHEDULERS:
            assert draw(engine, replace(SETTINGS, sampler=sampler)).pixels.shape == (64, 64, 3)


def test_a_schedule_chooses_the_levels(engine: TextToImage) -> None:
    wanted = replace(SETTINGS, sampler="dpmpp_2m", steps=7)
    pictures = [draw(engine, replace(wanted, schedule=name)).pixels for name in (None, *SIGMA_SCHEDULES)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    found = list(engine.generate(replace(wanted, schedule="ddim_uniform")))
    assert [(p.step, p.steps) for p in found if isinstance(p, Progress)] == [(k, 8) for k in range(9)]


def test_weights_in_a_prompt_move_its_encoding(engine: TextToImage) -> None:
    plain, same, more, other = (
        draw(engine, replace(SETTINGS, prompt=prompt)).pixels
        for prompt in ("a red apple", "a (red:1.0) apple", "a (red:1.5) apple", "a (red:0.5) apple")
    )
    assert np.array_equal(plain, same)
    assert len({picture.tobytes() for picture in (plain, more, other)}) == 3
    with pytest.raises(BadRequest, match="gives 'red' the weight 99; allowed are -10 to 10"):
        draw(engine, replace(SETTINGS, negative_prompt="a (red:99) apple"))


def test_encodings_of_recent_prompts_are_kept_and_the_unconditional_always(engine: TextToImage) -> None:
    draw(engine, SETTINGS)
    encoder = engine.sessions.get("text_encoder")
    draw(engine, replace(SETTINGS, seed=2))
    assert encoder.runs == 2
    for k in range(PROMPTS_REMEMBERED):
        draw(engine, replace(SETTINGS, prompt=f"number {k}", steps=1))
    assert encoder.runs == 2 + PROMPTS_REMEMBERED  # the unconditional one is still there
    draw(engine, SETTINGS)
    assert encoder.runs == 3 + PROMPTS_REMEMBERED  # the first prompt was forgotten


def test_closing_the_generator_cancels_and_frees(engine: TextToImage) -> None:
    steps = engine.generate(replace(SETTINGS, steps=50))
    kept = []
    for progress in steps:
        assert isinstance(progress, Progress)
        kept.append(weakref.ref(progress.latents))
        if progress.step == 2:
            break
    steps.close()
    del progress
    gc.collect()
    assert [ref() for ref in kept] == [None, None, None]
    assert engine.sessions.get("unet").runs == 4
    assert list(steps) == []
    draw(engine, SETTINGS)  # and the engine goes on


def test_close_frees_and_the_next_picture_loads_again(engine: TextToImage) -> None:
    first = draw(engine, SETTINGS).pixels
    unet = weakref.ref(engine.sessions.get("unet"))
    engine.close()
    engine.close()
    gc.collect()
    assert unet() is None
    assert engine.sessions.loaded == []
    assert np.array_equal(draw(engine, SETTINGS).pixels, first)


def test_a_prompt_with_too_many_tokens_is_refused_before_any_work(engine: TextToImage) -> None:
    long = "1 2 3 4 5 6 7 8 9 " * 10
    with pytest.raises(BadRequest) as caught:
        draw(engine, replace(SETTINGS, prompt=long, negative_prompt=long))
    assert [p.field for p in caught.value.problems] == ["prompt", "negative_prompt"]
    assert "90 tokens; at most 75 fit" in str(caught.value)
    assert engine.sessions.loaded == ["unet"], "it alone knows how many it takes"


def test_out_of_memory_names_the_size_and_what_to_lower(engine: TextToImage, monkeypatch) -> None:
    """A real failed allocation is in test_session; this is what becomes of it."""

    def fail(self: GraphSession, feeds: object) -> None:
        raise OutOfMemory("graph unet failed: not enough memory")

    monkeypatch.setattr(GraphSession, "run", fail)
    with pytest.raises(OutOfMemory, match=r"64x64 picture with pack tiny.*lower width and height"):
        draw(engine, SETTINGS)
    with pytest.raises(OutOfMemory, match=r"32x32 picture.*take a smaller pack"):
        draw(engine, replace(SETTINGS, width=32, height=32))


def test_numbers_that_are_none_are_an_engine_error(engine: TextToImage) -> None:
    engine.stages.encode("a red apple").hidden.fill(np.nan)  # what is remembered, spoilt
    with pytest.raises(EngineError, match="no numbers on provider cpu"):
        draw(engine, replace(SETTINGS, guidance=1.0))


def test_an_altered_tokenizer_is_refused(changed_tiny) -> None:
    pack = changed_tiny()
    path = pack.tokenizer_path
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"A"', 1))
    with pytest.raises(PackError, match=r"tokenizer\.json: SHA-256"):
        TextToImage(pack, "cpu", 1)


def test_graphs_in_each_others_place_are_an_engine_error(changed_tiny, tiny: Pack) -> None:
    graphs = tiny.manifest.model_dump()["graphs"]
    pack = changed_tiny(graphs=graphs | {"unet": graphs["vae_decoder"]})
    with (
        TextToImage(pack, "cpu", 1) as engine,
        pytest.raises(EngineError, match="graph unet takes latent_sample"),
    ):
        draw(engine, SETTINGS)
