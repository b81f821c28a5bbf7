"""LoRA files as they come: hostile, of other formats, with names of every kind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.lora.adapter import Adapter
from edgegen.engine.lora.names import original_names, split_key
from edgegen.engine.lora.tensors import TensorFile
from edgegen.errors import LoraError
from tests.loras import write_raw, write_tensors

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ([], b"", "no JSON object"),
        (b"{", b"", "2 bytes|1 bytes|not JSON"),
        (b"\xff\xfe{}", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        ({"a": 5}, b"", "no description"),
        ({"a": {**F32, "dtype": "I64"}}, bytes(8), "type I64; known are F64"),
        ({"a": {**F32, "dtype": ["F32"]}}, bytes(8), "type"),
        ({"a": {**F32, "shape": [2**60]}}, bytes(8), "shape"),
        ({"a": {**F32, "shape": [-2]}}, bytes(8), "shape"),
        ({"a": {**F32, "shape": [True, 2]}}, bytes(8), "shape"),
        ({"a": {**F32, "shape": [1, 1, 1, 1, 1, 2]}}, bytes(8), "at most 5 sides"),
        ({"a": {**F32, "shape": [2**30, 2**9]}}, bytes(8), r"offsets \[0, 8\] do not hold"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8), "do not hold"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8), "offsets"),
        ({"a": {**F32, "data_offsets": [0]}}, bytes(8), "offsets"),
        ({"a": {**F32, "shape": [2**38], "data_offsets": [0, 2**40 - 1]}}, bytes(8), "do not hold"),
        ({"a": {**F32, "shape": [2**36], "data_offsets": [0, 2**38]}}, bytes(8), "ends at byte"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12), "b overlaps"),
        ({"a": {**F32, "data_offsets": [8, 16]}}, bytes(8), "ends at byte"),
        (
            {f"t{k}": {**F32, "shape": [0], "data_offsets": [0, 0]} for k in range(20_001)},
            b"",
            "20001 tensors",
        ),
    ],
)
def test_lies_are_refused(tmp_path: Path, header: object, data: bytes, says: str) -> None:
    path = write_raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(LoraError, match=rf"^bad\.safetensors: .*({says})"):
        TensorFile(path)


@pytest.mark.parametrize(
    "content", [b"", b"1234567", (2**63).to_bytes(8, "little") + b"{}", bytes(8) + b"{}"]
)
def test_no_header_no_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(LoraError):
        TensorFile(tmp_path / "bad.safetensors")


def test_pipes_and_folders_keep_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(LoraError):
            TensorFile(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_must_be_numbers(tmp_path: Path, value: float) -> None:
    path = write_tensors(tmp_path / "a.safetensors", {"x": np.array([1, value], np.float16)})
    with pytest.raises(LoraError, match="tensor x holds"):
        TensorFile(path).read("x")


def test_every_number_format_reads_the_same(tmp_path: Path) -> None:
    wanted = np.array([[1.5, -2.0], [0.25, 384.0]], np.float32)
    raw = {"F64": wanted.astype("<f8"), "F16": wanted.astype("<f2"), "BF16": wanted.view("<u4") >> 16}
    for dtype, values in raw.items():
        data = (values.astype("<u2") if dtype == "BF16" else values).tobytes()
        header = {"x": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, len(data)]}}
        got = TensorFile(write_raw(tmp_path / "a.safetensors", header, data)).read("x")
        assert got.dtype == np.float32
        assert np.array_equal(got, wanted)


BLOCK = "down_blocks_1_attentions_0_transformer_blocks_0"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        (f"lora_unet_{BLOCK}_attn1_to_q.lora_down.weight", ("unet", f"{BLOCK}_attn1_to_q", "down")),
        (f"lora_unet_{BLOCK}_attn1_to_q.alpha", ("unet", f"{BLOCK}_attn1_to_q", "alpha")),
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", ("unet", "mid_block_resnets_0_conv1", "mid")),
        (
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
            ("text_encoder", "encoder_layers_0_mlp_fc1", "up"),
        ),
        (
            "lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight",
            ("text_encoder_2", "encoder_layers_3_mlp_fc1", "up"),
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
            ("text_encoder", "encoder_layers_0_self_attn_q_proj", "down"),
        ),
        (
            "unet.mid_block.attentions.0.proj_in.lora_A.weight",
            ("unet", "mid_block_attentions_0_proj_in", "down"),
        ),
        ("mid_block.attentions.0.proj_in.lora.up.weight", ("unet", "mid_block_attentions_0_proj_in", "up")),
        ("unet.x.attn1.processor.to_out_lora.up.weight", ("unet", "x_attn1_to_out_0", "up")),
        ("lora_unet_x.hada_w1_a", ("unet", "x", "hada_w1_a")),
        ("lycoris_unet_x.lokr_t2", ("unet", "x", "lokr_t2")),
        ("lora_te_text_model_x.dora_scale", ("text_encoder", "x", "dora_scale")),
        ("base_model.model.x.lora_magnitude_vector.weight", ("unet", "x", "magnitude")),
        ("lora_unet_x.hada_w3_a", None),
        ("lora_unet_x.oft_blocks", None),
        ("x.lora_up.weight", None),
    ],
)
def test_names(key: str, meant: tuple[str, str, str] | None) -> None:
    assert split_key(key) == meant


@pytest.mark.parametrize(
    ("module", "numbered"),
    [  # as in the checkpoints of Stable Diffusion XL
        ("down_blocks.1.attentions.0.proj_in", ["input_blocks.4.1.proj_in"]),
        ("down_blocks.2.attentions.1.proj_in", ["input_blocks.8.1.proj_in"]),
        ("down_blocks.0.downsamplers.0.conv", ["input_blocks.3.0.op"]),
        ("down_blocks.1.resnets.0.conv_shortcut", ["input_blocks.4.0.skip_connection"]),
        ("mid_block.attentions.0.proj_out", ["middle_block.1.proj_out"]),
        ("mid_block.resnets.1.conv1", ["middle_block.2.in_layers.2"]),
        ("up_blocks.1.attentions.2.proj_in", ["output_blocks.5.1.proj_in"]),
        ("up_blocks.0.upsamplers.0.conv", ["output_blocks.2.1.conv", "output_blocks.2.2.conv"]),
        ("add_embedding.linear_2", ["label_emb.0.2"]),
    ],
)
def test_the_original_codes_numbers(module: str, numbered: list[str]) -> None:
    assert original_names(module) == numbered


def test_what_is_not_understood_is_listed(tmp_path: Path) -> None:
    tensors = {f"lora_unet_x{k}.hada_w3_a": np.zeros(2, np.float32) for k in range(7)}
    path = write_tensors(tmp_path / "odd.safetensors", tensors)
    with pytest.raises(LoraError, match=r"not understood: lora_unet_x0\.hada_w3_a, .* and 2 more"):
        Adapter(path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_x.lora_up.weight": (2, 2)}, "has no down"),
        ({"lora_unet_x.lora_up.weight": (2, 0), "lora_unet_x.lora_down.weight": (0, 2)}, "rank"),
        ({"lora_unet_x.lora_up.weight": (2, 1), "lora_unet_x.lora_down.weight": ()}, "rank"),
        (
            {
                "lora_unet_x.lora_up.weight": (2, 1),
                "lora_unet_x.lora_down.weight": (1, 2),
                "lora_unet_x.alpha": (2,),
            },
            "not one number",
        ),
        ({}, "no tensors|bytes"),
    ],
)
def test_half_a_change_is_none(tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str) -> None:
    path = write_tensors(tmp_path / "a.safetensors", {k: np.zeros(s, np.float32) for k, s in tensors.items()})
    with pytest.raises(LoraError, match=re.compile(says)):
        Adapter(path)
