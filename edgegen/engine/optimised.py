"""A graph's nodes as ONNX Runtime optimised them, kept in memory: loading it again need not repeat that.

So kept, a graph can also be opened to other weights: they become inputs whose defaults the data file has, and
every run may be given others without loading anything anew. Kernels cannot lay such weights out beforehand.

How long optimising takes depends on the number of nodes alone: for a Stable Diffusion 1.5 denoiser that is
most of a load that packs no weights. Weights are not kept: the nodes go on reading the pack's data file.

ONNX Runtime writes what it made to a path (`optimized_model_filepath`), here one of anonymous memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from .protobuf import Field, message, messages_of, read_message, text, texts_of, whole, write_message

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 10**6  # nodes take a few MB; the rest are weights of float layers, in another layout
FEW_BYTES = 4 * 10**6  # where memory is short
# numbers of fields, and of types, in onnx.proto
_GRAPH, _INITIALIZER, _INPUT, _TENSOR_NAME, _EXTERNAL = 7, 5, 11, 8, 13
_NAME, _TYPE, _TENSOR_TYPE, _ELEMENTS, _SHAPE, _DIMENSION, _LENGTH = 1, 2, 1, 1, 2, 1, 1
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}


class Shaped(Protocol):
    """What has a type, by numpy's name, and a shape."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class OptimisedGraph:
    """One graph's nodes; empty until a session was made under `recording`.

    Args:
        max_bytes: what is longer is not kept.
    Attributes:
        model: an ONNX file's bytes, to be loaded without optimising again; b"" while there is none.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.model = b""
        self._max_bytes = max_bytes
        self._weights: frozenset[str] = frozenset()
        self._inputs: frozenset[str] = frozenset()

    def reads(self, weights: Iterable[str]) -> frozenset[str]:
        """Those of a data file's weights, by name, that the nodes read."""
        return self._weights.intersection(weights)

    def open_to(self, weights: Mapping[str, Shaped]) -> bytes:
        """The model, but every run may be given other values for these, which it reads."""
        return open_to({n: value for n, value in weights.items() if n not in self._inputs}, self.model)

    @contextlib.contextmanager
    def recording(self, options: Any) -> Iterator[None]:
        """Keep what the session that is made within, with these options, makes of its graph.

        Where the system has no anonymous files nothing is kept."""
        try:
            place = os.memfd_create("optimised")
        except (OSError, AttributeError):
            yield
            return
        try:
            options.optimized_model_filepath = f"/proc/self/fd/{place}"
            yield
            self._keep(place)
        finally:
            os.close(place)

    def _keep(self, place: int) -> None:
        size = os.fstat(place).st_size
        if not 0 < size <= self._max_bytes:
            log.debug("an optimised graph of %d bytes is not kept", size)
            return
        model = os.pread(place, size, 0)
        graph = read_message(messages_of(read_message(model), _GRAPH)[0])
        self._weights, self._inputs = _stored_weights(graph), _names_of_inputs(graph)
        self.model = model


def open_to(weights: Mapping[str, Shaped], model: bytes) -> bytes:
    """An ONNX file's bytes, but every run may be given other values for these of its weights.

    Messages of one number that follow one another are read as one, whose lists are joined (Protocol Buffers'
    encoding, https://protobuf.dev/programming-guides/encoding/#last-one-wins): so inputs are written behind
    the model. ONNX Runtime folds nothing into weights that are inputs, too."""
    inputs = [_input(name, value) for name, value in weights.items()]
    return model + write_message([message(_GRAPH, inputs)])


def _names_of_inputs(graph: Sequence[Field]) -> frozenset[str]:
    return frozenset(texts_of(read_message(data), _NAME)[0] for data in messages_of(graph, _INPUT))


def _stored_weights(graph: Sequence[Field]) -> frozenset[str]:
    """Names of the initializers that lie in a data file. Raises ValueError: it is no ONNX."""
    tensors = (read_message(data) for data in messages_of(graph, _INITIALIZER))
    return frozenset(
        name
        for fields in tensors
        if messages_of(fields, _EXTERNAL)
        for name in texts_of(fields, _TENSOR_NAME)
    )


def _input(name: str, value: Shaped) -> Field:
    """A graph's input of that type and shape."""
    shape = message(_SHAPE, [message(_DIMENSION, [whole(_LENGTH, side)]) for side in value.shape])
    tensor = message(_TENSOR_TYPE, [whole(_ELEMENTS, _TYPES[value.dtype]), shape])
    return message(_INPUT, [text(_NAME, name), message(_TYPE, [tensor])])
