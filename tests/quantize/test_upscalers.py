"""Upscalers: recognised by their tensors, exported, and the same as the papers' nets written once more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import save_file

from edgegen.component import Component
from edgegen.engine.providers import choose_provider
from edgegen.engine.upscaling import Upscaler
from edgegen.errors import PackError
from edgegen.pack import Pack
from quantize.cli import cli
from quantize.refusal import SourceError
from quantize.upscalerkeys import UpscalerLayout, compact_shapes, find_upscaler, rrdb_shapes

Weights = dict[str, torch.Tensor]
RRDB = UpscalerLayout("rrdb", {}, 8, 4, 2, 2, 1, 4)
FOLDED = UpscalerLayout("rrdb", {}, 8, 4, 1, 2, 2, 2)
COMPACT = UpscalerLayout("compact", {}, 8, 0, 2, 0, 1, 3)


def weights_of(layout: UpscalerLayout) -> Weights:
    shapes = rrdb_shapes(layout) if layout.net == "rrdb" else compact_shapes(layout)
    torch.manual_seed(1)
    return {name: torch.randn(shape) * 0.15 for name, shape in shapes.items()}


def first_spelling(weights: Weights) -> Weights:
    """ESRGAN's first release, of two doublings."""
    places = {"conv_first": 0, "conv_up1": 3, "conv_up2": 6, "conv_hr": 8, "conv_last": 10}
    found = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[0] == "body":
            new = f"model.1.sub.{parts[1]}.RDB{parts[2][-1]}.{parts[3]}.0.{parts[4]}"
        elif parts[0] == "conv_body":
            new = f"model.1.sub.2.{parts[1]}"
        else:
            new = f"model.{places[parts[0]]}.{parts[1]}"
        found[new] = tensor
    return found


def second_spelling(weights: Weights) -> Weights:
    found = {}
    for name, tensor in weights.items():
        new = name.replace("body.", "RRDB_trunk.") if name.startswith("body") else name
        for ours, theirs in ((".rdb", ".RDB"), ("conv_body", "trunk_conv"), ("conv_up", "upconv")):
            new = new.replace(ours, theirs)
        found[new.replace("conv_hr", "HRconv")] = tensor
    return found


def wrapped(weights: Weights) -> Weights:
    return {f"params_ema.{name}": tensor.half() for name, tensor in weights.items()}


