"""IP-Adapters, recognised by the names in a .safetensors file.

An image encoder's rows become a few tokens, and those the keys and values of every cross attention of a
denoiser: once for a picture, not once a step. Source: Ye et al. 2023, arXiv:2308.06721.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .refusal import PICKLES, SourceError, raise_if
from .tensorfile import read_tensors

PROJECTION, LAYERS = "image_proj.", "ip_adapter."
HEAD = 64  # channels of a head of the resampler
LAYERS_MAX = 1024
_LAYER = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.weight")
_UNREAD = {
    "image_proj.proj.3.weight": "a full-face adapter",
    "image_proj.perceiver_resampler.proj_in.weight": "a FaceID adapter, which needs a face detector",
    "image_proj.proj.2.weight": "a FaceID adapter, which needs a face detector",
    "ip_adapter.0.to_q_lora.down.weight": "a FaceID adapter, which needs a face detector",
}
Reads = Literal["image_embeds", "hidden_states"]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class IpAdapterLayout:
    """What a file's names and shapes say.

    Attributes:
        reads: of an image encoder: the basic kind `image_embeds`, the plus kind `hidden_states`.
        reads_width: channels of that.
        tokens: how many a picture becomes.
        words_width: channels of a token: those of the denoiser's words.
        numbers: what its layers are called, in order; channels: of each one's keys.
        depth: blocks of the resampler; 0 for the basic kind.
        width, heads: of the resampler.
    """

    reads: Reads
    reads_width: int
    tokens: int
    words_width: int
    numbers: tuple[int, ...]
    channels: tuple[int, ...]
    depth: int = 0
    width: int = 0
    heads: int = 0


def find_ip_adapter(file: Path) -> IpAdapterLayout | None:
    """What the IP-Adapter in a file is; None for a folder, a pickle, or a file with something else.

    Raises:
        SourceError: the file is no sound safetensors file, or an adapter of a kind that is not read.
    """
    if not file.is_file() or file.suffix in PICKLES:
        return None
    shapes = {name: info.shape for name, info in read_tensors(file).items()}
    if not any(name.startswith(PROJECTION) for name in shapes):
        return None
    for name, kind in _UNREAD.items():
        if name in shapes:
            raise SourceError(f"{file} is {kind}; read are IP-Adapters of the basic and the plus kind")
    try:
        layout = _plus(shapes) if "image_proj.latents" in shapes else _basic(shapes)
    except (KeyError, ValueError, ZeroDivisionError) as err:
        what = f"lacks {err}" if isinstance(err, KeyError) else f"has a tensor of another shape ({err})"
        raise SourceError(f"{file} looks like an IP-Adapter but {what}") from None
    raise_if(file, _problems(shapes, layout))
    return layout


def _basic(shapes: Shapes) -> IpAdapterLayout:
    rows, reads_width = shapes["image_proj.proj.weight"]
    (words_width,) = shapes["image_proj.norm.weight"]
    numbers, channels = _layers(shapes)
    return IpAdapterLayout("image_embeds", reads_width, rows // words_width, words_width, numbers, channels)


def _plus(shapes: Shapes) -> IpAdapterLayout:
    _, tokens, width = shapes["image_proj.latents"]
    _, reads_width = shapes["image_proj.proj_in.weight"]
    words_width, _ = shapes["image_proj.proj_out.weight"]
    inner, _ = shapes["image_proj.layers.0.0.to_q.weight"]
    depth = len({name.split(".")[2] for name in shapes if name.startswith("image_proj.layers.")})
    numbers, channels = _layers(shapes)
    return IpAdapterLayout(
        "hidden_states", reads_width, tokens, words_width, numbers, channels, depth, width, inner // HEAD
    )


def _layers(shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers and channels of the layers, in the order of their numbers."""
    found = {int(m[1]) for name in shapes if (m := _LAYER.fullmatch(name))}
    numbers = tuple(sorted(found))
    return numbers, tuple(shapes[f"ip_adapter.{n}.to_k_ip.weight"][0] for n in numbers)


def _problems(shapes: Shapes, layout: IpAdapterLayout) -> list[str]:
    """Tensors that are missing, are of other shapes, or are not known."""
    if not 1 <= len(layout.numbers) <= LAYERS_MAX:
        return [f"it has {len(layout.numbers)} layers; 1 to {LAYERS_MAX} are read"]
    wanted = expected_shapes(layout)
    found = [f"it lacks {name}" for name in wanted if name not in shapes]
    for name, shape in shapes.items():
        if name.startswith((PROJECTION, LAYERS)) and name not in wanted:
            found.append(f"{name} is not known")
        elif shape != wanted.get(name, shape):
            found.append(f"{name} is {shape}, not {wanted[name]}")
    return found[:5]


def expected_shapes(layout: IpAdapterLayout) -> Shapes:
    """Name -> shape of all tensors of such an adapter."""
    found: Shapes = {}
    for number, channels in zip(layout.numbers, layout.channels, strict=True):
        for which in "kv":
            found[f"ip_adapter.{number}.to_{which}_ip.weight"] = (channels, layout.words_width)
    parts = _resampler_shapes(layout) if layout.depth else _projection_shapes(layout)
    return found | {PROJECTION + name: shape for name, shape in parts.items()}


def _projection_shapes(layout: IpAdapterLayout) -> Shapes:
    rows, width = layout.tokens * layout.words_width, layout.words_width
    return {
        "proj.weight": (rows, layout.reads_width),
        "proj.bias": (rows,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def _resampler_shapes(layout: IpAdapterLayout) -> Shapes:
    width, inner, words = layout.width, layout.heads * HEAD, layout.words_width
    found: Shapes = {
        "latents": (1, layout.tokens, width),
        "proj_in.weight": (width, layout.reads_width),
        "proj_in.bias": (width,),
        "proj_out.weight": (words, width),
        "proj_out.bias": (words,),
        "norm_out.weight": (words,),
        "norm_out.bias": (words,),
    }
    for k in range(layout.depth):
        norms = (f"layers.{k}.0.norm1", f"layers.{k}.0.norm2", f"layers.{k}.1.0")
        found |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
        found[f"layers.{k}.0.to_q.weight"] = (inner, width)
        found[f"layers.{k}.0.to_kv.weight"] = (2 * inner, width)
        found[f"layers.{k}.0.to_out.weight"] = (width, inner)
        found[f"layers.{k}.1.1.weight"] = (4 * width, width)
        found[f"layers.{k}.1.3.weight"] = (width, 4 * width)
    return found
