"""One LoRA file: which layers it changes, and by what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import LoraError
from .dora import Magnitude
from .kinds import MAX_RANK, Kind, Target, kind_of
from .names import TEXT, TEXT_2, UNET, layer_number, split_key
from .table import Layer, LayerTable
from .tensors import TensorFile
from .unsupported import why_unsupported

SHOWN = 5
BESIDES = ("alpha", "dora_scale", "magnitude")  # parts that any kind may have
Base = Callable[[], np.ndarray]
"""A layer's weights as they were so far, (outputs, inputs x taps) float32."""


@dataclass
class Change:
    """The tensors that change one layer: part -> name in the file."""

    tensors: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return kind_of(self.shapes)

    @property
    def is_dora(self) -> bool:
        return bool({"dora_scale", "magnitude"} & self.shapes.keys())


@dataclass
class Matched:
    """A file's changes to one graph, by what the graph has for them.

    Attributes:
        fitting, of_other_shape: module -> the parts of its layer.
        beyond: behind the last layer of a text encoder. unknown: there is no such layer.
    """

    fitting: dict[str, list[Layer]] = field(default_factory=dict)
    of_other_shape: dict[str, list[Layer]] = field(default_factory=dict)
    beyond: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


class Adapter:
    """A LoRA file, or one of LyCORIS' kinds in `kinds`.

    Attributes:
        changes: graph -> module, flat -> its tensors.
    Raises:
        LoraError: the file is damaged, or holds what is none of these; lists the names that are unknown.
    """

    def __init__(self, path: Path):
        self.name = path.name
        self.file = TensorFile(path)
        self.changes: dict[str, dict[str, Change]] = {UNET: {}, TEXT: {}, TEXT_2: {}}
        unknown = []
        for key, place in self.file.places.items():
            found = split_key(key)
            if found is None:
                unknown.append(key)
                continue
            graph, module, part = found
            change = self.changes[graph].setdefault(module, Change())
            change.tensors[part], change.shapes[part] = key, place.shape
        if unknown:
            raise LoraError(f"{self.name} holds {why_unsupported(unknown)}: {_some(unknown)}")
        if not self.file.places:
            raise LoraError(f"{self.name} holds no tensors")
        for graph, module, change in self._all():
            if problem := _problem_with(change):
                raise LoraError(f"{self.name}: {graph} {module} {problem}")

    def _all(self) -> Iterator[tuple[str, str, Change]]:
        for graph, changes in self.changes.items():
            for module, change in changes.items():
                yield graph, module, change

    @property
    def kinds(self) -> list[str]:
        """What it holds: `LoRA`, `LoHa`, `LoKr`, with `DoRA` where weights are set to a length."""
        found = {change.kind.name for _, _, change in self._all()}
        return sorted(found) + (["DoRA"] if any(change.is_dora for _, _, change in self._all()) else [])

    @property
    def ranks(self) -> list[int]:
        """All that occur, ascending."""
        return sorted({rank for _, _, change in self._all() for rank in change.kind.ranks(change.shapes)})

    @property
    def alphas(self) -> list[float]:
        """All that occur, ascending; a layer without one counts as its rank. Raises LoraError."""
        return sorted({self._alpha(change) for _, _, change in self._all() if "alpha" in change.tensors})

    def layers_in(self, role: str, table: LayerTable) -> dict[str, list[Layer]]:
        """Module -> the parts of the layer it changes.

        A text encoder's layers behind the last that the pack has are left out: nothing reads them there.

        Raises:
            LoraError: the graph has no such layer, or one of another shape; names them.
        """
        matched = self.match(role, table)
        if problem := self.misfit(role, matched):
            raise LoraError(f"{self.name} is made for another kind of model: {problem}")
        return matched.fitting

    def match(self, role: str, table: LayerTable) -> Matched:
        """Which layers of a graph its changes belong to."""
        last = max((layer_number(name) or 0 for name in table.layers), default=0)
        matched = Matched()
        for module, change in self.changes[role].items():
            layers = table.find(module)
            if role != UNET and (layer_number(module) or 0) > last:
                matched.beyond.append(module)
            elif not layers:
                matched.unknown.append(module)
            elif _fits(change, target_of(layers)):
                matched.fitting[module] = layers
            else:
                matched.of_other_shape[module] = layers
        return matched

    def misfit(self, role: str, matched: Matched) -> str:
        """Why the graph does not take it; "": it does."""
        if matched.unknown:
            return f"the pack has no {role} layer {_some(matched.unknown)}"
        for module, layers in matched.of_other_shape.items():
            target, shapes = target_of(layers), self.changes[role][module].shapes
            parts = sorted(shapes.keys() - {"alpha"}, key=lambda part: (part != "up", part))
            by = " x ".join(str(list(shapes[part])) for part in parts)
            has = [target.outputs, target.inputs, *target.kernel]
            return f"it changes {role} {layers[0].module} by {by}, but the pack's layer has {has}"
        return ""

    def delta(self, role: str, module: str, strength: float, layers: list[Layer], base: Base) -> np.ndarray:
        """What is added: (outputs, inputs x taps) float32, laid out in memory as the layer's weights are.

        Args:
            layers: the parts of the layer, as `layers_in` gives them.
            base: asked only by DoRA.
        Raises:
            LoraError: it holds what is no number.
        """
        change, across = self.changes[role][module], not layers[0].outputs_first
        tensors = {part: self.file.read(name) for part, name in change.tensors.items()}
        alpha, divisor = self._alpha(change, tensors.get("alpha")), _divisor(change)
        if not change.is_dora:
            return change.kind.delta(tensors, strength * alpha / divisor, across)
        delta = change.kind.delta(tensors, alpha / divisor, across)
        return Magnitude.of(tensors, target_of(layers)).delta(base(), delta, strength)

    def _alpha(self, change: Change, told: np.ndarray | None = None) -> float:
        """Without one it is the rank, as in diffusers; without a rank it does not count, as in ComfyUI."""
        if "alpha" not in change.tensors or not change.kind.ranks(change.shapes):
            return _divisor(change)
        told = self.file.read(change.tensors["alpha"]) if told is None else told
        return float(told.reshape(-1)[0])


