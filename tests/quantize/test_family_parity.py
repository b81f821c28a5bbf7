"""Latents of our pipeline against diffusers' own for every family: the same models, words and noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTokenizerFast

from edgegen.engine.pipeline import Progress, TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import parse_request
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from tests.make_tiny_families import Parts, lcm_parts, plain_parts, write_pack, xl_parts
from tests.make_tiny_pack import OUT

NEAR = 1e-3
TURBO = {"timestep_spacing": "trailing"}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Parts, Path]]:
    base = tmp_path_factory.mktemp("families")
    made = {"plain": plain_parts(), "xl": xl_parts(), "lcm": lcm_parts()}
    return {name: (parts, write_pack(parts, base / name, name)) for name, parts in made.items()}


def ours(folder: Path, changes: dict[str, Any], **asked: Any) -> np.ndarray:
    """The last latents of what a job gets."""
    opened = Pack.open(folder)
    pack = Pack(folder, opened.manifest.model_copy(update=changes))
    request = parse_request(
        {"prompt": "a red apple", "seed": 5, **asked}, LimitSettings(), source="t", new_id=lambda: "t"
    )
    with TextToImage(pack, "cpu", 1) as engine:
        return last_latents(engine.generate(resolve_settings(pack, request, LimitSettings())))


def last_latents(items: Iterator[Any]) -> np.ndarray:
    *_, last = (item for item in items if isinstance(item, Progress))
    return last.latents


def tokenizer(**changes: Any) -> CLIPTokenizerFast:
    file = str(OUT / "tokenizer.json")
    found = CLIPTokenizerFast(tokenizer_file=file, model_max_length=77, pad_token="<|endoftext|>")
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def theirs(pipeline: Any, **asked: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64} | asked
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return pipeline("a red apple", generator=generator, output_type="latent", **size).images.numpy()


def pipeline_of(parts: Parts, scheduler: Any, kind: type = diffusers.StableDiffusionPipeline) -> Any:
    common = {"vae": parts.decoder.vae, "unet": parts.unet, "scheduler": scheduler}
    if parts.text_encoder_2 is not None:
        encoders = {"text_encoder": parts.text_encoder, "text_encoder_2": parts.text_encoder_2}
        words = {"tokenizer": tokenizer(), "tokenizer_2": tokenizer(pad_token="!")}
        return diffusers.StableDiffusionXLPipeline(**common, **encoders, **words, add_watermarker=False)
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return kind(**common, text_encoder=parts.text_encoder, tokenizer=tokenizer(), **checker)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("negative", ["", "a green dog"])
def test_sdxl_draws_what_diffusers_draws(built, negative: str) -> None:
    parts, folder = built["xl"]
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
    asked = {"negative_prompt": negative, "width": 96}
    wanted = theirs(
        pipeline_of(parts, scheduler),
        num_inference_steps=4,
        guidance_scale=5.0,
        negative_prompt=negative or None,
        width=96,
    )
    got = ours(folder, {}, steps=4, guidance=5.0, height=64, **asked)
    assert got.shape == wanted.shape == (1, 4, 8, 12)
    assert distance(got, wanted) < NEAR
    assert distance(ours(folder, {}, steps=4, guidance=5.0, prompt="a cat", **asked), wanted) > NEAR


@pytest.mark.parametrize("steps", [1, 4])
def test_sdxl_turbo_draws_what_diffusers_draws(built, steps: int) -> None:
    parts, folder = built["xl"]
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS, **TURBO)
    wanted = theirs(pipeline_of(parts, scheduler), num_inference_steps=steps, guidance_scale=0.0)
    got = ours(folder, TURBO, steps=steps, guidance=0, sampler="euler_ancestral")
    assert distance(got, wanted) < NEAR


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sd_turbo_draws_what_diffusers_draws(built, steps: int) -> None:
    parts, folder = built["plain"]
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, **TURBO)
    wanted = theirs(pipeline_of(parts, scheduler), num_inference_steps=steps, guidance_scale=0.0)
    got = [ours(folder, TURBO, steps=steps, guidance=guidance, sampler="euler") for guidance in (0, 1)]
    assert distance(got[0], wanted) < NEAR
    assert np.array_equal(*got)


def test_sd2_predicting_v_draws_what_diffusers_draws(built) -> None:
    parts, folder = built["plain"]
    scheduler = diffusers.EulerDiscreteScheduler(
        **BETAS, timestep_spacing="leading", prediction_type="v_prediction"
    )
    wanted = theirs(
        pipeline_of(parts, scheduler), num_inference_steps=5, guidance_scale=7.5, negative_prompt="a dog"
    )
    asked = {"steps": 5, "guidance": 7.5, "sampler": "euler", "negative_prompt": "a dog"}
    assert distance(ours(folder, {"prediction_type": "v_prediction"}, **asked), wanted) < NEAR
    assert distance(ours(folder, {}, **asked), wanted) > 0.1


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 8.5)])
def test_lcm_draws_what_diffusers_draws(built, steps: int, guidance: float) -> None:
    parts, folder = built["lcm"]
    scheduler = diffusers.LCMScheduler(**BETAS)
    pipeline = pipeline_of(parts, scheduler, diffusers.LatentConsistencyModelPipeline)
    wanted = theirs(pipeline, num_inference_steps=steps, guidance_scale=guidance)
    asked = {"steps": steps, "sampler": "lcm", "negative_prompt": "read by nobody"}
    assert distance(ours(folder, {}, guidance=guidance, **asked), wanted) < NEAR
    assert distance(ours(folder, {}, guidance=guidance + 2, **asked), wanted) > NEAR


def test_both_towers_agree_with_the_models_on_the_tokens(built) -> None:
    """The second tower's padding differs: with the first's, its rows and summary would be others."""
    parts, folder = built["xl"]
    with TextToImage(Pack.open(folder), "cpu", 1) as engine:
        found = engine.stages.encode("a red apple")
    pipeline = pipeline_of(parts, diffusers.EulerDiscreteScheduler(**BETAS))
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt("a red apple", do_classifier_free_guidance=False)
    assert found.hidden.shape == (1, 77, 20)
    np.testing.assert_allclose(found.hidden, hidden.numpy(), atol=1e-5)
    assert found.pooled is not None
    np.testing.assert_allclose(found.pooled, pooled.numpy(), atol=1e-5)
