"""Attention by an operator of our own in place of ONNX Runtime's, where a processor is made for it.

`native/` is the operator: 16-bit integers in place of floats, of which processors with VNNI multiply twice as
many in the same time. What that rounds off is far less than what layers in 8 bits do; float graphs keep ONNX
Runtime's. Graphs are not stored with it, so that packs run anywhere: nodes `com.microsoft:MultiHeadAttention`
are renamed when a graph is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from .protobuf import Field, message, messages_of, read_message, text, texts_of, whole, write_message

log = logging.getLogger(__name__)

LIBRARIES = [Path(__file__).with_name(f"_attention{suffix}") for suffix in EXTENSION_SUFFIXES]
MAX_BYTES = 64 * 10**6  # a larger file has its weights inside, and a copy of it would cost too much
STOCK_DOMAIN, DOMAIN, OPERATOR = "com.microsoft", "edgegen", "MultiHeadAttention"
# numbers of fields in onnx.proto
_GRAPH, _OPERATOR_SET, _NODE = 7, 8, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_SET_DOMAIN, _SET_VERSION = 1, 2


@functools.cache
def own_attention() -> Path | None:
    """The library to register with sessions; None: it was not built, or is nothing for this processor."""
    for path in LIBRARIES:
        if path.is_file() and choose_kind(path):
            return path
    return None


def choose_kind(path: Path, wanted: str = "") -> str:
    """Make a library's operator take these instructions, or the best the processor has.

    Args:
        wanted: `avx512-vnni`, `avx-vnni`, or `avx2`, which is no faster than ONNX Runtime and never the best.
    Returns:
        what it takes in sessions made from now on; "" when it stays as it was.
    """
    try:
        choose = ctypes.CDLL(str(path)).edgegen_attention_choose
    except (OSError, AttributeError) as err:
        log.warning("%s is not used: %s", path, err)
        return ""
    choose.restype, choose.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    found: bytes = choose(wanted.encode())
    return found.decode()


def with_own_attention(model: bytes) -> bytes:
    """An ONNX file's bytes with every attention that the operator can compute turned over to it; the same
    bytes when there is none, or they are no ONNX."""
    if OPERATOR.encode() not in model:
        return model
    try:
        fields = read_message(model)
        changed = [_with_graph(field) if field.number == _GRAPH else field for field in fields]
    except ValueError:
        return model  # ONNX Runtime says what is wrong with it
    if changed == fields:
        return model
    imported = message(_OPERATOR_SET, [text(_SET_DOMAIN, DOMAIN), whole(_SET_VERSION, 1)])
    return write_message([*changed, imported])


def _with_graph(graph: Field) -> Field:
    assert isinstance(graph.value, bytes)
    fields = [_with_node(field) if field.number == _NODE else field for field in read_message(graph.value)]
    return message(_GRAPH, fields)


def _with_node(node: Field) -> Field:
    assert isinstance(node.value, bytes)
    if OPERATOR.encode() not in node.value:
        return node
    fields = read_message(node.value)
    if not _is_computable(fields):
        return node
    return message(_NODE, [text(_NODE_DOMAIN, DOMAIN) if f.number == _NODE_DOMAIN else f for f in fields])


def _is_computable(node: Sequence[Field]) -> bool:
    """Whether it is attention of three inputs, with no mask, no bias and no cache."""
    if texts_of(node, _NODE_OPERATOR) != [OPERATOR] or texts_of(node, _NODE_DOMAIN) != [STOCK_DOMAIN]:
        return False
    inputs, outputs = texts_of(node, _NODE_INPUT), texts_of(node, _NODE_OUTPUT)
    return len(inputs) == 3 and all(inputs) and len(outputs) == 1 and not _is_causal(node)


def _is_causal(node: Sequence[Field]) -> bool:
    attributes = [read_message(data) for data in messages_of(node, _NODE_ATTRIBUTE)]
    return any(
        field.value
        for attribute in attributes
        if texts_of(attribute, _ATTRIBUTE_NAME) == ["unidirectional"]
        for field in attribute
        if field.number == _ATTRIBUTE_INT
    )
