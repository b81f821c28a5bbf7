"""LoRA in packs against PyTorch by the published formula: weight + strength * alpha / rank * up @ down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint import MAX_LENGTH
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.engine.conditioning import Encoding
from edgegen.engine.lora.merge import LoraUse
from edgegen.engine.memory import LOW, MODES
from edgegen.engine.providers import choose_provider
from edgegen.engine.stages import Stages
from edgegen.errors import LoraError
from edgegen.pack import Pack
from tests.loras import write_tensors

NEAR = 1e-3
ATTENTION = "down_blocks.1.attentions.0"
BLOCK = f"{ATTENTION}.transformer_blocks.0"
MATRICES = (
    f"{BLOCK}.attn1.to_q",
    f"{BLOCK}.attn2.to_k",
    f"{BLOCK}.attn2.to_out.0",
    f"{BLOCK}.ff.net.0.proj",  # in the pack it is split in two
    f"{BLOCK}.ff.net.2",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v",
    "time_embedding.linear_1",
)
CONVOLUTIONS = (f"{ATTENTION}.proj_in", "down_blocks.0.resnets.0.conv1", "mid_block.resnets.1.conv2")
TUCKER = "up_blocks.1.resnets.0.conv1"
WORDS = "encoder.layers.1.self_attn.q_proj"
RANK, ALPHA = 3, 2.0

Change = dict[str, tuple[np.ndarray, ...]]
"""Module -> down, up, and mid for Tucker's."""


def changes(model: torch.nn.Module, modules: tuple[str, ...], seed: int) -> Change:
    rng, found = np.random.default_rng(seed), {}
    for name in modules:
        outputs, inputs, *kernel = model.get_submodule(name).weight.shape

        def make(*shape: int) -> np.ndarray:
            return rng.normal(0, 0.3, shape).astype(np.float32)

        ones = [1] * len(kernel)
        if name == TUCKER:
            mid = make(RANK, RANK, *kernel)
            found[name] = make(RANK, inputs, *ones), make(outputs, RANK, *ones), mid
        else:
            found[name] = make(RANK, inputs, *kernel), make(outputs, RANK, *ones)
    return found


def fuse(model: torch.nn.Module, change: Change, strength: float, alpha: float = ALPHA) -> None:
    for name, (down, up, *mid) in change.items():
        weight = model.get_submodule(name).weight
        down, up = torch.from_numpy(down), torch.from_numpy(up)
        if mid:
            full = torch.einsum(
                "or,rskl,si->oikl", up[:, :, 0, 0], torch.from_numpy(mid[0]), down[:, :, 0, 0]
            )
        else:
            full = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        weight.data += strength * alpha / RANK * full


def kohya(prefix: str, change: Change) -> dict[str, np.ndarray]:
    tensors = {}
    for name, parts in change.items():
        stem = prefix + name.replace(".", "_")
        for part, values in zip(("down", "up", "mid"), parts, strict=False):
            tensors[f"{stem}.lora_{part}.weight"] = values
        tensors[f"{stem}.alpha"] = np.array(ALPHA, np.float32)
    return tensors


def peft(prefix: str, change: Change) -> dict[str, np.ndarray]:
    named = {"lora_A": 0, "lora_B": 1}
    return {f"{prefix}{n}.{k}.weight": parts[i] for n, parts in change.items() for k, i in named.items()}


