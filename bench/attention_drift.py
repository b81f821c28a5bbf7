"""How far INT8 pictures are from the same graphs in float: with our attention, and with ONNX Runtime's.

python bench/attention_drift.py [--pack edgegen/packs/pocket] [--prompts 24]

The float graphs are the pack's own, without the rounding between layers: what is lost by 8-bit weights is in
both. PSNR in dB, SSIM over colours; 24 prompts of the built-in pack's subjects, seeds 0 to 23.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnx
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from edgegen.engine.pipeline import Picture, TextToImage
from edgegen.engine.providers import choose_provider
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import Pack, file_entry, read_manifest, write_manifest
from edgegen.settings import LimitSettings

ROLES = ("text_encoder", "unet", "vae_decoder")
COLOURS = ("red", "yellow", "blue", "green", "purple", "orange")
THINGS = ("apple", "car", "cat", "house", "tree", "fish", "star", "hat")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, default=Path("edgegen/packs/pocket"))
    parser.add_argument("--prompts", type=int, default=24, help="at most 48 (default 24)")
    args = parser.parse_args()
    prompts = [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS][: args.prompts]
    with tempfile.TemporaryDirectory() as folder:
        wanted = pictures(in_float(args.pack, Path(folder) / "float"), "runtime", prompts)
    for attention, name in (("runtime", "ONNX Runtime's"), ("auto", "ours")):
        drawn = pictures(Pack.open(args.pack), attention, prompts)
        pairs = list(zip(wanted, drawn, strict=True))
        ssim = [structural_similarity(a, b, channel_axis=2) for a, b in pairs]
        psnr = [peak_signal_noise_ratio(a, b) for a, b in pairs]
        means = statistics.fmean(ssim), min(ssim), statistics.fmean(psnr), min(psnr)
        print("attention {}: SSIM {:.4f} (worst {:.4f}), PSNR {:.2f} dB (worst {:.2f})".format(name, *means))


def in_float(pack: Path, folder: Path) -> Pack:
    """A copy whose graphs do not round between layers."""
    shutil.copytree(pack, folder)
    manifest = read_manifest(folder)
    graphs = dict(manifest.graphs)
    for role in ROLES:
        entry = graphs[role]
        unrounded(folder / entry.file)
        files = entry.files | {entry.file: file_entry(folder / entry.file)}
        graphs[role] = entry.model_copy(update={"precision": "fp32", "files": files})
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs}))
    return Pack.open(folder)


def unrounded(path: Path) -> None:
    """Take QuantizeLinear and the DequantizeLinear behind it out of a graph; weights stay as they are."""
    model = onnx.load(str(path), load_external_data=False)
    nodes = model.graph.node
    quantized = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    pairs = [node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in quantized]
    instead = {node.output[0]: quantized[node.input[0]] for node in pairs}
    kept = [node for node in nodes if node.op_type != "QuantizeLinear" and node not in pairs]
    for node in kept:
        for place, name in enumerate(node.input):
            while name in instead:
                name = instead[name]
            node.input[place] = name
    del nodes[:]
    nodes.extend(kept)
    path.write_bytes(model.SerializeToString())


def pictures(pack: Pack, attention: str, prompts: list[str]) -> list[np.ndarray]:
    drawn = []
    with TextToImage(pack, choose_provider("cpu", operators=attention)) as pipeline:
        for seed, prompt in enumerate(prompts):
            request = JobRequest(id="drift", prompt=prompt, seed=seed)
            *_, last = pipeline.generate(resolve_settings(pack, request, LimitSettings()))
            assert isinstance(last, Picture)
            drawn.append(last.pixels)
    return drawn


if __name__ == "__main__":
    main()
