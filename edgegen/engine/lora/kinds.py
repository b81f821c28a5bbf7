"""Kinds of changes: a few small tensors, and the large matrix they stand for.

Every kind tells from shapes alone whether a change is whole, what its rank is and whether it fits a layer;
only then are tensors read. Parts are named as LyCORIS names them (github.com/KohakuBlueleaf/LyCORIS), but for
LoRA's own `down`, `up` and `mid`. What they mean follows ComfyUI (comfy/weight_adapter), where LyCORIS is
read in two ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

MAX_RANK = 4096
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Tensors = Mapping[str, np.ndarray]
"""A change's tensors by part, float32."""


@dataclass(frozen=True)
class Target:
    """The layer to be changed: a matrix, or a convolution with a kernel of some height and width."""

    outputs: int
    inputs: int
    kernel: Shape = ()

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)


@dataclass(frozen=True)
class Kind:
    """One way to write a change down.

    Attributes:
        lacks: parts that are not there, by a change's shapes.
        ranks: inner sides of the products, of whole changes; empty: it has none, and no alpha counts.
            The last is the one that alpha is divided by.
        fits: whether a whole change is one to this layer.
        delta: its tensors, a factor, and whether the layer's inputs come first in memory -> (outputs,
            inputs x taps) float32, in whatever order comes cheap.
    """

    name: str
    lacks: Callable[[Shapes], list[str]]
    ranks: Callable[[Shapes], list[int]]
    fits: Callable[[Shapes, Target], bool]
    delta: Callable[[Tensors, float, bool], np.ndarray]


def kind_of(shapes: Shapes) -> Kind:
    """By the parts that are there; LoRA when none tells."""
    if any(part.startswith("hada_") for part in shapes):
        return LOHA
    return LOKR if any(part.startswith("lokr_") for part in shapes) else LORA


def _missing(*parts: str) -> Callable[[Shapes], list[str]]:
    return lambda shapes: [part for part in parts if part not in shapes]


def _flat(shape: Shape) -> Shape:
    """Of a 1x1 convolution or a matrix, the matrix's shape."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


# LoRA (Hu et al. 2021, arXiv:2106.09685), for convolutions LoCon: up @ down


def _lora_fits(shapes: Shapes, target: Target) -> bool:
    down, up = shapes["down"], shapes["up"]
    rank, kernel = down[0], target.kernel or (1, 1)
    if "mid" in shapes:
        fits = shapes["mid"] == (rank, rank, *kernel) and _flat(down) == (rank, target.inputs)
        return fits and _flat(up) == (target.outputs, rank)
    fits = _flat(up) == (target.outputs, rank) and down[1:2] == (target.inputs,)
    return fits and (down[2:] or (1, 1)) == kernel


def _lora_delta(tensors: Tensors, factor: float, across: bool) -> np.ndarray:
    down, up = tensors["down"], tensors["up"]
    rank = down.shape[0]
    up, down = up.reshape(up.shape[0], rank) * np.float32(factor), down.reshape(rank, -1)
    if "mid" in tensors:  # Tucker's
        return _tucker(tensors["mid"], down, up.T)
    if across:
        return np.asarray(down.T @ up.T).T
    return np.asarray(up @ down)


# LoHa (Hyeon-Woo et al. 2022, arXiv:2108.06098): two products, multiplied element by element


def _loha_lacks(shapes: Shapes) -> list[str]:
    lacks = _missing("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")(shapes)
    tucker = {"hada_t1", "hada_t2"}
    return lacks + sorted(tucker - shapes.keys() if tucker & shapes.keys() else ())


def _loha_fits(shapes: Shapes, target: Target) -> bool:
    return all(
        _product_shape(shapes, f"hada_w{k}_a", f"hada_w{k}_b", f"hada_t{k}", target.kernel)
        == (target.outputs, target.inputs * target.taps)
        for k in (1, 2)
    )


def _loha_delta(tensors: Tensors, factor: float, _across: bool) -> np.ndarray:
    first, second = (_product(tensors, f"hada_w{k}_a", f"hada_w{k}_b", f"hada_t{k}") for k in (1, 2))
    return np.asarray(first * second * np.float32(factor))


# LoKr (Yeh et al. 2023, arXiv:2309.14859): a Kronecker product, each side whole or a product itself


def _lokr_lacks(shapes: Shapes) -> list[str]:
    lacks: list[str] = []
    for side in ("lokr_w1", "lokr_w2"):
        halves = _missing(f"{side}_a", f"{side}_b")(shapes)
        if side not in shapes and halves:
            lacks += halves if len(halves) == 1 else [side]
    return lacks


def _lokr_ranks(shapes: Shapes) -> list[int]:
    """The second side's counts where both are products, as in ComfyUI."""
    sides = ("lokr_w1", "lokr_w2")
    return [shapes[f"{side}_b"][0] if shapes[f"{side}_b"] else 0 for side in sides if side not in shapes]


