"""Packs to stand in for the files that workflows name: small random models of true layout, really built.

    python bench/wild_packs.py FOLDER

Writes FOLDER/packs (`sd1` and `sdxl` with every graph a pack can have, a ControlNet and IP-Adapters for each,
an image encoder, an upscaler) and FOLDER/sd1.safetensors, FOLDER/sdxl.safetensors: LoRA files of one layer.
Their pictures mean nothing; that a workflow runs on them is what counts. Takes two minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "quantize")]

import families  # noqa: E402  of the tests
import test_controlnet  # noqa: E402
import test_upscalers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from edgegen.pack import Pack  # noqa: E402
from quantize.cli import cli  # noqa: E402
from quantize.source import open_source  # noqa: E402
from tests.ipadapters import layout, write_adapter, write_encoder  # noqa: E402
from tests.loras import write_tensors  # noqa: E402

RANK = 2


def main(base: Path) -> None:
    base.mkdir(parents=True)
    packs = base / "packs"
    packs.mkdir()
    build(write_encoder(base / "eyes"), packs / "eyes")
    save_file(test_upscalers.weights_of(test_upscalers.RRDB), base / "upscaler.safetensors")
    build(base / "upscaler.safetensors", packs / "upscaler")
    for family in ("sd1", "sdxl"):
        write_family(base, packs, family)


def write_family(base: Path, packs: Path, family: str) -> None:
    source = families.write_family(base / family, family)
    set_size(source / "unet" / "config.json", 128 if families.is_sdxl(family) else 64)
    with_all = ("--with-control", "--with-ip-adapter", "--with-encoder", "--no-evaluate")
    build(source, packs / family, *with_all)
    build(test_controlnet.write_controlnet(source / "unet", base / f"{family}-net"), packs / f"{family}-net")
    layers = Pack.open(packs / family).manifest.ip_layers or []
    channels = tuple(layer.channels for layer in layers)
    for kind in ("basic", "plus"):
        file = base / f"{family}-{kind}.safetensors"
        build(write_adapter(file, layout(kind, open_source(source).words_width, channels)), packs / file.stem)
    write_lora(base / f"{family}.safetensors", families.unet(family))


def set_size(config: Path, side: int) -> None:
    """Pictures as large as those that such a model was made for, in latents."""
    data = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(data | {"sample_size": side}), "utf-8")


def write_lora(file: Path, unet: families.UNet2DConditionModel) -> None:
    """A change of one layer that all denoisers have."""
    rng = np.random.default_rng(0)
    outputs, inputs = unet.get_submodule("time_embedding.linear_1").weight.shape
    stem = "lora_unet_time_embedding_linear_1"
    down, up = rng.normal(0, 0.1, (RANK, inputs)), rng.normal(0, 0.1, (outputs, RANK))
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    write_tensors(file, {name: values.astype(np.float32) for name, values in tensors.items()})


def build(source: Path, out: Path, *flags: str) -> None:
    cli.main([str(source), "-o", str(out), "--precision", "fp32", "--quiet", *flags], standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
