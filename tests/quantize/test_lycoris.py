"""LoHa, LoKr and DoRA in packs against PyTorch, by the formulas of their papers and of LyCORIS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from test_lora import (
    ALPHA,
    CONVOLUTIONS,
    LATENTS,
    MATRICES,
    NEAR,
    TUCKER,
    changes,
    distance,
    encoding,
    kohya,
    stages_of,
    theirs,
    unet,
)

from edgegen.engine.lora.merge import LoraUse
from edgegen.errors import LoraError
from tests.loras import write_tensors

__all__ = ["encoding", "unet"]  # fixtures
RANK = 3
MODULES = (*MATRICES, *CONVOLUTIONS, TUCKER)
Tensors = dict[str, torch.Tensor]


class Maker:
    """Random parts, small enough that no layer explodes."""

    def __init__(self, seed: int):
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 0.4) -> torch.Tensor:
        return torch.randn(*shape, generator=self.rng) * std


def loha(make: Maker, weight: torch.Tensor, tucker: bool) -> tuple[Tensors, torch.Tensor]:
    """The parts of one layer's change, and the change itself before alpha / rank."""
    outputs, inputs, *kernel = weight.shape
    parts, factors = {}, []
    for k in (1, 2):
        if tucker and kernel:
            t, a, b = make(RANK, RANK, *kernel), make(RANK, outputs), make(RANK, inputs)
            parts |= {f"hada_t{k}": t, f"hada_w{k}_a": a, f"hada_w{k}_b": b}
            factors.append(torch.einsum("ijkl,jr,ip->prkl", t, b, a))
        else:
            a, b = make(outputs, RANK), make(RANK, inputs * int(np.prod(kernel, dtype=int)))
            parts |= {f"hada_w{k}_a": a, f"hada_w{k}_b": b}
            factors.append((a @ b).reshape(weight.shape))
    return parts, factors[0] * factors[1]


