"""Safetensors files, read with suspicion: names, shapes and places of tensors, before anything is loaded.

A header from elsewhere may claim anything; and a pickle, which runs code when it is opened, may be called
`.safetensors`. Source of the format: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from .refusal import CONVERT, PICKLES, SourceError

HEADER_MAX_BYTES = 100_000_000  # the format's own limit
TENSORS_MAX = 100_000
BYTES_OF = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_ZIP, _LEGACY_TAR = b"PK\x03\x04", b"ustar"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: `start` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def refuse_pickle(path: Path) -> None:
    """Raise SourceError for a pickle, by its name or by its first bytes, with the way out."""
    if path.suffix in PICKLES:
        raise SourceError(f"{path} is a pickle, which runs code when opened; {CONVERT}")
    with path.open("rb") as file:
        start = file.read(512)
    kind = None
    if start.startswith(_ZIP):
        kind = "a zip archive, as PyTorch writes around a pickle"
    elif start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05" and start[8:9] != b"{":
        kind = "a pickle"
    elif start[257:262] == _LEGACY_TAR:
        kind = "a tar archive, as old PyTorch wrote around pickles"
    if kind:
        raise SourceError(f"{path} is {kind}, whatever its name says, and runs code when opened; {CONVERT}")


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Name -> info of all tensors of a safetensors file.

    Raises:
        SourceError: a pickle; or the header is too long, no JSON, or places tensors outside the file, over
            each other, or with another size than their shape has.
    """
    try:
        refuse_pickle(path)
        with path.open("rb") as file:
            header, data_bytes = _header(file, path.stat().st_size)
        found = {name: _info(name, entry, data_bytes) for name, entry in header.items()}
        _refuse_overlaps(found)
        return found
    except OSError as err:
        raise SourceError(f"{path} cannot be read: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        if isinstance(err, SourceError):
            raise
        raise SourceError(f"{path} is no sound safetensors file: {err}") from None


def _header(file: BinaryIO, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The JSON of the header without metadata, and how many bytes of data follow."""
    length = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or not 2 <= length <= min(HEADER_MAX_BYTES, file_bytes - 8):
        raise ValueError(f"its header claims {length} bytes, the file has {file_bytes}")
    header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > TENSORS_MAX:
        raise ValueError(f"it claims {len(header)} tensors; at most {TENSORS_MAX} are read")
    return header, file_bytes - 8 - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _info(name: str, entry: Any, data_bytes: int) -> TensorInfo:
    shown = repr(name)[:100]
    if not isinstance(entry, dict) or entry.get("dtype") not in BYTES_OF:
        raise ValueError(f"tensor {shown} has no known dtype")
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(place) or len(place) != 2:
        raise ValueError(f"tensor {shown} has no shape or no data_offsets")
    start, end = place
    wanted = math.prod(shape) * BYTES_OF[entry["dtype"]]
    if not (start <= end <= data_bytes and end - start == wanted):
        raise ValueError(f"tensor {shown} of {wanted} bytes lies at {start} to {end} of {data_bytes}")
    return TensorInfo(entry["dtype"], tuple(shape), start, end)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _refuse_overlaps(found: dict[str, TensorInfo]) -> None:
    reached, before = 0, ""
    for name, info in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start < reached and info.end > info.start:
            raise ValueError(f"tensors {before[:100]!r} and {name[:100]!r} overlap")
        reached, before = max(reached, info.end), name