def _fits(change: Change, target: Target) -> bool:
    fits = change.kind.fits(change.shapes, target)
    return fits and (not change.is_dora or Magnitude.fits(change.shapes, target))


def target_of(layers: list[Layer]) -> Target:
    """The whole layer that these are the parts of."""
    outputs = max((layer.rows[1] if layer.rows else layer.outputs) for layer in layers)
    return Target(outputs, layers[0].inputs, layers[0].kernel)


def _divisor(change: Change) -> int:
    """What alpha is divided by; 1 where there is no rank."""
    ranks = change.kind.ranks(change.shapes)
    return ranks[-1] if ranks else 1


def _problem_with(change: Change) -> str | None:
    """Why a change is none, whatever the layer; None: it is one."""
    families = {part.partition("_")[0] for part in change.shapes.keys() - set(BESIDES)}
    if len(families & {"hada", "lokr"}) + bool(families - {"hada", "lokr"}) > 1:
        return f"is two kinds at once: {', '.join(sorted(change.shapes))}"
    if missing := change.kind.lacks(change.shapes):
        return f"has no {' and no '.join(sorted(missing))}"
    wrong = [rank for rank in change.kind.ranks(change.shapes) if not 1 <= rank <= MAX_RANK]
    if wrong:
        return f"has rank {wrong[0]}; 1 to {MAX_RANK} are read"
    if "alpha" in change.shapes and np.prod(change.shapes["alpha"]) != 1:
        return "has an alpha that is not one number"
    if {"dora_scale", "magnitude"} <= change.shapes.keys():
        return "has two lengths: dora_scale and lora_magnitude_vector"
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
