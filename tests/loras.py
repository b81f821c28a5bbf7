"""LoRA files for tests, written by hand in the format's own terms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

NAMES = {"float32": "F32", "float16": "F16"}


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A whole `.safetensors` file."""
    header, parts, at = {}, [], 0
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        shape, dtype = list(values.shape), NAMES[str(values.dtype)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    return write_raw(path, header, b"".join(parts))


def write_raw(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