def lokr(make: Maker, weight: torch.Tensor, form: str) -> tuple[Tensors, torch.Tensor]:
    """`whole`: both sides as they are; `halves`: the second a product; `both`; `tucker`."""
    outputs, inputs, *kernel = weight.shape
    rows, columns = (outputs // 4, inputs // 2) if inputs % 2 == 0 else (outputs // 4, inputs)
    parts: Tensors = {}
    if form == "both":
        parts |= {"lokr_w1_a": make(4, RANK), "lokr_w1_b": make(RANK, inputs // columns)}
        first = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    else:
        first = parts["lokr_w1"] = make(4, inputs // columns)
    if form == "whole":
        second = parts["lokr_w2"] = make(rows, columns, *kernel)
    elif form == "tucker" and kernel:
        parts["lokr_t2"] = make(RANK, RANK, *kernel)
        parts |= {"lokr_w2_a": make(RANK, rows), "lokr_w2_b": make(RANK, columns)}
        second = torch.einsum("ijkl,jr,ip->prkl", parts["lokr_t2"], parts["lokr_w2_b"], parts["lokr_w2_a"])
    else:
        parts |= {"lokr_w2_a": make(rows, RANK)}
        parts |= {"lokr_w2_b": make(RANK, columns * int(np.prod(kernel, dtype=int)))}
        second = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(rows, columns, *kernel)
    spread = first.reshape(*first.shape, *([1] * len(kernel)))
    return parts, torch.kron(spread, second.contiguous())


KINDS: dict[str, tuple[Callable[[Maker, torch.Tensor], tuple[Tensors, torch.Tensor]], bool]] = {
    "loha": (lambda make, weight: loha(make, weight, False), True),
    "loha tucker": (lambda make, weight: loha(make, weight, True), True),
    "lokr whole": (lambda make, weight: lokr(make, weight, "whole"), False),  # alpha does not count
    "lokr halves": (lambda make, weight: lokr(make, weight, "halves"), True),
    "lokr both": (lambda make, weight: lokr(make, weight, "both"), True),
    "lokr tucker": (lambda make, weight: lokr(make, weight, "tucker"), True),
}


def adapt(unet: UNet2DConditionModel, kind: str, strength: float, lengths: str = "") -> dict[str, np.ndarray]:
    """A file's tensors; the same change is made to the model. `lengths`: DoRA's, of inputs or outputs."""
    (make_parts, has_rank), make, tensors = KINDS[kind], Maker(5), {}
    for name in MODULES:
        weight = unet.get_submodule(name).weight
        parts, delta = make_parts(make, weight.data)
        delta *= ALPHA / RANK if has_rank else 1
        if lengths:
            parts["dora_scale"], changed = with_lengths(make, weight.data, delta, lengths)
            weight.data += strength * (changed - weight.data)
        else:
            weight.data += strength * delta
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{stem}.{part}": values.numpy() for part, values in parts.items()}
        tensors[f"{stem}.alpha"] = np.array(ALPHA, np.float32)
    return tensors


def with_lengths(
    make: Maker, weight: torch.Tensor, delta: torch.Tensor, of: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """DoRA (Liu et al. 2024, eq. 5): lengths near those of the weights, and the weights set to them."""
    axes = [axis for axis in range(weight.ndim) if axis != (1 if of == "inputs" else 0)]

    def length(values: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(values, dim=axes, keepdim=True)

    lengths = length(weight) * (1 + 0.3 * torch.tanh(make(*length(weight).shape)))
    return lengths, lengths * (weight + delta) / length(weight + delta)


@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_draws_what_the_fused_model_draws(packs, unet, encoding, tmp_path: Path, kind: str) -> None:
    stages = stages_of(packs["fp32"])
    plain = stages.unet(LATENTS, 500, encoding)
    path = write_tensors(tmp_path / "a.safetensors", adapt(unet, kind, 0.7))
    wanted = theirs(unet, encoding)
    assert distance(plain, wanted) > 0.05
    assert distance(stages.with_loras(LoraUse(path, 0.7)).unet(LATENTS, 500, encoding), wanted) < NEAR


@pytest.mark.parametrize("lengths", ["inputs", "outputs"])
@pytest.mark.parametrize("kind", ["loha", "lokr tucker"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_dora_sets_weights_to_their_lengths(
    packs, unet, encoding, tmp_path: Path, kind: str, lengths: str, strength: float
) -> None:
    path = write_tensors(tmp_path / "a.safetensors", adapt(unet, kind, strength, lengths))
    got = stages_of(packs["fp32"]).with_loras(LoraUse(path, strength)).unet(LATENTS, 500, encoding)
    assert distance(got, theirs(unet, encoding)) < NEAR


def test_pefts_lengths_are_of_outputs_and_a_chain_sees_what_came_before(
    packs, unet, encoding, tmp_path: Path
) -> None:
    first, second = changes(unet, MATRICES, 12), changes(unet, MATRICES[:2], 13)
    tensors = {}
    for name, (down, up) in first.items():
        weight = unet.get_submodule(name).weight
        change = torch.from_numpy(up @ down)
        lengths, changed = with_lengths(Maker(6), weight.data, change, "outputs")
        weight.data.copy_(changed)
        stem = f"base_model.model.{name}"
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        tensors[f"{stem}.lora_magnitude_vector.weight"] = lengths.reshape(-1).numpy()
    plain = write_tensors(tmp_path / "2.safetensors", kohya("lora_unet_", second))
    dora = write_tensors(tmp_path / "1.safetensors", tensors)
    for name, (down, up) in second.items():
        unet.get_submodule(name).weight.data += ALPHA / RANK * torch.from_numpy(up @ down)
    wanted = theirs(unet, encoding)
    stages = stages_of(packs["fp32"])
    got, other = (
        stages.with_loras(*map(LoraUse, paths)).unet(LATENTS, 500, encoding)
        for paths in ((dora, plain), (plain, dora))
    )
    assert distance(got, wanted) < NEAR
    assert distance(other, wanted) > NEAR  # lengths are set last: another order, another picture


def test_int8_takes_them_as_it_takes_lora(packs, unet, encoding, tmp_path: Path) -> None:
    answers = {}
    path = write_tensors(tmp_path / "a.safetensors", adapt(unet, "lokr halves", 0.5, "inputs"))
    for precision in ("fp32", "int8"):
        stages = stages_of(packs[precision])
        plain = stages.unet(LATENTS, 500, encoding)
        answers[precision] = plain, stages.with_loras(LoraUse(path, 0.5)).unet(LATENTS, 500, encoding)
    without, merged = (distance(answers["int8"][k], answers["fp32"][k]) for k in (0, 1))
    assert distance(answers["fp32"][1], answers["fp32"][0]) > 0.05
    assert merged < 2 * without


def test_lengths_of_another_layer_are_refused(packs, unet, tmp_path: Path) -> None:
    tensors = adapt(unet, "loha", 1.0, "inputs")
    name = next(key for key in tensors if key.endswith("ff_net_2.dora_scale"))
    tensors[name] = tensors[name][:, :-1]
    path = write_tensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(LoraError, match=r"another kind of model.*ff\.net\.2"):
        stages_of(packs["fp32"]).with_loras(LoraUse(path))
