"""LoRA added to a pack's weights: whatever number format they have.

`weight + strength * alpha / rank * up @ down`, as Hu et al. 2021 (arXiv:2106.09685). INT8 weights become
float, are added to, and are rounded again with new scales; the ranges of activations stay. Layers are
merged side by side: numpy lets other threads run meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LoraError
from ...pack import PackFolder
from ..blas import single_threaded
from ..runtime import usable_cores
from .adapter import Adapter
from .names import CHANGED_AS, TEXT, TEXT_2, UNET, flat
from .table import Layer, LayerTable, Stored, read_stored

BLOCK_VALUES = 2**17  # half a MB of floats: a Pi's core has that much cache, and so has a PC's


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file at its strengths.

    Attributes:
        model, clip: of the changes to the denoiser and to the text encoders; 1 is as trained.
    """

    path: Path
    model: float = 1.0
    clip: float = 1.0

    def strength(self, role: str) -> float:
        return self.model if role == UNET else self.clip


class Merged(dict[str, np.ndarray]):
    """What changes in a graph: new values of its weights by name.

    Attributes:
        spare: names of values that follow from the others: a layer computed in integers does not read them.
    """

    def __init__(self, values: Mapping[str, np.ndarray] | None = None, spare: Iterable[str] = ()):
        super().__init__(values or {})
        self.spare = set(spare)

    @property
    def read(self) -> dict[str, np.ndarray]:
        """All but the spare ones."""
        return {name: value for name, value in self.items() if name not in self.spare}

    def add(self, other: Merged) -> None:
        self.update(other)
        self.spare |= other.spare


Part = tuple[Adapter, str, float]
"""Who changes a layer, what the layer is called there, and how much it counts."""


class LoraSet:
    """Several LoRA files at once: their changes add up. Only the headers are read at first.

    Raises:
        LoraError: a file is damaged, or holds what is not understood.
    """

    def __init__(self, uses: Sequence[LoraUse]):
        self.uses = tuple(uses)
        self._adapters = [Adapter(use.path) for use in uses]

    def key(self, role: str) -> tuple[object, ...]:
        """What makes a graph's weights differ from another set's; () when it has the pack's own."""
        return tuple((str(a.file.path), a.file.state, strength) for a, strength in self._acting_on(role))

    def _acting_on(self, role: str) -> list[tuple[Adapter, float]]:
        kind = CHANGED_AS.get(role, "")
        pairs = zip(self._adapters, self.uses, strict=True)
        return [(a, use.strength(kind)) for a, use in pairs if a.changes.get(kind) and use.strength(kind)]

    def check(self, pack: PackFolder) -> None:
        """Whether they fit a pack, by names and shapes. Raises LoraError, PackError."""
        for role in (UNET, TEXT, TEXT_2):
            self._plan(pack, role)

    def changed_bytes(self, pack: PackFolder) -> int:
        """How many bytes of a pack's weights change. Raises LoraError, PackError."""
        plans = [plan for role in (UNET, TEXT, TEXT_2) if (plan := self._plan(pack, role))]
        layers = [layer for table, changes in plans for name in changes for layer in table.find(name)]
        return sum(layer.weight.bytes for layer in layers)

    def weights(self, pack: PackFolder, role: str) -> dict[str, Stored]:
        """The weights of a graph that change, without those that are `spare`, by name, as the pack has them.

        Raises LoraError, PackError."""
        plan = self._plan(pack, role)
        if plan is None:
            return {}
        table, changes = plan
        layers = (layer for module in changes for layer in table.find(module))
        return {stored.name: stored for layer in layers for stored in _changing(layer)}

    def merge(self, pack: PackFolder, role: str, threads: int = 0) -> Merged:
        """The weights of a graph that change, changed; empty when none does.

        Raises:
            LoraError: a file is damaged or does not fit. PackError: the pack's table is altered.
        """
        plan = self._plan(pack, role)
        if plan is None:
            return Merged()
        (table, changes), kind = plan, CHANGED_AS[role]
        data = np.memmap(table.data, np.uint8, "r")

        def one(item: tuple[str, list[Part]]) -> Merged:
            module, parts = item
            layers = table.find(module)
            delta = _sum_of(data, layers, kind, parts)
            merged = Merged()
            for layer in layers:
                merged.add(merge_layer(data, layer, delta))
            return merged

        found = Merged()
        with single_threaded(), ThreadPoolExecutor(threads or usable_cores()) as pool:
            for merged in pool.map(one, changes.items()):
                found.add(merged)
        return found

    def _plan(self, pack: PackFolder, role: str) -> tuple[LayerTable, dict[str, list[Part]]] | None:
        """By layer: who changes it, and how much. None: nobody changes the graph."""
        acting = self._acting_on(role)
        if not acting:
            return None
        if role not in pack.manifest.graphs:
            raise LoraError(f"{acting[0][0].name} changes {role}, which pack {pack.name} does not have")
        table = LayerTable(pack, role)
        changes: dict[str, list[Part]] = {}
        for adapter, strength in acting:
            for name, layers in adapter.layers_in(CHANGED_AS[role], table).items():
                changes.setdefault(flat(layers[0].module), []).append((adapter, name, strength))
        return table, changes