@pytest.fixture
def unet(checkpoint: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(checkpoint / "unet").eval()


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    return Encoding(np.random.default_rng(1).normal(size=(1, 16, 16)).astype(np.float32))


LATENTS = np.random.default_rng(2).normal(size=(1, 4, 8, 8)).astype(np.float32)


def stages_of(pack: Pack, mode: str = "full") -> Stages:
    return Stages(pack, choose_provider("cpu"), 1, MODES[mode])


def theirs(unet: UNet2DConditionModel, encoding: Encoding) -> np.ndarray:
    with torch.no_grad():
        words = torch.from_numpy(encoding.hidden)
        return unet(torch.from_numpy(LATENTS), 500, words, return_dict=False)[0].numpy()


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("mode", ["full", "low"])
@pytest.mark.parametrize(("precision", "near"), [("fp32", NEAR), ("fp16", 5e-3)])
def test_kohya_and_locon_draw_what_the_fused_model_draws(
    packs, unet, encoding, tmp_path: Path, precision: str, near: float, mode: str
) -> None:
    change = changes(unet, (*MATRICES, *CONVOLUTIONS, TUCKER), 3)
    path = write_tensors(tmp_path / "style.safetensors", kohya("lora_unet_", change))
    stages = stages_of(packs[precision], mode)
    plain = stages.unet(LATENTS, 500, encoding)
    assert distance(plain, theirs(unet, encoding)) < near
    fuse(unet, change, 0.7)
    wanted = theirs(unet, encoding)
    assert distance(plain, wanted) > 0.1
    assert distance(stages.with_loras(LoraUse(path, 0.7)).unet(LATENTS, 500, encoding), wanted) < near
    assert np.array_equal(stages.unet(LATENTS, 500, encoding), plain)
    stages.close()


def old_style(change: Change) -> dict[str, np.ndarray]:
    """diffusers' attention processors."""
    tensors = {}
    for name, (down, up) in change.items():
        block, layer = name.split(".to_")
        stem = f"unet.{block}.processor.to_{layer.removesuffix('.0')}_lora"
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return tensors


@pytest.mark.parametrize(
    ("write", "modules"),
    [
        (lambda change: peft("unet.", change), MATRICES),
        (lambda change: peft("base_model.model.", change), MATRICES),
        (old_style, MATRICES[:3]),
    ],
)
def test_diffusers_names_mean_the_same(
    packs, unet, encoding, tmp_path: Path, write: Callable[[Change], dict[str, np.ndarray]], modules
) -> None:
    change = changes(unet, modules, 4)
    path = write_tensors(tmp_path / "a.safetensors", write(change))
    stages = stages_of(packs["fp32"]).with_loras(LoraUse(path))
    fuse(unet, change, 1.0, alpha=RANK)  # no alpha is told: the rank counts as it
    assert distance(stages.unet(LATENTS, 500, encoding), theirs(unet, encoding)) < NEAR


def test_two_add_up_and_their_order_does_not_count(packs, unet, encoding, tmp_path: Path) -> None:
    first, second = changes(unet, MATRICES, 5), changes(unet, MATRICES[:2], 6)
    uses = [
        LoraUse(write_tensors(tmp_path / "1.safetensors", kohya("lora_unet_", first)), 0.5),
        LoraUse(write_tensors(tmp_path / "2.safetensors", kohya("lora_unet_", second)), -0.4),
    ]
    stages = stages_of(packs["fp32"])
    fuse(unet, first, 0.5)
    fuse(unet, second, -0.4)
    wanted = theirs(unet, encoding)
    both = stages.with_loras(*uses).unet(LATENTS, 500, encoding)
    chained = stages.with_loras(uses[1]).with_loras(uses[0]).unet(LATENTS, 500, encoding)
    assert distance(both, wanted) < NEAR
    assert distance(chained, wanted) < NEAR


def test_int8_loses_no_more_than_without(packs, unet, encoding, tmp_path: Path) -> None:
    change = changes(unet, (*MATRICES, *CONVOLUTIONS, TUCKER), 7)
    use = LoraUse(write_tensors(tmp_path / "a.safetensors", kohya("lora_unet_", change)), 0.5)
    answers = {}
    for precision in ("fp32", "int8"):
        stages = stages_of(packs[precision])
        plain = stages.unet(LATENTS, 500, encoding)
        answers[precision] = plain, stages.with_loras(use).unet(LATENTS, 500, encoding)
    without, merged = (distance(answers["int8"][k], answers["fp32"][k]) for k in (0, 1))
    assert distance(answers["fp32"][1], answers["fp32"][0]) > 0.1
    assert merged < 2 * without  # 6 dB: activations move, too, out of the ranges they were recorded in


def test_text_encoders_change_at_their_own_strength(packs, checkpoint: Path, tmp_path: Path) -> None:
    clip = CLIPTextModel.from_pretrained(checkpoint / "text_encoder").eval()
    name = next(n for n, _ in clip.named_modules() if n.endswith(WORDS))
    change = changes(clip, (name,), 8)
    tensors = kohya("lora_te_", {f"text_model.{WORDS}": change[name]})
    beyond = {key.replace("layers_1", "layers_11"): values for key, values in tensors.items()}
    path = write_tensors(tmp_path / "a.safetensors", tensors | beyond)  # packs may end before a last layer
    stages = stages_of(packs["fp32"])
    plain = stages.encode("red").hidden
    got = stages.with_loras(LoraUse(path, 5.0, 0.8)).encode("red").hidden
    ids = ClipTokenizer.from_file(stages.pack.tokenizer_path, MAX_LENGTH).encode("red")
    fuse(clip, change, 0.8)
    with torch.no_grad():
        wanted = clip(torch.from_numpy(ids)).last_hidden_state.numpy()
    assert distance(got, wanted) < NEAR < distance(plain, wanted)
    assert np.array_equal(stages.encode("red").hidden, plain)


def test_low_memory_holds_one_graph_at_a_time(packs, unet, encoding, tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a.safetensors", kohya("lora_unet_", changes(unet, MATRICES, 9)))
    stages = Stages(packs["int8"], choose_provider("cpu"), 1, LOW)
    adapted = stages.with_loras(LoraUse(path))
    adapted.encode("red")
    adapted.unet(LATENTS, 500, encoding)
    assert adapted.sessions.loaded == stages.sessions.loaded == ["unet"]


def test_what_does_not_fit_is_refused_by_name(packs, unet, tmp_path: Path) -> None:
    change = changes(unet, MATRICES[:1], 10)
    stages = stages_of(packs["fp32"])
    wide = {MATRICES[0]: (np.zeros((RANK, 320), np.float32), change[MATRICES[0]][1])}
    path = write_tensors(tmp_path / "wide.safetensors", kohya("lora_unet_", wide))
    with pytest.raises(LoraError, match=r"wide.*another kind of model.*attn1\.to_q.*\[3, 320\].*\[32, 32\]"):
        stages.with_loras(LoraUse(path))
    path = write_tensors(
        tmp_path / "b.safetensors", kohya("lora_unet_", {"down_blocks.7.x": change[MATRICES[0]]})
    )
    with pytest.raises(LoraError, match="no unet layer down_blocks_7_x"):
        stages.with_loras(LoraUse(path))
    path = write_tensors(tmp_path / "c.safetensors", kohya("lora_te2_", change))
    with pytest.raises(LoraError, match="text_encoder_2, which pack tiny does not have"):
        stages.with_loras(LoraUse(path))
    path = write_tensors(tmp_path / "d.safetensors", kohya("lora_unet_", change))
    with pytest.raises(LoraError, match=r"w8 graph unet has no layers\.json; build it again"):
        stages_of(packs["w8"]).with_loras(LoraUse(path))
