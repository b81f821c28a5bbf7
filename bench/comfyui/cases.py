"""The workflows compared, as ComfyUI's API format has them."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]

SIDE = 128
SAMPLERS = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
SCHEDULES = ("normal", "karras", "simple", "ddim_uniform")
LONG = ", ".join(f"{colour} {thing}" for colour in ("red", "green", "pale blue", "black") for thing in (
    "apple on a wooden table", "lighthouse in the rain", "bicycle against a wall", "cat asleep on the stairs"
))  # fmt: skip


def cases() -> dict[str, Graph]:
    """Name -> workflow; every one ends in a SaveImage called `9`."""
    found = {f"{s}, {c}": sampled(sampler_name=s, scheduler=c) for s in SAMPLERS for c in SCHEDULES}
    found["weights (a:1.4), ((b)), \\("] = prompted(
        r"a (red:1.4) apple, ((ripe)) \(on\) (a (wooden:0.6) table:1.1)"
    )
    found["a prompt of two chunks"] = prompted(LONG)
    found["embedding:twotokens"] = prompted("a photo of embedding:twotokens, (embedding:twotokens:1.3)")
    found["CLIPSetLastLayer -2"] = clip_skip()
    found["ConditioningCombine"] = combined()
    found["ConditioningSetArea"] = area()
    found["img2img, denoise 0.6"] = from_picture(denoise=0.6)
    found["SetLatentNoiseMask, denoise 0.8"] = masked()
    found["KSamplerAdvanced, in two parts"] = two_parts()
    found["LoraLoader 0.8, 0.5"] = lora()
    return found


def sampled(**changes: Any) -> Graph:
    """Text to picture."""
    settings = {
        "seed": 42, "steps": 6, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "4": node("CheckpointLoaderSimple", ckpt_name="small.safetensors"),
        "5": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        "6": node("CLIPTextEncode", text="a red apple on a wooden table", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry, low quality", clip=["4", 1]),
        "3": node("KSampler", **{**settings, **links, **changes}),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def prompted(text: str) -> Graph:
    graph = sampled()
    graph["6"]["inputs"]["text"] = text
    return graph


def clip_skip() -> Graph:
    graph = sampled()
    graph["10"] = node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["4", 1])
    for id_ in "67":
        graph[id_]["inputs"]["clip"] = ["10", 0]
    return graph


def combined() -> Graph:
    graph = sampled(positive=["11", 0])
    graph["10"] = node("CLIPTextEncode", text="a lighthouse in the rain", clip=["4", 1])
    graph["11"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["10", 0])
    return graph


def area() -> Graph:
    """In a corner and large: of others ComfyUI has changed how it softens their edges."""
    graph = combined()
    graph["5"]["inputs"].update(width=3 * SIDE, height=3 * SIDE)
    graph["12"] = node(
        "ConditioningSetArea",
        conditioning=["10", 0],
        width=2 * SIDE,
        height=2 * SIDE,
        x=0,
        y=0,
        strength=0.9,
    )
    graph["11"]["inputs"]["conditioning_2"] = ["12", 0]
    return graph


def from_picture(**changes: Any) -> Graph:
    graph = sampled(latent_image=["11", 0], **changes)
    graph["10"] = node("LoadImage", image="photo.png")
    graph["11"] = node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    return graph


def masked() -> Graph:
    graph = from_picture(denoise=0.8)
    graph["12"] = node("LoadImageMask", image="mask.png", channel="red")
    graph["13"] = node("SetLatentNoiseMask", samples=["11", 0], mask=["12", 0])
    graph["3"]["inputs"]["latent_image"] = ["13", 0]
    return graph


def two_parts() -> Graph:
    graph = sampled()
    shared = {**graph["3"]["inputs"], "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    shared["noise_seed"] = shared.pop("seed")
    del shared["denoise"]
    first = {
        "add_noise": "enable",
        "start_at_step": 0,
        "end_at_step": 3,
        "return_with_leftover_noise": "enable",
    }
    second = {
        "add_noise": "disable",
        "start_at_step": 3,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    graph["10"] = node("KSamplerAdvanced", **shared, **first)
    graph["3"] = node("KSamplerAdvanced", **{**shared, "latent_image": ["10", 0]}, **second)
    return graph


def lora() -> Graph:
    graph = sampled(model=["10", 0])
    strengths = {"strength_model": 0.8, "strength_clip": 0.5}
    graph["10"] = node(
        "LoraLoader", lora_name="small.safetensors", model=["4", 0], clip=["4", 1], **strengths
    )
    for id_ in "67":
        graph[id_]["inputs"]["clip"] = ["10", 1]
    return graph
