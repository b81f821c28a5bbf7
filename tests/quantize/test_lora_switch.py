"""Loaded INT8 graphs that change from one LoRA to another draw what they would draw if loaded for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from test_lora import CONVOLUTIONS, LATENTS, MATRICES, changes, kohya, stages_of

from edgegen.engine.conditioning import Encoding
from edgegen.engine.lora.merge import LoraUse
from edgegen.engine.stages import Stages
from edgegen.errors import LoraError
from edgegen.pack import Pack
from quantize.cli import cli
from tests.loras import write_tensors

FLOAT = "conv_in"
MakeUse = Callable[..., LoraUse]


@pytest.fixture
def make_use(checkpoint: Path, tmp_path: Path) -> MakeUse:
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")

    def make(name: str, modules: tuple[str, ...], strength: float = 1.0, seed: int = 3) -> LoraUse:
        path = tmp_path / f"{name}.safetensors"
        if not path.exists():
            write_tensors(path, kohya("lora_unet_", changes(unet, modules, seed)))
        return LoraUse(path, strength)

    return make


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    return Encoding(np.random.default_rng(1).normal(size=(1, 16, 16)).astype(np.float32))


@pytest.fixture(scope="module")
def float_pack(packs, checkpoint: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """INT8, but for a convolution whose weights ONNX Runtime widens from FP16 as it loads the graph."""
    out = tmp_path_factory.mktemp("float") / "pack"
    words = ["--calibration-prompts", str(prompts), "--evaluation-prompts", str(prompts)]
    args = [str(checkpoint), "-o", str(out), "--precision", "int8", *words, "--keep-float", f"*{FLOAT}*"]
    cli.main([*args, "--no-evaluate"], standalone_mode=False)
    return Pack.open(out)


def drawn(stages: Stages, encoding: Encoding) -> np.ndarray:
    return stages.unet(LATENTS, 500, encoding)


def drawn_anew(pack: Pack, use: LoraUse | None, encoding: Encoding, mode: str = "full") -> np.ndarray:
    stages = stages_of(pack, mode)
    return drawn(stages.with_loras(use) if use else stages, encoding)


@pytest.mark.parametrize("mode", ["full", "mapped", "low"])
def test_another_lora_needs_no_new_session_and_draws_the_same(packs, make_use, encoding, mode: str) -> None:
    pack, stages = packs["int8"], stages_of(packs["int8"], mode)
    strong, weak = (make_use("a", (*MATRICES, *CONVOLUTIONS), strength) for strength in (0.9, 0.3))
    first = drawn(stages.with_loras(strong), encoding)
    session = stages.with_loras(strong).sessions.get("unet")
    second = drawn(stages.with_loras(weak), encoding)
    assert stages.with_loras(weak).sessions.get("unet") is session
    assert np.array_equal(first, drawn_anew(pack, strong, encoding, mode))
    assert np.array_equal(second, drawn_anew(pack, weak, encoding, mode))
    assert not np.array_equal(first, second)


def test_back_to_the_packs_own_weights(packs, make_use, encoding) -> None:
    stages = stages_of(packs["int8"])
    plain = drawn(stages, encoding)
    adapted = stages.with_loras(make_use("a", MATRICES))
    changed = drawn(adapted, encoding)
    session = adapted.sessions.get("unet")
    assert np.array_equal(drawn(stages, encoding), plain)
    assert stages.sessions.get("unet") is session
    assert np.array_equal(drawn(adapted, encoding), changed)


def test_layers_that_are_not_open_are_loaded_anew(packs, make_use, encoding) -> None:
    pack, stages = packs["int8"], stages_of(packs["int8"])
    few, many = make_use("few", MATRICES[:1]), make_use("many", (*MATRICES, *CONVOLUTIONS))
    drawn(stages.with_loras(few), encoding)
    session = stages.with_loras(few).sessions.get("unet")
    assert np.array_equal(drawn(stages.with_loras(many), encoding), drawn_anew(pack, many, encoding))
    wider = stages.with_loras(many).sessions.get("unet")
    assert wider is not session
    assert np.array_equal(drawn(stages.with_loras(few), encoding), drawn_anew(pack, few, encoding))
    assert stages.with_loras(few).sessions.get("unet") is wider


def test_a_lora_that_fails_leaves_the_next_job_right(packs, make_use, encoding, tmp_path: Path) -> None:
    stages = stages_of(packs["int8"])
    good = make_use("a", MATRICES)
    wanted = drawn(stages.with_loras(good), encoding)
    parts = np.full((3, 32), np.inf, np.float32), np.ones((32, 3), np.float32)
    tensors = kohya("lora_unet_", {MATRICES[0]: parts})
    bad = LoraUse(write_tensors(tmp_path / "bad.safetensors", tensors))
    with pytest.raises(LoraError):
        drawn(stages.with_loras(bad), encoding)
    assert np.array_equal(drawn(stages.with_loras(good), encoding), wanted)


def test_a_lora_that_fails_on_layers_left_in_float(
    float_pack: Pack, make_use, encoding, tmp_path: Path
) -> None:
    stages = stages_of(float_pack)
    drawn(stages.with_loras(make_use("a", (FLOAT, *MATRICES))), encoding)
    good = make_use("c", (FLOAT,)).path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(good[: 8 + size] + b"\xff" * (len(good) - 8 - size))  # no numbers
    with pytest.raises(LoraError):
        drawn(stages.with_loras(LoraUse(bad)), encoding)
    assert np.array_equal(drawn(stages, encoding), drawn_anew(float_pack, None, encoding))


def test_layers_left_in_float_change_too(float_pack: Pack, make_use, encoding) -> None:
    plain = drawn_anew(float_pack, None, encoding)
    one, other = make_use("a", (FLOAT, *MATRICES)), make_use("b", MATRICES, seed=4)
    stages = stages_of(float_pack)
    for use in (one, other, one, None, other, None, one):
        adapted = stages.with_loras(use) if use else stages
        assert np.array_equal(drawn(adapted, encoding), drawn_anew(float_pack, use, encoding))
    assert not np.array_equal(drawn_anew(float_pack, one, encoding), plain)
    assert any(FLOAT in name for name in stages.with_loras(one).sessions.get("unet").open_to)
