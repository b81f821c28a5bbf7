"""Textual inversion and clip skip against diffusers and transformers: the same models, words and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from test_family_parity import BETAS, NEAR, distance, pipeline_of
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from edgegen.diffusion.chunks import A1111
from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.engine.clipskip import layer_problem
from edgegen.engine.conditioning import Encoding
from edgegen.engine.embeddings import EmbeddingFolder
from edgegen.engine.lora.merge import LoraUse
from edgegen.engine.memory import LOW, MODES
from edgegen.engine.providers import choose_provider
from edgegen.engine.stages import Stages
from edgegen.errors import EngineError
from edgegen.pack import Pack
from tests.loras import write_tensors
from tests.make_tiny_families import WIDTH, WIDTH_2, Parts, plain_parts, text_encoder, write_pack, xl_parts

Taught = Sequence[tuple[torch.Tensor, str, str, str]]
"""Vectors, token, and the pipeline's parts that learn them: text encoder, tokenizer."""
LAYERS = 5
WORDS = "a red apple"


def vectors(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (count, width)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "styles").mkdir()
    write_tensors(folder / "one.safetensors", {"<one>": vectors(1, WIDTH, 1)[0]})
    write_tensors(folder / "styles" / "ink.safetensors", {"emb_params": vectors(3, WIDTH, 2)})
    both = {"clip_l": vectors(2, WIDTH, 3), "clip_g": vectors(2, WIDTH_2, 4)}
    write_tensors(folder / "both.safetensors", both)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Pack]:
    parts = plain_parts()
    torch.manual_seed(31)
    parts.text_encoder = text_encoder(CLIPTextModel, WIDTH, LAYERS)
    return parts, Pack.open(write_pack(parts, tmp_path_factory.mktemp("plain"), "plain", family="sd1"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Pack]:
    parts = xl_parts()
    torch.manual_seed(32)
    parts.text_encoder = text_encoder(CLIPTextModel, WIDTH, LAYERS)
    parts.text_encoder_2 = text_encoder(CLIPTextModelWithProjection, WIDTH_2, LAYERS)
    return parts, Pack.open(write_pack(parts, tmp_path_factory.mktemp("xl"), "xl"))


def stages_of(pack: Pack, folder: Path | None = None, mode: str = "full") -> Stages:
    return Stages(pack, choose_provider("cpu"), 1, MODES[mode], EmbeddingFolder(folder))


def theirs(parts: Parts, text: str, taught: Taught = (), skip: int | None = None) -> list[np.ndarray]:
    """Rows, and for SDXL the summary, as diffusers encodes a prompt."""
    pipeline = pipeline_of(parts, diffusers.EulerDiscreteScheduler(**BETAS))
    for tensors, token, encoder, tokenizer in taught:
        words, model = getattr(pipeline, tokenizer), getattr(pipeline, encoder)
        pipeline.load_textual_inversion(tensors, token=token, tokenizer=words, text_encoder=model)
    with torch.no_grad():
        told = {"do_classifier_free_guidance": False, "clip_skip": skip}
        if parts.text_encoder_2 is None:
            return [found.numpy() for found in pipeline.encode_prompt(text, "cpu", 1, **told)[:1]]
        return [found.numpy() for found in pipeline.encode_prompt(text, **told)[::2]]


@pytest.mark.parametrize("mode", ["full", "low"])
@pytest.mark.parametrize(("name", "count", "seed"), [("one", 1, 1), ("styles/ink", 3, 2)])
def test_vectors_are_read_as_diffusers_reads_them(plain, folder, name, count, seed, mode) -> None:
    parts, pack = plain
    tensors = torch.from_numpy(vectors(count, WIDTH, seed))
    (wanted,) = theirs(parts, f"a red <{name}> apple", [(tensors, f"<{name}>", "text_encoder", "tokenizer")])
    stages = stages_of(pack, folder, mode)
    before = stages.encode(WORDS).hidden
    got = stages.encode(f"a red embedding:{name} apple").hidden
    assert distance(got, wanted) < NEAR < distance(before, wanted)
    stages.words.forget()
    assert np.allclose(stages.encode(WORDS).hidden, before, atol=1e-6)  # by the graph that takes vectors


def test_both_of_sdxl_s_encoders_read_their_own(xl, folder) -> None:
    parts, pack = xl
    one, two = torch.from_numpy(vectors(2, WIDTH, 3)), torch.from_numpy(vectors(2, WIDTH_2, 4))
    taught = [(one, "<x>", "text_encoder", "tokenizer"), (two, "<x>", "text_encoder_2", "tokenizer_2")]
    hidden, pooled = theirs(parts, "a <x> apple", taught)
    found = stages_of(pack, folder).encode("a embedding:both apple")
    assert distance(found.hidden, hidden) < NEAR
    assert found.pooled is not None
    assert distance(found.pooled, pooled) < NEAR


def test_weights_and_the_web_ui_s_bare_names(plain, folder) -> None:
    stages = stages_of(plain[1], folder)

    def read(text: str, syntax: str = "comfyui") -> np.ndarray:
        assert stages.words.problem(text, syntax) is None
        return stages.words.encode([text], syntax)[0].hidden

    marked, empty = read("embedding:one"), read("")
    heavy = read("(embedding:one:1.5)")
    np.testing.assert_allclose(heavy[0, 1], (empty + (marked - empty) * 1.5)[0, 1], atol=1e-5)
    np.testing.assert_allclose(read("a One apple", A1111), read("a embedding:one apple"), atol=1e-5)
    np.testing.assert_allclose(read("embedding:one, apple"), read("embedding:one , apple"), atol=1e-5)


def test_int8_reads_them_as_well_as_words(packs, tmp_path: Path) -> None:
    width = 16
    write_tensors(tmp_path / "v.safetensors", {"emb_params": vectors(2, width, 5) * 0.1})
    text, found = "red embedding:v", {}
    for precision in ("fp32", "int8"):
        stages = stages_of(packs[precision], tmp_path)
        found[precision] = [stages.encode(words).hidden for words in ("red cat", text)]
    words, read = (distance(found["int8"][k], found["fp32"][k]) for k in (0, 1))
    assert read < 2 * words
    assert distance(found["int8"][1], found["int8"][0]) > 5 * read


@pytest.mark.parametrize("stop", range(-1, -LAYERS - 1, -1))
def test_every_last_layer_is_transformers_own(plain, stop: int) -> None:
    parts, pack = plain
    clip = parts.text_encoder
    ids = ClipTokenizer.from_file(pack.tokenizer_path).encode(WORDS)
    with torch.no_grad():
        states = clip(torch.from_numpy(ids), output_hidden_states=True).hidden_states
        norm = next(module for name, module in clip.named_modules() if name.endswith("final_layer_norm"))
        wanted = norm(states[stop]).numpy()
    stages = stages_of(pack)
    assert layer_problem(pack, pack.manifest, stop) is None
    assert distance(stages.with_last_layer(stop).encode(WORDS).hidden, wanted) < NEAR
    assert (distance(stages.encode(WORDS).hidden, wanted) > NEAR) == (stop != -1)


@pytest.mark.parametrize("stop", [-2, -3, -4, -5])
def test_sdxl_stops_earlier_and_keeps_its_summary(xl, stop: int) -> None:
    parts, pack = xl
    hidden, pooled = theirs(parts, WORDS, skip=-2 - stop)  # diffusers counts from the layer SDXL reads
    found = stages_of(pack).with_last_layer(stop).encode(WORDS)
    assert distance(found.hidden, hidden) < NEAR
    assert found.pooled is not None
    assert distance(found.pooled, pooled) < NEAR


def test_layers_that_are_not_there(plain, xl) -> None:
    stages = stages_of(plain[1])
    beyond = stages.with_last_layer(-LAYERS - 1).encode(WORDS).hidden
    assert np.array_equal(beyond, stages.encode(WORDS).hidden)  # as in ComfyUI: all of the model
    for stop in (-1, -6, -24):
        with pytest.raises(EngineError, match=f"{stop} cannot be had: .*layers -2 to -5"):
            stages_of(xl[1]).with_last_layer(stop)


def test_embeddings_loras_and_an_earlier_end_go_together(packs, tmp_path: Path) -> None:
    pack = packs["int8"]
    write_tensors(tmp_path / "v.safetensors", {"x": vectors(1, 16, 6)[0]})
    stem = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    change = {f"{stem}.lora_down.weight": vectors(2, 16, 7), f"{stem}.lora_up.weight": vectors(16, 2, 8)}
    lora = LoraUse(write_tensors(tmp_path / "l.safetensors", change))
    stages = Stages(pack, choose_provider("cpu"), 1, LOW, EmbeddingFolder(tmp_path))

    def read(which: Stages) -> np.ndarray:
        found = which.encode("a embedding:v")
        assert isinstance(found, Encoding)
        return found.hidden

    both = read(stages.with_loras(lora).with_last_layer(-2))
    assert np.array_equal(both, read(stages.with_last_layer(-2).with_loras(lora)))
    others = [read(stages), read(stages.with_loras(lora)), read(stages.with_last_layer(-2))]
    assert all(distance(both, other) > 0.01 for other in others)
    assert stages.sessions.loaded == ["text_encoder"]
