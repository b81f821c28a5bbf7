"""Graphs with our operators in them.

Packs are stored without, so that they run anywhere: graphs are changed when they are loaded. Float graphs
keep ONNX Runtime's operators."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..protobuf import Field, message, messages_of, read_message, text, whole, write_message
from .attention import OPERATOR as ATTENTION
from .attention import take_attention
from .geglu import GATE, take_geglu
from .graph import DOMAIN, Graph

MAX_BYTES = 64 * 10**6  # a larger file has its weights inside, and a copy of it would cost too much
RULES = (take_attention, take_geglu)
MARKS = (ATTENTION.encode(), GATE.encode())  # without any of these no rule finds anything
# numbers of fields in onnx.proto
_GRAPH, _OPERATOR_SET, _SET_DOMAIN, _SET_VERSION = 7, 8, 1, 2


def with_own_operators(model: bytes, folder: Path) -> bytes:
    """An ONNX file's bytes with all that our operators can compute turned over to them; the same bytes when
    there is nothing, or they are no ONNX.

    Args:
        folder: where its data files are.
    """
    if not any(mark in model for mark in MARKS):
        return model
    try:
        fields = read_message(model)
        changed = [_changed(field, folder) if field.number == _GRAPH else field for field in fields]
    except (ValueError, IndexError):
        return model  # ONNX Runtime says what is wrong with it
    if changed == fields:
        return model
    imported = message(_OPERATOR_SET, [text(_SET_DOMAIN, DOMAIN), whole(_SET_VERSION, 1)])
    return write_message([*changed, imported])


def taken(model: bytes, names: Iterable[str]) -> frozenset[str]:
    """Those of the names whose values a node of the model takes.

    Our operators leave some aside that ONNX Runtime's nodes take; it forgets weights that nobody takes, and
    knows none of their names any more."""
    graphs = messages_of(read_message(model), _GRAPH)
    return frozenset(names).intersection(*(Graph(data, Path()).taken for data in graphs))


def _changed(field: Field, folder: Path) -> Field:
    if not isinstance(field.value, bytes):
        raise ValueError("a graph is a message")
    graph = Graph(field.value, folder)
    for rule in RULES:
        rule(graph)
    return Field(field.number, graph.written()) if graph.is_changed else field
