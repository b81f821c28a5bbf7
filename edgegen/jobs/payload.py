"""From the bytes somebody sent to a plain dictionary. Pure; everything is hostile until checked."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ..errors import BadRequest, shorten


def decode_payload(payload: bytes | bytearray | str | dict[str, Any]) -> dict[str, Any]:
    """A JSON object as a dictionary; any other text as `{"prompt": text}`.

    Raises:
        BadRequest: bytes that are not UTF-8, or text that starts like a JSON object and is none.
    """
    if isinstance(payload, dict):
        return payload
    text = (payload if isinstance(payload, str) else _decode_utf8(bytes(payload))).strip()
    return _decode_object(text) if text.startswith("{") else {"prompt": text}


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        message = f"the payload is not UTF-8 text: byte 0x{data[err.start]:02x} at offset {err.start}"
        raise BadRequest(message) from err


def _decode_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as err:
        where = f"line {err.lineno}, column {err.colno}"
        raise BadRequest(f"the payload is broken JSON: {err.msg} at {where}") from err
    except RecursionError as err:
        raise BadRequest("the payload is nested too deeply: give one flat JSON object") from err
    except ValueError as err:  # an integer of thousands of digits, or BadRequest from a hook
        if isinstance(err, BadRequest):
            raise
        raise BadRequest("the payload holds a number with too many digits") from err
    assert isinstance(data, dict)  # the text starts with {
    return data


def _refuse_constant(name: str) -> Any:
    raise BadRequest(f"the payload holds {name}, which is not JSON: give a finite number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadRequest(f"the payload gives {shorten(twice)} twice: give it once")
    return data
