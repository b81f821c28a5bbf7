"""A graph's nodes as far as rules must know them: who makes and who takes what. Without the onnx library."""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..protobuf import FIXED32, Field, message, messages_of, read_message, text, texts_of, write_message

STOCK_DOMAIN, DOMAIN = "com.microsoft", "edgegen"
UINT8, INT8, INT32 = 2, 3, 6  # types of elements in onnx.proto
# numbers of fields there
_NODE, _INITIALIZER, _OUTPUT, _OUTPUT_NAME = 1, 5, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT = 1, 2, 3
WITH_GRAPHS_INSIDE = {"If", "Loop", "Scan", "SequenceMap"}  # those take values without saying so
_SIDES, _TYPE, _FLOATS, _TENSOR_NAME, _RAW = 1, 2, 4, 8, 9


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


def make_node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> Node:
    """A node of ours, named by what it makes."""
    fields = [text(_NODE_INPUT, name) for name in inputs] + [text(_NODE_OUTPUT, name) for name in outputs]
    fields += [text(_NODE_NAME, f"{outputs[0]} by edgegen"), text(_NODE_OPERATOR, operator)]
    return read_node(message(_NODE, [*fields, text(_NODE_DOMAIN, DOMAIN)]))


class Tensor:
    """A constant of the graph: what it is, and its values where they are not in a data file."""

    def __init__(self, data: bytes):
        self._fields = read_message(data)
        self.sides = [field.value for field in self._fields if field.number == _SIDES and field.wire == 0]
        self.type = next((field.value for field in self._fields if field.number == _TYPE), 0)

    @property
    def raw(self) -> bytes | None:
        """None: elsewhere, or written otherwise."""
        return next(iter(messages_of(self._fields, _RAW)), None)

    @property
    def scalar(self) -> float | None:
        """The one float32 it is; None: it is something else."""
        for field in self._fields:
            if field.number in (_RAW, _FLOATS) and isinstance(field.value, bytes) and len(field.value) == 4:
                return float(struct.unpack("<f", field.value)[0])
        return None


class Graph:
    """The fields of a graph, its nodes in order, and what connects them.

    Raises ValueError: it is none."""

    def __init__(self, data: bytes):
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

    def only_taker(self, name: str) -> Node | None:
        """The node that takes this value, if it is the only one and the value is no result of the graph."""
        takers = self._takers.get(name, [])
        is_only = len(takers) == 1 and name not in self._results and self._is_flat
        return takers[0] if is_only else None

    def tensor(self, name: str) -> Tensor | None:
        data = self._tensors.get(name)
        return None if data is None else Tensor(data)

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


def _fields(field: Field) -> list[Field]:
    assert isinstance(field.value, bytes)
    return read_message(field.value)


def _number(field: Field) -> float:
    if field.wire == FIXED32:
        assert isinstance(field.value, bytes)
        return float(struct.unpack("<f", field.value)[0])
    assert isinstance(field.value, int)
    return field.value - (field.value >> 63 << 64)  # written as if it was not signed
