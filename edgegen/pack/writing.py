"""Writing `pack.json`, or any small file, so that a power cut leaves it whole."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import StorageError
from .manifest import MANIFEST_NAME, OPTIONAL_FIELDS, PackHead


def write_manifest(folder: Path, manifest: PackHead) -> Path:
    """Write `pack.json` in one piece. Raises StorageError when the folder cannot be written."""
    data = manifest.model_dump(mode="json")
    for name in OPTIONAL_FIELDS:
        _drop_unset(data, name)
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / MANIFEST_NAME
    try:
        replace_file(path, text.encode("utf-8"))
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror}") from err
    return path


def _drop_unset(data: dict[str, Any], name: str) -> None:
    """Leave out what is unset in it, or itself: an edgegen that does not know it yet reads the pack too."""
    value = data.get(name, ...)
    if value is ...:
        return
    if value is None or value == {}:
        del data[name]
    elif isinstance(value, dict):
        for key in list(value):
            _drop_unset(value, key)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a power cut leaves the old one or the new one, whole. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
