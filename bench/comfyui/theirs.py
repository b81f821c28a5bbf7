"""Workflows by ComfyUI's own code of March 2023 (the package comfylib 0.0.5), on the CPU.

    python theirs.py FOLDER

FOLDER holds what `model` wrote and `cases.json`; `theirs.npz` is written: a picture (h, w, 3) uint8 a case.
Only the plumbing between nodes is here: prompts, weights, conditioning, noise levels, solvers, LoRA,
denoiser and autoencoder are theirs. Where ComfyUI has changed since, today's way is taken and a comment
says so.
"""

from __future__ import annotations

import functools
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTextModel  # noqa: F401  before torchvision is pretended


def pretend_torchvision() -> None:
    """k-diffusion's training helpers import it; sampling does not."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.utils"):
        module = types.ModuleType(name)
        module.__getattr__ = lambda _: None  # type: ignore[method-assign]
        sys.modules[name] = module


pretend_torchvision()
sys.argv.append(
    "--use-split-cross-attention"
)  # the plain one; what it takes by itself chunks even small pictures

from comfy.hazard import model_management, samplers, sd  # noqa: E402

model_management.maximum_batch_area = lambda: 0  # as ComfyUI has it on a CPU; the package asks CUDA
# Attention asks how much of a card is free, to choose its slices.
torch.cuda.current_device = lambda: 0
torch.cuda.memory_stats = lambda _device=None: {
    "active_bytes.all.current": 0,
    "reserved_bytes.all.current": 0,
}
torch.cuda.mem_get_info = lambda _device=None: (1 << 33, 1 << 33)


@functools.cache
def checkpoint(folder: Path, name: str) -> tuple:
    config, weights = str(folder / "small.yaml"), str(folder / name)
    model, clip, vae = sd.load_checkpoint(config, weights, embedding_directory=str(folder / "embeddings"))
    model.model.eval()
    return model, clip, vae


class Nodes:
    """One method a node, named as it; results are kept by node id."""

    def __init__(self, folder: Path, graph: dict[str, Any]):
        self.folder, self.graph, self.done = folder, graph, {}

    def value(self, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        id_, output = given
        if id_ not in self.done:
            node = self.graph[id_]
            inputs = {key: self.value(item) for key, item in node["inputs"].items()}
            self.done[id_] = getattr(self, node["class_type"])(**inputs)
        return self.done[id_][output]

    def CheckpointLoaderSimple(self, ckpt_name: str) -> tuple:
        return checkpoint(self.folder, ckpt_name)

    def LoraLoader(self, model, clip, lora_name, strength_model, strength_clip) -> tuple:  # type: ignore[no-untyped-def]
        path = str(self.folder / "loras" / lora_name)
        return sd.load_lora_for_models(model, clip, path, strength_model, strength_clip)

    def CLIPSetLastLayer(self, clip, stop_at_clip_layer) -> tuple:  # type: ignore[no-untyped-def]
        clip = clip.clone()
        clip.clip_layer(stop_at_clip_layer)
        return (clip,)

    def CLIPTextEncode(self, text, clip) -> tuple:  # type: ignore[no-untyped-def]
        if clip.layer_idx is None:
            clip.cond_stage_model.layer = (
                "last"  # one model for all cases, and it remembers an earlier choice
            )
        return ([[clip.encode(text), {}]],)

    def ConditioningCombine(self, conditioning_1, conditioning_2) -> tuple:  # type: ignore[no-untyped-def]
        return (conditioning_1 + conditioning_2,)

    def ConditioningSetArea(self, conditioning, width, height, x, y, strength) -> tuple:  # type: ignore[no-untyped-def]
        place = (height // 8, width // 8, y // 8, x // 8)
        return ([[rows, {**more, "area": place, "strength": strength}] for rows, more in conditioning],)

    def EmptyLatentImage(self, width, height, batch_size) -> tuple:  # type: ignore[no-untyped-def]
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)},)

    def LoadImage(self, image: str) -> tuple:
        pixels = np.asarray(Image.open(self.folder / "input" / image).convert("RGB"), np.float32) / 255
        return (torch.from_numpy(pixels)[None],)

    def LoadImageMask(self, image: str, channel: str) -> tuple:
        band = Image.open(self.folder / "input" / image).getchannel(channel[0].upper())
        return (torch.from_numpy(np.asarray(band, np.float32) / 255),)

    def VAEEncode(self, pixels, vae) -> tuple:  # type: ignore[no-untyped-def]
        # The mean, as ComfyUI takes today; in 2023 it drew from the distribution.
        found = vae.first_stage_model.encode(2 * pixels.movedim(-1, 1) - 1).mode() * vae.scale_factor
        return ({"samples": found},)

    def SetLatentNoiseMask(self, samples, mask) -> tuple:  # type: ignore[no-untyped-def]
        return ({**samples, "noise_mask": mask},)

    def KSampler(self, seed, model, positive, negative, latent_image, denoise=1.0, **rest) -> tuple:  # type: ignore[no-untyped-def]
        return (sampled(model, seed, positive, negative, latent_image, denoise=denoise, **rest),)

    def KSamplerAdvanced(  # type: ignore[no-untyped-def]
        self, noise_seed, add_noise, start_at_step, end_at_step, return_with_leftover_noise, **rest
    ) -> tuple:
        part = {"start_step": start_at_step, "last_step": end_at_step}
        part["force_full_denoise"] = return_with_leftover_noise == "disable"
        rest["latent"] = rest.pop("latent_image")
        return (sampled(seed=noise_seed, quiet=add_noise == "disable", part=part, **rest),)

    def VAEDecode(self, samples, vae) -> tuple:  # type: ignore[no-untyped-def]
        return (vae.decode(samples["samples"]),)

    def SaveImage(self, images, filename_prefix) -> tuple:  # type: ignore[no-untyped-def]
        return (np.clip(255.0 * images[0].numpy(), 0, 255).astype(np.uint8),)


def sampled(  # type: ignore[no-untyped-def]
    model,
    seed,
    positive,
    negative,
    latent,
    steps,
    cfg,
    sampler_name,
    scheduler,
    denoise=1.0,
    quiet=False,
    part=None,
) -> dict[str, Any]:
    latents = latent["samples"]
    noise = torch.randn(latents.shape, generator=torch.manual_seed(seed))
    if quiet:
        noise = torch.zeros_like(noise)
    mask = latent.get("noise_mask")
    if mask is not None:
        mask = torch.nn.functional.interpolate(mask[None, None], size=latents.shape[2:], mode="bilinear")
        mask = torch.cat([mask] * 4, 1)
    model.patch_model()
    try:
        own = samplers.KSampler(
            model.model,
            steps,
            torch.device("cpu"),
            f"sample_{sampler_name}",
            scheduler,
            # Today a whole run keeps every level that the schedule has; in 2023 the last `steps` of them.
            None if denoise == 1.0 else denoise,
        )
        if torch.isclose(own.sigmas[0], own.model_wrap.sigmas[-1]) and not quiet:
            # From the noisiest level ComfyUI scales the noise by sqrt(1 + sigma^2) today; in 2023, by sigma.
            noise = noise * (torch.sqrt(1 + own.sigmas[0] ** 2) / own.sigmas[0])
        positive, negative = ([[rows, dict(more)] for rows, more in c] for c in (positive, negative))
        with torch.no_grad():
            found = own.sample(
                noise, positive, negative, cfg=cfg, latent_image=latents, denoise_mask=mask, **(part or {})
            )
    finally:
        model.unpatch_model()
    return {"samples": found}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # two that wait for each other take ten times as long on a busy machine
    pictures = {}
    for name, graph in json.loads((folder / "cases.json").read_text("utf-8")).items():
        print(name, file=sys.stderr, flush=True)
        pictures[name] = Nodes(folder, graph).value(["9", 0])
    np.savez(folder / "theirs.npz", **pictures)


if __name__ == "__main__":
    main()
