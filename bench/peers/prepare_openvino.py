"""OpenVINO's own models of the graphs as exported: fp16, 8-bit weights, NNCF's full INT8.

    python -m bench.peers.prepare_openvino WORK

Needs an environment with openvino and nncf; see requirements/peers.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROLES = ("text_encoder", "unet", "vae_decoder")
RUNS = 4  # calibration runs of the denoiser


def main() -> None:
    work = Path(sys.argv[1])
    for name, make in (
        ("openvino-fp16", fp16),
        ("openvino-w8", weights_int8),
        ("openvino-nncf-int8", full_int8),
    ):
        if not (work / name).exists():
            print(f"preparing {name}", file=sys.stderr, flush=True)
            make(work, work / f"{name}.part")
            (work / f"{name}.part").rename(work / name)


def fp16(work: Path, out: Path) -> None:
    import openvino as ov

    for role in ROLES:
        model = ov.convert_model(str(work / "exported" / role / "model.onnx"))
        ov.save_model(model, str(out / f"{role}.xml"), compress_to_fp16=True)


def weights_int8(work: Path, out: Path) -> None:
    import nncf
    import openvino as ov

    model = nncf.compress_weights(ov.convert_model(str(work / "exported/unet/model.onnx")))
    ov.save_model(model, str(out / "unet.xml"))


def full_int8(work: Path, out: Path) -> None:
    """As OpenVINO's notebooks quantize Stable Diffusion's denoiser: everything, transformer preset."""
    import nncf
    import openvino as ov

    rng = np.random.default_rng(0)
    rows = [
        {
            "sample": rng.standard_normal((1, 4, 64, 64), np.float32),
            "timestep": np.array([t], np.float32),
            "encoder_hidden_states": rng.standard_normal((1, 77, 768), np.float32),
        }
        for t in np.linspace(981, 21, RUNS)
    ]
    model = ov.convert_model(str(work / "exported/unet/model.onnx"))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(rows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=RUNS,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )
    ov.save_model(quantized, str(out / "unet.xml"))


if __name__ == "__main__":
    main()