def _lokr_fits(shapes: Shapes, target: Target) -> bool:
    first = _side_shape(shapes, "lokr_w1", ())
    second = _side_shape(shapes, "lokr_w2", target.kernel)
    if first is None or second is None:
        return False
    wanted = (target.outputs, target.inputs * target.taps)
    return (first[0] * second[0], first[1] * second[1]) == wanted and second[1] % target.taps == 0


def _side_shape(shapes: Shapes, side: str, kernel: Shape) -> tuple[int, int] | None:
    if side not in shapes:
        return _product_shape(shapes, f"{side}_a", f"{side}_b", _core_of(side), kernel)
    whole = shapes[side]
    if len(whole) < 2 or (len(whole) > 2 and whole[2:] != (kernel or (1, 1))):
        return None
    return whole[0], math.prod(whole[1:])


def _lokr_delta(tensors: Tensors, factor: float, _across: bool) -> np.ndarray:
    first, second = (_side(tensors, side) for side in ("lokr_w1", "lokr_w2"))
    first = first * np.float32(factor)
    blocks = first[:, None, :, None] * second[None, :, None, :]
    return np.asarray(blocks.reshape(first.shape[0] * second.shape[0], -1))


def _side(tensors: Tensors, side: str) -> np.ndarray:
    if side in tensors:
        return tensors[side].reshape(tensors[side].shape[0], -1)
    return _product(tensors, f"{side}_a", f"{side}_b", _core_of(side))


def _core_of(side: str) -> str:
    return "lokr_t2" if side == "lokr_w2" else ""


# Products of two tensors, or of three


def _product_shape(shapes: Shapes, a: str, b: str, core: str, kernel: Shape) -> tuple[int, int] | None:
    """(outputs, inputs x taps) of `a @ b`; with a core (Tucker's) a is (rank, outputs). None: none."""
    one, other = shapes[a], shapes[b]
    if len(one) != 2 or len(other) < 2:
        return None
    if core not in shapes:
        return (one[0], math.prod(other[1:])) if one[1] == other[0] else None
    if len(other) != 2 or shapes[core] != (one[0], other[0], *(kernel or (1, 1))):
        return None
    if not 1 <= one[0] <= MAX_RANK:  # of what is in between there would be that many times the layer
        return None
    return one[1], other[1] * math.prod(kernel)


def _product(tensors: Tensors, a: str, b: str, core: str) -> np.ndarray:
    one, other = tensors[a], tensors[b]
    if core in tensors:
        return _tucker(tensors[core], other, one)
    return np.asarray(one @ other.reshape(other.shape[0], -1))


def _tucker(core: np.ndarray, inward: np.ndarray, outward: np.ndarray) -> np.ndarray:
    """sum over i, j of core[i, j, ...] outward[i, o] inward[j, n] -> (o, n x taps)."""
    inner = np.tensordot(core, inward, axes=(1, 0))  # (i, kh, kw, n)
    whole = np.tensordot(outward.T, inner, axes=(1, 0))  # (o, kh, kw, n)
    return np.moveaxis(whole, -1, 1).reshape(len(whole), -1)


LORA = Kind(
    "LoRA",
    _missing("down", "up"),
    lambda shapes: [shapes["down"][0] if shapes["down"] else 0],
    _lora_fits,
    _lora_delta,
)
LOHA = Kind(
    "LoHa",
    _loha_lacks,
    lambda shapes: [shapes[f"hada_w{k}_b"][0] if shapes[f"hada_w{k}_b"] else 0 for k in (2, 1)],
    _loha_fits,
    _loha_delta,
)
LOKR = Kind("LoKr", _lokr_lacks, _lokr_ranks, _lokr_fits, _lokr_delta)
