"""`layers.json` of a pack: where the weights of a graph's layers lie, see `quantize.layertable`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LoraError, PackError
from ...pack import LAYER_TABLE, PackFolder
from .names import CHANGED_AS, UNET, flat, original_names

DTYPES = ("float32", "float16", "int8", "int32")
MAX_TABLE_BYTES = 16 * 10**6


@dataclass(frozen=True)
class Stored:
    """A tensor in a graph's data file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layer:
    """A layer with weights, or the part of one that the quantizer split off.

    Attributes:
        outputs_first: weights are (outputs, inputs, ...), else (inputs, outputs).
        rows: which outputs of the whole layer this part has.
        scale: of INT8 weights, one an output; limit: the greatest their integers take.
        bias: of INT8 layers, INT32, and its scales; None: there is none.
        keeps_scale: the bias cannot be changed, so neither can the scales.
    """

    module: str
    weight: Stored
    outputs_first: bool
    rows: tuple[int, int] | None = None
    scale: Stored | None = None
    limit: int = 127
    bias: tuple[Stored, Stored] | None = None
    keeps_scale: bool = False

    @property
    def outputs(self) -> int:
        return self.weight.shape[0 if self.outputs_first else -1]

    @property
    def inputs(self) -> int:
        return self.weight.shape[1 if self.outputs_first else 0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a convolution, () for others."""
        return self.weight.shape[2:]


class LayerTable:
    """The layers of one graph of a pack, by the names they have in LoRA files.

    Raises:
        LoraError: the pack has no table for that graph.
        PackError: the table is altered, or contradicts the data file.
    """

    def __init__(self, pack: PackFolder, role: str):
        graph = pack.verify_graph(role)
        listed = pack.manifest.graphs[role].files
        path = graph.with_name(LAYER_TABLE)
        if str(path.relative_to(pack.folder)) not in listed:
            precision = pack.manifest.graphs[role].precision
            raise LoraError(
                f"pack {pack.name} takes no LoRA: its {precision} graph {role} has no {LAYER_TABLE}; "
                "build it again with edgegen-quantize --precision int8, fp16 or fp32"
            )
        try:
            data = json.loads(path.read_bytes()[:MAX_TABLE_BYTES])
            self.data = graph.with_name(str(data["data"]))
            entries = [_layer(entry) for entry in data["layers"]]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise PackError(f"{path} is no table of layers: {err}") from err
        self._check(path, entries, listed, pack.folder)
        self.layers: dict[str, list[Layer]] = {}
        for layer in entries:
            self.layers.setdefault(flat(layer.module), []).append(layer)
        self.aliases = {flat(layer.module): flat(layer.module) for layer in entries}
        if CHANGED_AS[role] == UNET:
            for layer in entries:
                self.aliases |= {flat(name): flat(layer.module) for name in original_names(layer.module)}

    def find(self, flat_module: str) -> list[Layer]:
        """The parts of a layer; empty when the graph has none of that name."""
        return self.layers.get(self.aliases.get(flat_module, ""), [])

    def _check(self, path: Path, entries: list[Layer], listed: Any, folder: Path) -> None:
        data = str(self.data.relative_to(folder)) if self.data.parent == path.parent else ""
        if data not in listed:
            raise PackError(f"{path} speaks of {self.data.name}, which the pack does not list")
        for layer in entries:
            for stored in (layer.weight, layer.scale, *(layer.bias or ())):
                if stored and stored.offset + stored.bytes > listed[data].bytes:
                    raise PackError(f"{path}: {stored.name} ends behind {self.data.name}")


def read_stored(data: np.memmap[Any, Any], stored: Stored) -> np.ndarray:
    """A tensor out of the data file, mapped as bytes."""
    raw = data[stored.offset : stored.offset + stored.bytes]
    return raw.view(np.dtype(stored.dtype)).reshape(stored.shape)


def _layer(entry: Any) -> Layer:
    rows, bias = entry.get("rows"), entry.get("bias")
    return Layer(
        str(entry["module"]),
        _stored(entry["weight"]),
        bool(entry["outputs_first"]),
        (int(rows[0]), int(rows[1])) if rows else None,
        _stored(entry["scale"]) if "scale" in entry else None,
        int(entry.get("limit", 127)),
        (_stored(bias[0]), _stored(bias[1])) if bias else None,
        keeps_scale="bias" in entry and not bias,
    )


def _stored(entry: Any) -> Stored:
    shape, offset = tuple(int(side) for side in entry["shape"]), int(entry["offset"])
    if entry["dtype"] not in DTYPES or min(shape, default=1) < 1 or offset < 0:
        raise ValueError(f"{entry['name']} has type {entry['dtype']}, shape {shape}, offset {offset}")
    return Stored(str(entry["name"]), str(entry["dtype"]), shape, offset)
