"""What an upscaler's .safetensors file holds, told by names and shapes alone: no torch, no weights.

Files come in three spellings of the same net (ESRGAN's first and second release, Real-ESRGAN), and as the
compact nets of Real-ESRGAN. `params_ema.` and `params.` before names are what trainers leave there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .refusal import PICKLES, SourceError
from .tensorfile import read_tensors

Shapes = Mapping[str, tuple[int, ...]]
WRAPPERS = ("params_ema.", "params.", "module.")
_SECOND = (
    ("RRDB_trunk.", "body."),
    (".RDB", ".rdb"),
    ("trunk_conv.", "conv_body."),
    ("upconv", "conv_up"),
    ("HRconv.", "conv_hr."),
)
_FIRST_DENSE = re.compile(r"^model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)$")
_FIRST_TRUNK = re.compile(r"^model\.1\.sub\.\d+\.(weight|bias)$")
_FIRST_PLAIN = re.compile(r"^model\.(\d+)\.(weight|bias)$")
_COMPACT = re.compile(r"^body\.(\d+)\.weight$")
_BLOCK = re.compile(r"^body\.(\d+)\.rdb1\.conv1\.weight$")
_LARGEST_SCALE = 16


@dataclass(frozen=True)
class UpscalerLayout:
    """Which net a file holds.

    Attributes:
        names: the file's name of each tensor, by Real-ESRGAN's, which the net uses.
        channels, growth: of the features, and of what each dense convolution adds (RRDBNet only).
        depth: blocks of RRDBNet, layers between the first and the last of a compact net.
        doublings: how often RRDBNet doubles its features' sides.
        unshuffle: pixels a side that RRDBNet's input is folded by; sides must be multiples of it.
        scale: pixels of the result for each of the picture, along a side.
    """

    net: Literal["rrdb", "compact"]
    names: dict[str, str]
    channels: int
    growth: int
    depth: int
    doublings: int
    unshuffle: int
    scale: int


def find_upscaler(path: Path) -> UpscalerLayout | None:
    """The upscaler in a file; None for a folder, a pickle, or a file with something else.

    Raises:
        SourceError: the file is no sound safetensors file, or an upscaler of a kind that is not read.
    """
    if not path.is_file() or path.suffix in PICKLES:
        return None
    full = {_bare(name): (name, info.shape) for name, info in read_tensors(path).items()}
    ours = _spelled(set(full))
    shapes = {name: full[bare][1] for name, bare in ours.items()}
    if _is_compact(shapes):
        found = _compact(shapes)
    elif _is_rrdb(shapes):
        found = _rrdb(shapes)
    else:
        return None
    if isinstance(found, str):
        raise SourceError(f"{path} is an upscaler of a kind that is not read: {found}")
    return replace(found, names={name: full[bare][0] for name, bare in ours.items()})


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _spelled(bare: set[str]) -> dict[str, str]:
    """Real-ESRGAN's name of each tensor -> the file's, whichever spelling the file has."""
    if "model.0.weight" in bare and any(_FIRST_DENSE.match(name) for name in bare):
        return {_of_first(name, _first_ends(bare)): name for name in bare}
    return {_of_second(name): name for name in bare}


def _of_second(name: str) -> str:
    for theirs, ours in _SECOND:
        name = name.replace(theirs, ours)
    return name


def _first_ends(bare: set[str]) -> list[int]:
    """Places in ESRGAN's first release of the convolutions behind the blocks, in order."""
    return sorted({int(m[1]) for name in bare if (m := _FIRST_PLAIN.match(name)) and m[1] != "0"})


def _of_first(name: str, ends: list[int]) -> str:
    if dense := _FIRST_DENSE.match(name):
        return f"body.{dense[1]}.rdb{dense[2]}.conv{dense[3]}.{dense[4]}"
    if trunk := _FIRST_TRUNK.match(name):
        return f"conv_body.{trunk[1]}"
    if not (plain := _FIRST_PLAIN.match(name)):
        return name
    if plain[1] == "0":
        return f"conv_first.{plain[2]}"
    place = ends.index(int(plain[1])) - len(ends)
    called = {-1: "conv_last", -2: "conv_hr"}.get(place, f"conv_up{place + len(ends) + 1}")
    return f"{called}.{plain[2]}"