def reference(w: Weights, x: torch.Tensor, layout: UpscalerLayout) -> torch.Tensor:
    """The equations alone, without modules."""

    def conv(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.conv2d(value, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    if layout.net == "compact":
        y, last = x, 2 * layout.depth + 2
        for k in range(0, last, 2):
            y = F.prelu(conv(f"body.{k}", y), w[f"body.{k + 1}.weight"])
        larger = x.repeat_interleave(layout.scale, 2).repeat_interleave(layout.scale, 3)
        return F.pixel_shuffle(conv(f"body.{last}", y), layout.scale) + larger
    start = y = conv("conv_first", F.pixel_unshuffle(x, layout.unshuffle))
    for b in range(layout.depth):
        block = y
        for d in (1, 2, 3):
            x1 = F.leaky_relu(conv(f"body.{b}.rdb{d}.conv1", block), 0.2)
            x2 = F.leaky_relu(conv(f"body.{b}.rdb{d}.conv2", torch.cat((block, x1), 1)), 0.2)
            x3 = F.leaky_relu(conv(f"body.{b}.rdb{d}.conv3", torch.cat((block, x1, x2), 1)), 0.2)
            x4 = F.leaky_relu(conv(f"body.{b}.rdb{d}.conv4", torch.cat((block, x1, x2, x3), 1)), 0.2)
            block = block + 0.2 * conv(f"body.{b}.rdb{d}.conv5", torch.cat((block, x1, x2, x3, x4), 1))
        y = y + 0.2 * block
    y = start + conv("conv_body", y)
    for k in range(layout.doublings):
        y = F.leaky_relu(conv(f"conv_up{k + 1}", y.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", y), 0.2))


def build(file: Path, out: Path, *more: str) -> Component:
    cli.main([str(file), "-o", str(out), "--quiet", *more], standalone_mode=False)
    return Component.open(out)


@pytest.mark.parametrize(
    ("layout", "spelling"),
    [
        (RRDB, dict),
        (RRDB, first_spelling),
        (RRDB, second_spelling),
        (FOLDED, wrapped),
        (COMPACT, dict),
        (COMPACT, wrapped),
    ],
)
def test_every_spelling_becomes_the_same_net(
    layout: UpscalerLayout, spelling: Callable[[Weights], Weights], tmp_path: Path
) -> None:
    weights = weights_of(layout)
    save_file(spelling(weights), tmp_path / "4x_tiny.safetensors")
    component = build(tmp_path / "4x_tiny.safetensors", tmp_path / "pack", "--precision", "fp32")
    assert component.manifest.scale == layout.scale
    if spelling is wrapped:
        weights = {name: tensor.half().float() for name, tensor in weights.items()}
    picture = torch.rand(1, 3, 25, 33)  # odd: a folded input must be padded
    padded = F.pad(picture, (0, 33 % layout.unshuffle, 0, 25 % layout.unshuffle), mode="replicate")
    wanted = reference(weights, padded, layout)[..., : 25 * layout.scale, : 33 * layout.scale].clamp(0, 1)
    upscaler = Upscaler(component, choose_provider("cpu"), 1)
    got = upscaler.enlarge(picture.numpy())
    upscaler.close()
    assert wanted.std() > 0.05, "a flat picture would prove nothing"
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-3)


def test_fp16_is_what_is_made_unasked_and_close(tmp_path: Path) -> None:
    save_file(weights_of(COMPACT), tmp_path / "small.safetensors")
    halves, whole = (
        build(tmp_path / "small.safetensors", tmp_path / name, *more)
        for name, more in (("a", ()), ("b", ("--precision", "fp32", "--licence", "CC0", "--name", "mine")))
    )
    assert halves.manifest.graphs["upscaler"].precision == "fp16"
    assert (halves.name, whole.name, whole.manifest.licence) == ("small", "mine", "CC0")
    picture = np.random.default_rng(0).random((1, 3, 24, 24), np.float32)
    a, b = (Upscaler(c, choose_provider("cpu"), 1).enlarge(picture) for c in (halves, whole))
    assert 0 < np.abs(a - b).max() < 5e-3


def test_it_is_no_pack_for_words(tmp_path: Path) -> None:
    save_file(weights_of(COMPACT), tmp_path / "small.safetensors")
    build(tmp_path / "small.safetensors", tmp_path / "pack")
    assert json.loads((tmp_path / "pack" / "pack.json").read_text("utf-8"))["kind"] == "upscaler"
    with pytest.raises(PackError, match="no pictures from words: it is an 'upscaler'"):
        Pack.open(tmp_path / "pack")


def refusal(weights: Weights, folder: Path, *more: str) -> str:
    save_file(weights, folder / "bad.safetensors")
    done = CliRunner().invoke(cli, [str(folder / "bad.safetensors"), "-o", str(folder / "out"), *more])
    assert isinstance(done.exception, SourceError), done.output
    assert not (folder / "out").exists()
    return str(done.exception)


def test_what_is_not_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    extra = weights_of(RRDB) | {"body.0.rdb1.conv1x1.weight": torch.zeros(4, 8, 1, 1)}
    assert "'body.0.rdb1.conv1x1.weight' is unknown" in refusal(extra, tmp_path)
    lost = {name: t for name, t in weights_of(COMPACT).items() if name != "body.2.bias"}
    assert "body.2.bias is missing" in refusal(lost, tmp_path)
    grey = weights_of(RRDB) | {"conv_first.weight": torch.zeros(8, 1, 3, 3)}
    assert "pictures of 3 channels are read" in refusal(grey, tmp_path)
    odd = weights_of(COMPACT) | {"body.6.weight": torch.zeros(26, 8, 3, 3)}
    assert "26 channels" in refusal(odd, tmp_path)
    assert "fp32 or fp16" in refusal(weights_of(COMPACT), tmp_path, "--precision", "int8")


def test_other_files_are_not_taken_for_upscalers(checkpoint: Path, tmp_path: Path) -> None:
    save_file({"conv_first.weight": torch.zeros(4)}, tmp_path / "odd.safetensors")
    assert find_upscaler(tmp_path / "odd.safetensors") is None
    assert find_upscaler(next((checkpoint / "unet").glob("*.safetensors"))) is None
    assert find_upscaler(checkpoint) is None
    assert find_upscaler(tmp_path / "4x.pth") is None
