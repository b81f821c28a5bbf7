"""Kinds of changes by their shapes: what is whole, what fits, what would only fill memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.lora.adapter import Adapter
from edgegen.engine.lora.dora import Magnitude
from edgegen.engine.lora.kinds import LOHA, LOKR, LORA, Target, kind_of
from edgegen.errors import LoraError
from tests.loras import write_tensors

MATRIX, CONV = Target(8, 6), Target(8, 6, (3, 3))
LOHA_MATRIX = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 3), "hada_w2_b": (3, 6)}
LOHA_TUCKER = {
    **{"hada_t1": (2, 2, 3, 3), "hada_w1_a": (2, 8), "hada_w1_b": (2, 6)},
    **{"hada_t2": (2, 2, 3, 3), "hada_w2_a": (2, 8), "hada_w2_b": (2, 6)},
}
LOKR_HALVES = {"lokr_w1": (4, 2), "lokr_w2_a": (2, 5), "lokr_w2_b": (5, 3)}


@pytest.mark.parametrize(
    ("shapes", "target", "fits"),
    [
        ({"down": (2, 6), "up": (8, 2)}, MATRIX, True),
        ({"down": (2, 6, 1, 1), "up": (8, 2, 1, 1)}, MATRIX, True),
        ({"down": (2, 6, 3, 3), "up": (8, 2, 1, 1)}, CONV, True),
        ({"down": (2, 6), "up": (8, 2)}, CONV, False),
        ({"down": (2, 6), "up": ()}, MATRIX, False),
        (LOHA_MATRIX, MATRIX, True),
        (LOHA_MATRIX | {"hada_w2_a": (8, 2)}, MATRIX, False),
        (LOHA_MATRIX | {"hada_w2_b": (3, 12)}, MATRIX, False),
        (LOHA_MATRIX | {"hada_w1_a": (16,)}, MATRIX, False),
        (LOHA_MATRIX | {"hada_w1_b": ()}, MATRIX, False),
        (LOHA_MATRIX, CONV, False),
        (LOHA_MATRIX | {"hada_w1_b": (2, 54), "hada_w2_b": (3, 54)}, CONV, True),
        (LOHA_TUCKER, CONV, True),
        (LOHA_TUCKER | {"hada_t1": (2, 2, 3, 1)}, CONV, False),
        (LOHA_TUCKER | {"hada_t1": (2, 2)}, CONV, False),
        (LOHA_TUCKER | {"hada_t1": (9999, 2, 3, 3), "hada_w1_a": (9999, 8)}, CONV, False),  # a bomb
        (LOKR_HALVES, MATRIX, True),
        (LOKR_HALVES | {"lokr_w1": (4, 3)}, MATRIX, False),
        (LOKR_HALVES | {"lokr_w1": (8,)}, MATRIX, False),
        (LOKR_HALVES | {"lokr_w1": (4, 2, 2, 1)}, MATRIX, False),
        (LOKR_HALVES | {"lokr_w2_b": (5, 27)}, CONV, True),
        ({"lokr_w1": (4, 2), "lokr_w2": (2, 3, 3, 3)}, CONV, True),
        ({"lokr_w1": (4, 2), "lokr_w2": (2, 9, 3, 1)}, CONV, False),
        ({"lokr_w1": (4, 6), "lokr_w2": (2, 9)}, CONV, True),
        ({"lokr_w1": (4, 27), "lokr_w2": (2, 2)}, CONV, False),
        ({"lokr_w1": (4, 2), "lokr_t2": (5, 6, 3, 3), "lokr_w2_a": (5, 2), "lokr_w2_b": (6, 3)}, CONV, True),
        ({"lokr_w1": (4, 2), "lokr_t2": (6, 5, 3, 3), "lokr_w2_a": (5, 2), "lokr_w2_b": (6, 3)}, CONV, False),
    ],
)
def test_what_fits_a_layer(shapes, target: Target, fits: bool) -> None:
    kind = kind_of(shapes)
    assert not kind.lacks(shapes)
    assert kind.fits(shapes, target) is fits
    if fits:
        tensors = {part: np.ones(shape, np.float32) for part, shape in shapes.items()}
        assert kind.delta(tensors, 0.5, False).shape == (target.outputs, target.inputs * target.taps)


@pytest.mark.parametrize(
    ("shapes", "ranks"),
    [
        ({"down": (2, 6), "up": (8, 2)}, [2]),
        (LOHA_MATRIX, [3, 2]),
        (LOKR_HALVES, [5]),
        ({"lokr_w1": (4, 2), "lokr_w2": (2, 3)}, []),
        ({"lokr_w1_a": (4, 7), "lokr_w1_b": (7, 2), **LOKR_HALVES}, [5]),
    ],
)
def test_alpha_is_divided_by_the_last_rank(shapes, ranks: list[int]) -> None:
    assert kind_of(shapes).ranks(shapes) == ranks


@pytest.mark.parametrize(
    ("shape", "per_output"),
    [
        ((8,), True),
        ((8, 1), True),
        ((1, 6), False),
        ((1, 6, 1, 1), False),
        ((6,), None),
        ((8, 6), None),
        ((), None),
    ],
)
def test_which_lengths_they_are(shape: tuple[int, ...], per_output: bool | None) -> None:
    assert Magnitude.fits({"dora_scale": shape}, CONV) is (per_output is not None)
    if per_output is not None:
        got = Magnitude.of({"dora_scale": np.ones(shape, np.float32)}, CONV)
        assert got.per_output is per_output


def test_nothing_has_a_length_without_dividing_by_it() -> None:
    lengths = Magnitude(np.ones((8, 1, 1), np.float32), True)
    assert not lengths.delta(np.zeros((8, 6), np.float32), np.zeros((8, 6), np.float32), 1.0).any()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"hada_w1_a": (2, 2)}, r"has no hada_w1_b and no hada_w2_a and no hada_w2_b$"),
        (LOHA_TUCKER | {"hada_t2": None}, "has no hada_t2"),
        ({"lokr_w1": (2, 2)}, "has no lokr_w2$"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 2)}, "has no lokr_w2_b$"),
        ({"lokr_t2": (2, 2)}, "has no lokr_w1 and no lokr_w2$"),
        (LOHA_MATRIX | {"hada_w1_b": (0, 6)}, "has rank 0; 1 to 4096"),
        (LOHA_MATRIX | {"hada_w1_b": ()}, "has rank 0"),
        (LOKR_HALVES | {"lokr_w2_b": (4097, 0)}, "has rank 4097"),
        (LOKR_HALVES | LOHA_MATRIX, "two kinds at once: hada_w1_a, .*lokr_w2_b"),
        (LOKR_HALVES | {"lora_up.weight": (2, 2)}, "two kinds at once"),
        (LOKR_HALVES | {"dora_scale": (8,), "lora_magnitude_vector": (8,)}, "two lengths"),
        ({"dora_scale": (8,)}, "has no down and no up"),
        (LOKR_HALVES | {"alpha": (2,)}, "not one number"),
    ],
)
def test_half_a_change_is_refused(tmp_path: Path, parts, says: str) -> None:
    shapes = {f"lora_unet_x.{part}": shape for part, shape in parts.items() if shape is not None}
    path = write_tensors(tmp_path / "a.safetensors", {k: np.zeros(s, np.float32) for k, s in shapes.items()})
    with pytest.raises(LoraError, match=re.compile(rf"^a\.safetensors: unet x .*{says}")):
        Adapter(path)


def test_a_file_tells_its_kinds_ranks_and_alphas(tmp_path: Path) -> None:
    tensors = {f"lora_unet_a.{part}": np.ones(shape, np.float32) for part, shape in LOHA_MATRIX.items()}
    tensors |= {f"lora_unet_b.{part}": np.ones(shape, np.float32) for part, shape in LOKR_HALVES.items()}
    tensors |= {"lora_te_c.lora_down.weight": np.ones((4, 6), np.float32)}
    tensors |= {"lora_te_c.lora_up.weight": np.ones((8, 4), np.float32)}
    tensors |= {"lora_te_c.dora_scale": np.ones((8, 1), np.float32), "lora_te_c.alpha": np.float32(2)}
    adapter = Adapter(write_tensors(tmp_path / "a.safetensors", tensors))
    assert adapter.kinds == ["LoHa", "LoKr", "LoRA", "DoRA"]
    assert (adapter.ranks, adapter.alphas) == ([2, 3, 4, 5], [2.0])
    assert {LORA, LOHA, LOKR} == {c.kind for changes in adapter.changes.values() for c in changes.values()}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("lora_unet_x.oft_blocks", "OFT, not supported; merged are LoRA, LoCon"),
        ("lora_unet_x.a1.weight", "GLoRA, not"),
        ("lora_unet_x.diff", "whole differences of layers, not"),
        ("unet.x.lora_B.bias", "changes to biases"),
        ("emb_params", "a textual inversion"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole checkpoint"),
        (
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "changes to a transformer, another family",
        ),
        ("lora_unet_double_blocks_0_img_attn_proj.whatever", "what is not understood"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, key: str, says: str) -> None:
    path = write_tensors(tmp_path / "a.safetensors", {key: np.zeros(2, np.float32)})
    with pytest.raises(LoraError, match=rf"a\.safetensors holds {says}.*: {re.escape(key)}"):
        Adapter(path)
