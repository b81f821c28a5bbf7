"""Embeddings of textual inversion: `.safetensors` files in a folder, by name.

Known are `emb_params` (AUTOMATIC1111's web UI), `clip_l` and `clip_g` (Stable Diffusion XL) and one tensor
of any name (diffusers). Older files are pickles, which may run code when they are read: refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..diffusion.embeddingnames import (
    PICKLES,
    SUFFIX,
    embedding_names,
    pickled_embedding,
    plain_name,
    unknown_embedding,
)
from ..errors import BadRequest, LoraError
from ..pack import PackFolder
from .lora.files import file_within
from .lora.names import TEXT, TEXT_2
from .lora.tensors import TensorFile
from .textgraph import TextGraph

MAX_VECTORS = 75
_ANY = ""
_BY_ROLE = {"clip_l": TEXT, "clip_g": TEXT_2}
_ONE = "emb_params"


@dataclass(frozen=True)
class Embedding:
    """One file.

    Attributes:
        vectors: text encoder's role -> (n, width) float32, n 1 to 75; of the role "": for whichever it fits.
        state: changes when the file does.
    """

    name: str
    vectors: Mapping[str, np.ndarray]
    state: tuple[int, ...]

    @classmethod
    def read(cls, path: Path, name: str) -> Embedding:
        """Raises BadRequest: the file is damaged, or none of the known layouts."""
        try:
            file = TensorFile(path)
            places = _vectors_in(file, name)
            return cls(name, {role: _rows(file.read(key), name) for role, key in places.items()}, file.state)
        except LoraError as err:
            raise BadRequest(f"embedding {err}") from err

    def fitting(self, role: str, width: int, encoders: int) -> np.ndarray:
        """What a text encoder reads. Raises BadRequest: it is made for other models."""
        found = self.vectors.get(role)
        if found is None and encoders == 1:
            found = self.vectors.get(_ANY)
        if found is None:
            had = "clip_l and clip_g" if encoders > 1 else "one tensor of vectors"
            holds = ", ".join(f"{v.shape[1]} wide" for v in self.vectors.values())
            raise BadRequest(
                f"embedding {self.name} is made for another kind of model: the pack's text encoders take "
                f"{had}, the file holds vectors {holds}"
            )
        if found.shape[1] != width:
            raise BadRequest(
                f"embedding {self.name} is made for another kind of model: its vectors have {found.shape[1]} "
                f"numbers, the pack's {role} reads {width}"
            )
        return found


class EmbeddingFolder:
    """The embeddings of a device. Files are looked up anew each time, and read again when they change.

    Args:
        folder: None: there are none.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._read: dict[Path, Embedding] = {}

    def names(self) -> list[str]:
        """See `embedding_names`."""
        return embedding_names(self.folder)

    def knows(self, name: str) -> bool:
        """Whether there is such a file, readable or not."""
        return self._file(name) is not None

    def get(self, name: str) -> Embedding:
        """Raises BadRequest: there is none, it is a pickle, or it is damaged."""
        path = self._file(name)
        if path is None:
            raise BadRequest(unknown_embedding(name, self.names()))
        if path.suffix != SUFFIX:
            raise BadRequest(pickled_embedding(name))
        known = self._read.get(path)
        status = path.stat()
        if known is None or known.state[:2] != (status.st_size, status.st_mtime_ns):
            known = self._read[path] = Embedding.read(path, plain_name(name))
        return known

    def _file(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        plain = name.replace("\\", "/")
        for candidate in (plain, *(f"{plain}{suffix}" for suffix in (SUFFIX, *PICKLES))):
            path = file_within(self.folder, candidate)
            if path is not None and path.suffix in (SUFFIX, *PICKLES):
                return path
        return None


class FittingVectors(Mapping[str, np.ndarray]):
    """A folder's embeddings as a pack's text encoder reads them: name -> (n, width) float32.

    Looking one up raises BadRequest when it is not there, or does not fit, and EngineError when the graph
    does not tell what it takes; only then is the graph looked at.
    """

    def __init__(self, folder: EmbeddingFolder, pack: PackFolder, role: str, encoders: int):
        self.folder = folder
        self._pack, self._role, self._encoders = pack, role, encoders

    @cached_property
    def width(self) -> int:
        """Of one vector."""
        return TextGraph.read(self._pack.graph(self._role), self._role).width

    def __getitem__(self, name: str) -> np.ndarray:
        return self.folder.get(name).fitting(self._role, self.width, self._encoders)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.folder.knows(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.folder.names())

    def __len__(self) -> int:
        return len(self.folder.names())


def _vectors_in(file: TensorFile, name: str) -> dict[str, str]:
    """Role -> the tensor that holds its vectors."""
    keys = set(file.places)
    if keys and keys <= set(_BY_ROLE):
        return {_BY_ROLE[key]: key for key in keys}
    if _ONE in keys:
        return {_ANY: _ONE}
    if len(keys) == 1:
        return {_ANY: next(iter(keys))}
    shown = ", ".join(sorted(keys)[:5]) or "nothing"
    known = f"{_ONE}, {' and '.join(_BY_ROLE)}, or one tensor alone"
    raise BadRequest(f"embedding {name} holds {shown[:200]}; known are {known}")


def _rows(values: np.ndarray, name: str) -> np.ndarray:
    rows = values.reshape(1, -1) if values.ndim == 1 else values
    if rows.ndim != 2 or not 1 <= len(rows) <= MAX_VECTORS or not rows.shape[1]:
        raise BadRequest(
            f"embedding {name} has the shape {list(values.shape)}; taken are 1 to {MAX_VECTORS} vectors"
        )
    return rows
