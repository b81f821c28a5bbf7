"""Protocol Buffers' wire format, as much as it takes to change a graph without the onnx library.

Source: https://protobuf.dev/programming-guides/encoding. A message is a list of fields; what is not touched
is written back byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and what it holds; bytes for all but whole numbers.

    Attributes:
        wire: VARINT, FIXED64, BYTES or FIXED32.
    """

    number: int
    value: int | bytes
    wire: int = BYTES


def read_message(data: bytes) -> list[Field]:
    """The fields in order. Raises ValueError: the message is cut off, or is none."""
    return list(_fields(data))


def _fields(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield Field(number, value, wire)
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError(f"field {number} has the unknown wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"field {number} ends behind its message")
        yield Field(number, data[at : at + size], wire)
        at += size


def write_message(fields: Iterable[Field]) -> bytes:
    """The bytes of a message."""
    parts = bytearray()
    for field in fields:
        parts += _varint_bytes(field.number << 3 | field.wire)
        if isinstance(field.value, int):
            parts += _varint_bytes(field.value)
            continue
        if field.wire == BYTES:
            parts += _varint_bytes(len(field.value))
        parts += field.value
    return bytes(parts)


def message(number: int, fields: Iterable[Field]) -> Field:
    """A field that holds a message."""
    return Field(number, write_message(fields))


def text(number: int, value: str) -> Field:
    return Field(number, value.encode())


def whole(number: int, value: int) -> Field:
    """A field that holds a whole number, 0 or more."""
    return Field(number, value, VARINT)


def texts_of(fields: Sequence[Field], number: int) -> list[str]:
    """Every text of that number. Raises ValueError: it is no UTF-8."""
    return [data.decode() for data in messages_of(fields, number)]


def messages_of(fields: Sequence[Field], number: int) -> list[bytes]:
    """Every message of that number, not read yet."""
    return [field.value for field in fields if field.number == number and isinstance(field.value, bytes)]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for k, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return value, at + k + 1
    raise ValueError("a number is cut off")


def _varint_bytes(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
