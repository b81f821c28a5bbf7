"""Reading `pack.json`: never more than it may hold, and every problem told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from ..errors import PackError
from .manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, PackHead

MANIFEST_MAX_BYTES = 1 << 20

HeadT = TypeVar("HeadT", bound=PackHead)


class ComponentPack(PackError):
    """The pack in `folder` is asked for pictures, but only helps others to make them."""

    def __init__(self, folder: Path, kind: str):
        super().__init__(f"pack in {folder} makes no pictures from words: it is {kind}, for workflows")
        self.folder = folder


def read_manifest(folder: Path) -> Manifest:
    """Parse and check `folder/pack.json`. Raises PackError with every problem at once; ComponentPack for a
    pack that only helps others."""
    data = read_pack_json(folder)
    if kind := component_kind(data):
        raise ComponentPack(folder, kind)
    return parse_head(Manifest, folder, data)


def read_pack_json(folder: Path) -> dict[str, JsonValue]:
    """`folder/pack.json` of a format version that is known, else unchecked. Raises PackError."""
    data = _load_json(folder)
    if not isinstance(data, dict):
        raise PackError(f"{folder / MANIFEST_NAME} must hold one JSON object, not {type(data).__name__}")
    version = data.get("format_version")
    if type(version) is int and version != FORMAT_VERSION:
        raise PackError(
            f"pack in {folder} has format version {version}; this edgegen reads {FORMAT_VERSION}. "
            "Install a newer edgegen, or build the pack again."
        )
    return data


def component_kind(data: dict[str, JsonValue]) -> str | None:
    """What a pack that only helps others calls itself, with its article; None of one that makes pictures."""
    kind = data.get("kind")
    if not isinstance(kind, str):
        return None
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind[:32]!r}"


def parse_head(model: type[HeadT], folder: Path, data: dict[str, JsonValue]) -> HeadT:
    """A checked manifest. Raises PackError with every problem at once."""
    try:
        return model.model_validate(data)
    except ValidationError as err:
        raise PackError(f"pack in {folder}: " + "; ".join(_readable(err))) from None


def _load_json(folder: Path) -> Any:
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file():
            raise PackError(f"{folder} is no pack: it has no file {MANIFEST_NAME}")
        with path.open("rb") as file:
            raw = file.read(MANIFEST_MAX_BYTES + 1)
        if len(raw) > MANIFEST_MAX_BYTES:
            raise PackError(f"{path} is larger than {MANIFEST_MAX_BYTES} bytes")
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except OSError as err:
        raise PackError(f"{path} cannot be read: {err.strerror}") from err
    except RecursionError:
        raise PackError(f"{path} is nested too deeply") from None
    except PackError:
        raise
    except ValueError as err:  # bad JSON, bad UTF-8, NaN, a number of thousands of digits
        raise PackError(f"{path} is not valid JSON: {err}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _readable(err: ValidationError) -> list[str]:
    lines = []
    for item in err.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        shown = repr(item["input"])[:60] if item["type"] not in ("missing", "value_error") else ""
        lines.append((f"{where}: " if where else "") + message + (f" (got {shown})" if shown else ""))
    return lines
