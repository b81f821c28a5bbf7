"""One JSON object a line: how the front, the engine and the shell talk over the Unix socket. Pure."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]
MAX_LINE = 256 * 1024


class WireError(ValueError):
    """A peer sent something that is not one JSON object a line, or too much of it."""


def encode(message: Message) -> bytes:
    """One line, its end included."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False).encode() + b"\n"


class LineBuffer:
    """Bytes in, whole messages out."""

    def __init__(self, max_line: int = MAX_LINE):
        self._max_line = max_line
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete.

        Raises:
            WireError: a line that is too long, or no JSON object.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, (*lines, self._rest))) > self._max_line:
            raise WireError(f"a line is longer than {self._max_line} bytes")
        return [_decode(line) for line in lines if line]


def _decode(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise WireError(f"a line is no JSON: {err}") from err
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError("a line is no JSON object with a type")
    return message