def _sum_of(data: np.memmap[Any, Any], layers: list[Layer], kind: str, parts: list[Part]) -> np.ndarray:
    """All changes to one layer, each made to what the ones before it left."""
    total: np.ndarray | None = None

    def base() -> np.ndarray:
        weight = whole_weight(data, layers)
        return weight if total is None else weight + total

    for adapter, name, strength in parts:
        delta = adapter.delta(kind, name, strength, layers, base)
        total = delta if total is None else total + delta
    assert total is not None
    return total


def _changing(layer: Layer) -> Iterator[Stored]:
    """A layer's values that are others once it is merged, and that the graph must read."""
    yield layer.weight
    if layer.scale is not None and not layer.keeps_scale:
        yield layer.scale
        if layer.bias is not None:
            yield layer.bias[0]


def whole_weight(data: np.memmap[Any, Any], layers: list[Layer]) -> np.ndarray:
    """A layer's weights, its parts put together: (outputs, inputs x kernel) float32."""
    ordered = sorted(layers, key=lambda layer: layer.rows or (0, 0))
    parts = []
    for layer in ordered:
        weight = read_stored(data, layer.weight).astype(np.float32)
        if layer.scale is not None:
            axis = 0 if layer.outputs_first else weight.ndim - 1
            weight *= read_stored(data, layer.scale).reshape(_along(axis, weight.ndim))
        parts.append(weight.reshape(len(weight), -1) if layer.outputs_first else weight.T)
    return np.concatenate(parts)


def _along(axis: int, ndim: int) -> list[int]:
    """The shape that spreads one value an output over a weight."""
    return [-1 if side == axis else 1 for side in range(ndim)]


def merge_layer(data: np.memmap[Any, Any], layer: Layer, delta: np.ndarray) -> Merged:
    """One layer's new weights, and for INT8 its scales and bias.

    Args:
        data: the graph's data file.
        delta: (outputs, inputs x kernel) float32 of the whole layer, of which this may be a part.
    Raises:
        LoraError: the new weights are no numbers.
    """
    weight = read_stored(data, layer.weight)
    if layer.rows:
        delta = delta[slice(*layer.rows)]
    delta = delta.reshape(layer.weight.shape) if layer.outputs_first else delta.T
    if layer.scale is None:
        return Merged({layer.weight.name: (weight + delta).astype(weight.dtype)})
    return _merge_int8(data, layer, weight, delta)


def _merge_int8(data: np.memmap[Any, Any], layer: Layer, weight: np.ndarray, delta: np.ndarray) -> Merged:
    assert layer.scale is not None
    old = read_stored(data, layer.scale).astype(np.float32)
    rounded, new = np.empty(weight.shape, np.int8), old.copy()
    with np.errstate(invalid="ignore"):  # what is beyond all bounds is refused by its scale
        for some in _blocks(layer):
            part = (some,) if layer.outputs_first else (..., some)
            rounded[part], new[some] = _round_int8(layer, weight[part], old[some], delta[part])
    if not np.isfinite(new).all():
        raise LoraError(f"the change to layer {layer.module} is beyond all bounds; take a lower strength")
    merged = Merged({layer.weight.name: rounded})
    if not layer.keeps_scale:
        merged[layer.scale.name] = new
        merged.add(_rescaled_bias(data, layer, old / new))
    return merged


def _blocks(layer: Layer) -> Iterator[slice]:
    """A layer's outputs by so many that the floats made on the way stay in a core's cache; all at once where
    inputs lie first, as short rows cost numpy more than that saves."""
    values = math.prod(layer.weight.shape)
    step = max(1, layer.outputs * BLOCK_VALUES // values) if layer.outputs_first else layer.outputs
    yield from (slice(start, start + step) for start in range(0, layer.outputs, step))


def _round_int8(
    layer: Layer, weight: np.ndarray, old: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of some outputs: the changed weights as whole numbers in float32, and their scales."""
    axis = 0 if layer.outputs_first else weight.ndim - 1
    spread = _along(axis, weight.ndim)
    values = weight * old.reshape(spread)
    values += delta
    new = old if layer.keeps_scale else _scales(values, axis, layer.limit)
    values /= new.reshape(spread)
    np.rint(values, out=values)
    if layer.keeps_scale:  # new scales are made so that none is beyond
        np.clip(values, -layer.limit, layer.limit, out=values)
    return values, new


def _scales(values: np.ndarray, axis: int, limit: int) -> np.ndarray:
    """One an output: its greatest value is the greatest integer."""
    others = tuple(side for side in range(values.ndim) if side != axis)
    greatest = np.maximum(values.max(axis=others), -values.min(axis=others))
    return np.where(greatest > 0, greatest / np.float32(limit), np.float32(1)).astype(np.float32)


def _rescaled_bias(data: np.memmap[Any, Any], layer: Layer, ratio: np.ndarray) -> Merged:
    """The same bias in steps of the new scales."""
    if layer.bias is None:
        return Merged()
    bias, scale = (read_stored(data, stored) for stored in layer.bias)
    limits = np.iinfo(np.int32)
    steps = np.clip(np.rint(bias * ratio.astype(np.float64)), limits.min, limits.max)
    values = {layer.bias[0].name: steps.astype(np.int32)}
    return Merged(values | {layer.bias[1].name: (scale / ratio).astype(np.float32)}, {layer.bias[1].name})