def _is_rrdb(shapes: Shapes) -> bool:
    return len(shapes.get("conv_first.weight", ())) == 4 and any(_BLOCK.match(name) for name in shapes)


def _rrdb(shapes: Shapes) -> UpscalerLayout | str:
    """What it is, or why it is not read."""
    depth = sum(1 for name in shapes if _BLOCK.match(name))
    doublings = sum(1 for name in shapes if re.match(r"^conv_up\d+\.weight$", name))
    channels, inputs = shapes["conv_first.weight"][:2]
    growth = (*shapes.get("body.0.rdb1.conv1.weight", ()), 0)[0]
    unshuffle = math.isqrt(inputs // 3) or 1
    scale, rest = divmod(2**doublings, unshuffle)
    if 3 * unshuffle**2 != inputs or rest or not 1 <= scale <= _LARGEST_SCALE:
        return f"{inputs} channels come in and {doublings} times it doubles; pictures of 3 channels are read"
    layout = UpscalerLayout("rrdb", {}, channels, growth, depth, doublings, unshuffle, scale)
    return _differences(shapes, rrdb_shapes(layout)) or layout


def rrdb_shapes(layout: UpscalerLayout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of an RRDBNet."""
    wide, growth = layout.channels, layout.growth
    ends = [f"conv_up{k + 1}" for k in range(layout.doublings)]
    convs = {"conv_first": (wide, 3 * layout.unshuffle**2), "conv_last": (3, wide)}
    convs |= dict.fromkeys(("conv_body", "conv_hr", *ends), (wide, wide))
    for block in range(layout.depth):
        for dense in (1, 2, 3):
            for k in range(1, 6):
                out = growth if k < 5 else wide
                convs[f"body.{block}.rdb{dense}.conv{k}"] = out, wide + (k - 1) * growth
    return _with_biases(convs)


def _is_compact(shapes: Shapes) -> bool:
    first, act = shapes.get("body.0.weight", ()), shapes.get("body.1.weight", ())
    return len(first) == 4 and first[1:] == (3, 3, 3) and len(act) == 1


def _compact(shapes: Shapes) -> UpscalerLayout | str:
    """What it is, or why it is not read."""
    last = max((int(m[1]) for name in shapes if (m := _COMPACT.match(name))), default=0)
    channels, out = shapes["body.0.weight"][0], (*shapes.get(f"body.{last}.weight", ()), 0)[0]
    scale = math.isqrt(out // 3)
    if 3 * scale**2 != out or last < 2 or not 1 <= scale <= _LARGEST_SCALE:
        return f"its last layer gives {out} channels, which are no square of pixels in 3 colours"
    layout = UpscalerLayout("compact", {}, channels, 0, last // 2 - 1, 0, 1, scale)
    return _differences(shapes, compact_shapes(layout)) or layout


def compact_shapes(layout: UpscalerLayout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a compact net: a PReLU after each convolution but the last."""
    wide, last = layout.channels, 2 * layout.depth + 2
    convs = {f"body.{k}": (wide, wide) for k in range(2, last, 2)}
    convs |= {"body.0": (wide, 3), f"body.{last}": (3 * layout.scale**2, wide)}
    return _with_biases(convs) | {f"body.{k}.weight": (wide,) for k in range(1, last, 2)}


def _with_biases(convs: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """All of 3 x 3."""
    weights: dict[str, tuple[int, ...]] = {f"{name}.weight": (*io, 3, 3) for name, io in convs.items()}
    return weights | {f"{name}.bias": (io[0],) for name, io in convs.items()}


def _differences(found: Shapes, wanted: Shapes) -> str | None:
    """What the file has more, less or otherwise than the net; None: nothing."""
    rows = [f"{name} is missing" for name in wanted if name not in found]
    rows += [f"{name[:60]!r} is unknown" for name in found if name not in wanted]
    rows += [
        f"{name} has the shape {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != shape
    ]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return "; ".join(rows[:3]) + more if rows else None
