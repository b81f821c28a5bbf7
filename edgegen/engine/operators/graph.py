"""A graph's nodes as far as rules must know them: who makes and who takes what. Without the onnx library."""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..protobuf import FIXED32, Field, message, messages_of, read_message, text, texts_of, write_message

STOCK_DOMAIN, DOMAIN = "com.microsoft", "edgegen"
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7  # types of elements in onnx.proto
# numbers of fields there
_NODE, _INITIALIZER, _OUTPUT, _OUTPUT_NAME = 1, 5, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT = 1, 2, 3
WITH_GRAPHS_INSIDE = {"If", "Loop", "Scan", "SequenceMap"}  # those take values without saying so
_SIDES, _TYPE, _FLOATS, _TENSOR_NAME, _RAW, _EXTERNAL, _KEY, _VALUE = 1, 2, 4, 8, 9, 13, 1, 2
MAX_READ = 1 << 20  # bytes of one constant, out of a data file


@dataclass(frozen=True, eq=False)
class Node:
    """One node. `field`: as it is written in the graph."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    field: Field

    @functools.cached_property
    def attributes(self) -> dict[str, float]:
        """Those that are a number."""
        found: dict[str, float] = {}
        for data in messages_of(_fields(self.field), _NODE_ATTRIBUTE):
            fields = read_message(data)
            for field in fields:
                if field.number in (_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT):
                    found[texts_of(fields, _ATTRIBUTE_NAME)[0]] = _number(field)
        return found

    def moved_to(self, domain: str) -> Node:
        """The same, of another domain."""
        fields = [text(_NODE_DOMAIN, domain) if f.number == _NODE_DOMAIN else f for f in _fields(self.field)]
        return read_node(message(_NODE, fields))


def read_node(field: Field) -> Node:
    """Raises ValueError: it is none."""
    fields = _fields(field)
    operator, domain = ("".join(texts_of(fields, number)) for number in (_NODE_OPERATOR, _NODE_DOMAIN))
    inputs, outputs = (tuple(texts_of(fields, number)) for number in (_NODE_INPUT, _NODE_OUTPUT))
    return Node(operator, domain, inputs, outputs, field)


def make_node(operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = DOMAIN) -> Node:
    """A new node, named by what it makes."""
    fields = [text(_NODE_INPUT, name) for name in inputs] + [text(_NODE_OUTPUT, name) for name in outputs]
    fields += [text(_NODE_NAME, f"{outputs[0]} by edgegen"), text(_NODE_OPERATOR, operator)]
    return read_node(message(_NODE, [*fields, text(_NODE_DOMAIN, domain)]))


class Tensor:
    """A constant of the graph: what it is, and its values where they are few.

    Args:
        data: as it is written in the graph. folder: where data files are.
    """

    def __init__(self, data: bytes, folder: Path):
        self._fields = read_message(data)
        self._folder = folder
        self.sides = [field.value for field in self._fields if field.number == _SIDES and field.wire == 0]
        self.type = next((field.value for field in self._fields if field.number == _TYPE), 0)

    @property
    def raw(self) -> bytes | None:
        """Its bytes; None: they are too many, or cannot be read."""
        where = {}
        for entry in map(read_message, messages_of(self._fields, _EXTERNAL)):
            where[texts_of(entry, _KEY)[0]] = texts_of(entry, _VALUE)[0]
        return _read(self._folder, where) if where else next(iter(messages_of(self._fields, _RAW)), None)

    @property
    def whole_numbers(self) -> tuple[int, ...]:
        """The int64 numbers it is; none: it is something else."""
        raw = self.raw if self.type == INT64 else None
        return struct.unpack(f"<{len(raw) // 8}q", raw) if raw and len(raw) % 8 == 0 else ()

    @property
    def scalar(self) -> float | None:
        """The one float32 it is; None: it is something else."""
        for field in self._fields:
            if field.number in (_RAW, _FLOATS) and isinstance(field.value, bytes) and len(field.value) == 4:
                return float(struct.unpack("<f", field.value)[0])
        return None


class Graph:
    """The fields of a graph, its nodes in order, and what connects them.

    Args:
        data: an ONNX graph. folder: where its data files are.
    Raises:
        ValueError: it is none.
    """

    def __init__(self, data: bytes, folder: Path):
        self._folder = folder
        self._fields = read_message(data)
        self.nodes = [read_node(field) for field in self._fields if field.number == _NODE]
        self._makers = {name: node for node in self.nodes for name in node.outputs}
        self._takers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self._takers.setdefault(name, []).append(node)
        self._results = [
            name
            for data in messages_of(self._fields, _OUTPUT)
            for name in texts_of(read_message(data), _OUTPUT_NAME)
        ]
        self._is_flat = not any(node.operator in WITH_GRAPHS_INSIDE for node in self.nodes)
        self._instead: dict[Node, Node] = {}

    @functools.cached_property
    def _tensors(self) -> Mapping[str, bytes]:
        found = {}
        for data in messages_of(self._fields, _INITIALIZER):
            for name in texts_of(read_message(data), _TENSOR_NAME):
                found[name] = data
        return found

    def maker(self, name: str) -> Node | None:
        return self._makers.get(name)

    def takers(self, name: str) -> list[Node]:
        """The nodes that take this value; none when it is a result of the graph, or others may, too."""
        is_open = name in self._results or not self._is_flat
        return [] if is_open else self._takers.get(name, [])

    def only_taker(self, name: str) -> Node | None:
        """The node that takes this value, if it is the only one and the value is no result of the graph."""
        takers = self.takers(name)
        return takers[0] if len(takers) == 1 else None

    @property
    def taken(self) -> frozenset[str]:
        """The names of all values that nodes take."""
        return frozenset(self._takers)

    def tensor(self, name: str) -> Tensor | None:
        data = self._tensors.get(name)
        return None if data is None else Tensor(data, self._folder)

    def replace(self, old: Node, new: Node) -> None:
        """Have the new node make what the old one does."""
        self._instead[old] = new

    @property
    def is_changed(self) -> bool:
        return bool(self._instead)

    def written(self) -> bytes:
        """The graph with what was replaced, and without the nodes whose values nobody takes any more."""
        live = self._live([self._instead.get(node, node) for node in self.nodes])
        others = [field for field in self._fields if field.number != _NODE]
        return write_message([*(node.field for node in live), *others])

    def _live(self, nodes: Sequence[Node]) -> Sequence[Node]:
        if not self._is_flat:
            return nodes
        wanted, live = Counter(self._results), []
        for node in reversed(nodes):
            if any(wanted[name] for name in node.outputs):
                wanted.update(node.inputs)
                live.append(node)
        return live[::-1]


def _read(folder: Path, where: Mapping[str, str]) -> bytes | None:
    """A part of a data file, which must be one of the folder itself."""
    name, length = where.get("location", ""), int(where.get("length", "0"))
    if not name or Path(name).name != name or not 0 < length <= MAX_READ:
        return None
    try:
        with (folder / name).open("rb") as file:
            file.seek(int(where.get("offset", "0")))
            return file.read(length)
    except OSError:
        return None


def _fields(field: Field) -> list[Field]:
    assert isinstance(field.value, bytes)
    return read_message(field.value)


def _number(field: Field) -> float:
    if field.wire == FIXED32:
        assert isinstance(field.value, bytes)
        return float(struct.unpack("<f", field.value)[0])
    assert isinstance(field.value, int)
    return field.value - (field.value >> 63 << 64)  # written as if it was not signed
