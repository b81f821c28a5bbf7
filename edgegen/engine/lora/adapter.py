"""One LoRA file: which layers it changes, and by what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import LoraError
from .names import TEXT, TEXT_2, UNET, layer_number, split_key
from .table import Layer, LayerTable
from .tensors import Place, TensorFile

MAX_RANK = 4096
SHOWN = 5


@dataclass
class Change:
    """The tensors that change one layer: names in the file."""

    tensors: dict[str, str] = field(default_factory=dict)


class Adapter:
    """A LoRA or LyCORIS-LoCon file.

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
        for key in self.file.places:
            found = split_key(key)
            if found is None:
                unknown.append(key)
                continue
            graph, module, part = found
            self.changes[graph].setdefault(module, Change()).tensors[part] = key
        if unknown:
            raise LoraError(f"{self.name} holds what is not understood: {_some(unknown)}")
        if not self.file.places:
            raise LoraError(f"{self.name} holds no tensors")
        self._check_pairs()

    def _check_pairs(self) -> None:
        for graph, changes in self.changes.items():
            for module, change in changes.items():
                if missing := {"down", "up"} - change.tensors.keys():
                    raise LoraError(
                        f"{self.name}: {graph} {module} has no {' and no '.join(sorted(missing))}"
                    )
                rank = self.place(change, "down").shape[:1]
                if not rank or not 1 <= rank[0] <= MAX_RANK:
                    raise LoraError(
                        f"{self.name}: {graph} {module} has rank {rank}; 1 to {MAX_RANK} are read"
                    )
                if "alpha" in change.tensors and np.prod(self.place(change, "alpha").shape) != 1:
                    raise LoraError(f"{self.name}: {graph} {module} has an alpha that is not one number")

    def place(self, change: Change, part: str) -> Place:
        return self.file.places[change.tensors[part]]

    def rank(self, change: Change) -> int:
        return self.place(change, "down").shape[0]

    def layers_in(self, role: str, table: LayerTable) -> dict[str, list[Layer]]:
        """Module -> the parts of the layer it changes.

        A text encoder's layers behind the last that the pack has are left out: nothing reads them there.

        Raises:
            LoraError: the graph has no such layer, or one of another shape; names them.
        """
        last = max((layer_number(name) or 0 for name in table.layers), default=0)
        found = {module: table.find(module) for module in self.changes[role]}
        beyond = {m for m in found if role != UNET and (layer_number(m) or 0) > last}
        unknown = [module for module, layers in found.items() if not layers and module not in beyond]
        if unknown:
            lacks = f"{role} layer {_some(unknown)}"
            raise LoraError(f"{self.name} is made for another kind of model: the pack has no {lacks}")
        fitting = {module: layers for module, layers in found.items() if module not in beyond}
        for module, layers in fitting.items():
            self._check_shapes(role, module, layers)
        return fitting

    def _check_shapes(self, role: str, module: str, layers: list[Layer]) -> None:
        change, first = self.changes[role][module], layers[0]
        outputs = max((layer.rows[1] if layer.rows else layer.outputs) for layer in layers)
        down, up = self.place(change, "down").shape, self.place(change, "up").shape
        rank, kernel = down[0], first.kernel or (1, 1)
        if "mid" in change.tensors:
            fits = self.place(change, "mid").shape == (rank, rank, *kernel)
            fits = fits and _flat_shape(down) == (rank, first.inputs) and _flat_shape(up) == (outputs, rank)
        else:
            inner = down[2:] or (1, 1)
            fits = _flat_shape(up) == (outputs, rank) and down[1:2] == (first.inputs,) and inner == kernel
        if not fits:
            has = (outputs, first.inputs, *first.kernel)
            raise LoraError(
                f"{self.name} is made for another kind of model: it changes {role} {first.module} by "
                f"{list(up)} x {list(down)}, but the pack's layer has {list(has)}"
            )

    def delta(self, role: str, module: str, strength: float, transposed: bool = False) -> np.ndarray:
        """What is added: (outputs, inputs x kernel) float32, in memory the other way around if `transposed`.

        Raises LoraError: it holds what is no number."""
        change = self.changes[role][module]
        down, up = (self.file.read(change.tensors[part]) for part in ("down", "up"))
        rank = down.shape[0]
        up = up.reshape(up.shape[0], rank) * np.float32(strength * self._alpha(change, rank) / rank)
        if "mid" in change.tensors:  # Tucker's: LyCORIS, `lora_mid`
            mid = self.file.read(change.tensors["mid"])
            inner = np.tensordot(mid, down.reshape(rank, -1), axes=(1, 0))  # (r, kh, kw, inputs)
            return np.moveaxis(np.tensordot(up, inner, axes=(1, 0)), -1, 1).reshape(len(up), -1)
        down = down.reshape(rank, -1)
        if transposed:
            return np.asarray(down.T @ up.T).T
        return np.asarray(up @ down)

    def _alpha(self, change: Change, rank: int) -> float:
        """Without one it is the rank, as in diffusers."""
        if "alpha" not in change.tensors:
            return rank
        return float(self.file.read(change.tensors["alpha"]).reshape(-1)[0])


def _flat_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a 1x1 convolution or a matrix, the matrix's shape."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
