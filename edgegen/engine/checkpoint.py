"""A run that was cut off, as bytes: what a job needs to go on at the step where its engine died.

The bytes are a line that names the format, the SHA-256 of the rest, and a `.npz` archive without pickles and
without compression. What is damaged, foreign or of another run is refused before it counts for anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import __version__
from ..diffusion.rng import NoiseState
from ..diffusion.sampler import SamplerState

MAGIC = b"edgegen checkpoint 1\n"
MAX_BYTES = 64 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size
_FACTS = "facts"

Arrays = dict[str, np.ndarray]


def run_label(*parts: object) -> str:
    """What a run is, hashed: the same parts and the same version of edgegen make the identical picture."""
    return hashlib.sha256(json.dumps([__version__, *parts], sort_keys=True).encode()).hexdigest()


def freeze(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Facts (plain data) and arrays as one checkpoint; no array is named `facts` or `file`."""
    body = io.BytesIO()
    members: dict[str, Any] = {_FACTS: np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays}
    np.savez(body, **members)
    data = body.getvalue()
    return MAGIC + hashlib.sha256(data).digest() + data


def thaw(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """The way back. Raises ValueError: damaged, too large, or no checkpoint of this version."""
    head, body = data[: len(MAGIC)], data[len(MAGIC) + _DIGEST_BYTES :]
    if head != MAGIC or len(data) > MAX_BYTES:
        raise ValueError("is no checkpoint of this version")
    if hashlib.sha256(body).digest() != data[len(MAGIC) : len(MAGIC) + _DIGEST_BYTES]:
        raise ValueError("is damaged")
    try:
        arrays = _unpacked(body)
        facts = json.loads(arrays.pop(_FACTS).tobytes())
    except (KeyError, EOFError, RecursionError, MemoryError, zipfile.BadZipFile) as err:
        raise ValueError(f"is no checkpoint: {err}") from err
    if not isinstance(facts, dict):
        raise ValueError("is no checkpoint: its facts are none")
    return facts, arrays


def _unpacked(body: bytes) -> Arrays:
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        if any(member.compress_type for member in found.zip.infolist()):
            raise ValueError("is compressed, which a checkpoint never is")
        return {name: found[name] for name in found.files}


def state_arrays(state: SamplerState) -> Arrays:
    """A sampler's state as arrays."""
    noise = state.noise
    position = noise.position if noise else -1
    arrays = {"at": np.array([state.index, position], np.int64), "latents": state.latents}
    arrays |= {f"history{k}": array for k, array in enumerate(state.history)}
    if noise is not None:
        spare = [] if noise.spare is None else [noise.spare]
        arrays |= {"noise": noise.key, "spare": np.array(spare, np.float64)}
    return arrays


def state_from(arrays: Mapping[str, np.ndarray]) -> SamplerState:
    """The way back. Raises ValueError: these are no sampler's state."""
    try:
        index, position = (int(value) for value in arrays["at"])
        latents = arrays["latents"]
        count = sum(name.startswith("history") for name in arrays)
        history = tuple(arrays[f"history{k}"] for k in range(count))
        noise = _noise(arrays, position) if "noise" in arrays else None
    except (KeyError, TypeError) as err:
        raise ValueError(f"is no sampler's state: {err}") from err
    if index < 1 or latents.ndim != 4 or latents.dtype != np.float32 or not np.isfinite(latents).all():
        raise ValueError(f"is no sampler's state: step {index}, latents {latents.dtype} {latents.shape}")
    return SamplerState(index, latents, history, noise)


def _noise(arrays: Mapping[str, np.ndarray], position: int) -> NoiseState:
    key, spare = arrays["noise"], arrays["spare"]
    if key.shape != (624,) or key.dtype != np.uint32 or not 0 <= position <= 624 or spare.size > 1:
        raise ValueError("is no sampler's state: its noise stream is none")
    return NoiseState(key, position, float(spare[0]) if spare.size else None)
