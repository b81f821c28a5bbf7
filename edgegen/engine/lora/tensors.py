"""`.safetensors` files, read with suspicion: whatever is wrong is found before anything is allocated.

Format: https://huggingface.co/docs/safetensors: the header's length in 8 bytes, a JSON header, the tensors.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from ...errors import LoraError

MAX_FILE_BYTES = 4 * 10**9
MAX_HEADER_BYTES = 16 * 10**6
MAX_TENSORS = 20_000
MAX_RANK = 5
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: counted from the file's beginning, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """The tensors of a file by name, read when asked for.

    Attributes:
        places: of the tensors of floating numbers.
        metadata: text the maker wrote in.
    Raises:
        LoraError: the file cannot be read, or contradicts itself.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with _open(path) as file:
                status = os.fstat(file.fileno())
                self.state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                header, begin = self._read_header(file, status)
        except OSError as err:
            raise self._bad(f"cannot be read ({err.strerror})") from err
        told = header.pop("__metadata__", {})
        self.metadata = {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}
        if len(header) > MAX_TENSORS:
            raise self._bad(f"has {len(header)} tensors; at most {MAX_TENSORS} are read")
        self.places = {name: self._place(name, entry, begin) for name, entry in header.items()}
        self._check_overlaps(status.st_size, begin)

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32. Raises LoraError: it cannot be read, or holds what is no number."""
        place = self.places[name]
        try:
            raw = _read_at(self.path, place.begin, place.end - place.begin)
        except OSError as err:
            raise self._bad(f"cannot be read ({err.strerror})") from err
        if len(raw) != place.end - place.begin:
            raise self._bad(f"ends within tensor {name[:100]}")
        values = _as_float32(raw, place.dtype).reshape(place.shape)
        if not np.isfinite(values).all():
            raise self._bad(f"tensor {name[:100]} holds numbers that are no numbers, or beyond all bounds")
        return values

    def _read_header(self, file: Any, status: os.stat_result) -> tuple[dict[str, Any], int]:
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise self._bad("is no regular file")
        if not 8 < size <= MAX_FILE_BYTES:
            raise self._bad(f"has {size} bytes; 9 to {MAX_FILE_BYTES} are read")
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise self._bad(f"is no .safetensors: its header would have {length} bytes")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
        except (ValueError, RecursionError) as err:
            raise self._bad("is no .safetensors: its header is not JSON") from err
        if not isinstance(header, dict):
            raise self._bad("is no .safetensors: its header is no JSON object")
        return header, 8 + length

    def _place(self, name: str, entry: Any, begin: int) -> Place:
        what = f"tensor {name[:100]}"
        if not isinstance(entry, dict):
            raise self._bad(f"{what} has no description")
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise self._bad(f"{what} has the type {str(dtype)[:20]}; known are {', '.join(ITEM_BYTES)}")
        if not _are_counts(shape) or len(shape) > MAX_RANK:
            raise self._bad(f"{what} has the shape {str(shape)[:60]}; at most {MAX_RANK} sides are read")
        if not _are_counts(offsets) or len(offsets) != 2:
            raise self._bad(f"{what} has the offsets {str(offsets)[:60]}")
        if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
            raise self._bad(f"{what}: offsets {offsets} do not hold {dtype} of shape {shape}")
        return Place(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])

    def _check_overlaps(self, size: int, begin: int) -> None:
        at = begin
        for name, place in sorted(self.places.items(), key=lambda item: (item[1].begin, item[1].end)):
            if place.begin < at:
                raise self._bad(f"tensor {name[:100]} overlaps another one")
            if place.end > size:
                raise self._bad(f"tensor {name[:100]} ends at byte {place.end} of {size}")
            at = place.end

    def _bad(self, problem: str) -> LoraError:
        return LoraError(f"{self.path.name}: {problem}")


HOW = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe of that name must not keep anybody waiting


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, HOW), "rb")


def _read_at(path: Path, begin: int, count: int) -> bytes:
    file = os.open(path, HOW)
    try:
        return os.pread(file, count, begin)
    finally:
        os.close(file)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 40 for v in values)


def _as_float32(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F64":
        with np.errstate(over="ignore"):
            return np.frombuffer(raw, "<f8").astype(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32, copy=False)
