"""What the runners need, made once below WORK: checkpoint, graphs as exported, stock QDQ, our pack.

    python -m bench.peers.prepare WORK [PART ...]

Parts: checkpoint, exported, stock-qdq, edgegen-int8. One that is there stays.
Needs the dev environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
OPSET = 18
CALIBRATION_SIDE = 32  # latents; stock calibration keeps every tensor of a run in memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        make(part, args.work)


def make(part: str, work: Path) -> None:
    """Make a part unless it is there; it appears under its name when it is whole."""
    out = work / part
    if out.exists():
        return
    print(f"preparing {part}", file=sys.stderr, flush=True)
    PARTS[part](work, work / f"{part}.part")
    (work / f"{part}.part").rename(out)


def checkpoint(_work: Path, out: Path) -> None:
    command = [sys.executable, str(ROOT / "bench/checkpoints.py"), "sd15", str(out)]
    subprocess.run(command, check=True)


def exported(work: Path, out: Path) -> None:
    """The three graphs as torch.onnx traces diffusers and transformers, nothing rewritten."""
    import torch
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    folder = work / "checkpoint"
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", attn_implementation="eager").eval()
    _trace(_First(text), {"input_ids": torch.ones(1, 77, dtype=torch.int64)}, out / "text_encoder")
    tiny = AutoencoderTiny.from_pretrained(folder / "vae").eval()
    _trace(_Decode(tiny), {"latent_sample": torch.randn(1, 4, 64, 64)}, out / "vae_decoder")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    feeds = {
        "sample": torch.randn(1, 4, 64, 64),
        "timestep": torch.tensor([501.0]),
        "encoder_hidden_states": torch.randn(1, 77, 768),
    }
    _trace(_First(unet), feeds, out / "unet")


def _First(model):  # type: ignore[no-untyped-def]
    import torch

    class First(torch.nn.Module):
        """The first output alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs):  # type: ignore[no-untyped-def]
            return self.model(*inputs, return_dict=False)[0]

    return First()


def _Decode(model):  # type: ignore[no-untyped-def]
    import torch

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, latents):  # type: ignore[no-untyped-def]
            return self.model.decode(latents, return_dict=False)[0]

    return Decode()


def _trace(module, feeds: dict, folder: Path) -> None:  # type: ignore[no-untyped-def]
    import onnx
    import torch

    folder.mkdir(parents=True)
    path = folder / "traced.onnx"
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("sample", "latent_sample", "out")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(feeds.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(feeds),
            output_names=["out"],
            dynamic_axes={name: axes[name] for name in (*feeds, "out") if name in axes},
        )
    model = onnx.load(str(path))
    for leftover in list(folder.iterdir()):
        leftover.unlink()
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx.data")


def stock_qdq(work: Path, out: Path) -> None:
    """onnxruntime.quantization.quantize_static of everything, at its own defaults, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            side = CALIBRATION_SIDE
            shapes = {"sample": (1, 4, side, side), "encoder_hidden_states": (1, 77, 768)}
            feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            self.rows = iter([feeds | {"timestep": np.array([float(t)], np.float32)} for t in (901, 101)])

        def get_next(self):  # type: ignore[no-untyped-def]
            return next(self.rows, None)

    graph = work / "exported/unet/model.onnx"
    (out / "unet").mkdir(parents=True)
    prepared = out / "prepared.onnx"
    quant_pre_process(
        str(graph), str(prepared), skip_optimization=True, skip_symbolic_shape=True,
        save_as_external_data=True, all_tensors_to_one_file=True, external_data_location="prepared.data",
    )  # fmt: skip
    quantize_static(
        str(prepared), str(out / "unet/model.onnx"), Reader(), quant_format=QuantFormat.QDQ,
        per_channel=True, use_external_data_format=True,
    )  # fmt: skip
    for leftover in out.glob("prepared*"):
        leftover.unlink()


def edgegen_int8(work: Path, out: Path) -> None:
    """Our own command at its defaults for a large checkpoint."""
    command = [
        sys.executable,
        "-m",
        "quantize",
        str(work / "checkpoint"),
        "-o",
        str(out),
        "--name",
        "sd15-random",
    ]
    subprocess.run(command, check=True, cwd=ROOT)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "checkpoint": checkpoint,
    "exported": exported,
    "stock-qdq": stock_qdq,
    "edgegen-int8": edgegen_int8,
}

if __name__ == "__main__":
    main()
