"""A graph's nodes as ONNX Runtime optimised them, kept in memory: loading it again need not repeat that.

How long optimising takes depends on the number of nodes alone: for a Stable Diffusion 1.5 denoiser that is
most of a load that packs no weights. Weights are not kept: the nodes go on reading the pack's data file.

ONNX Runtime writes what it made to a path (`optimized_model_filepath`), here one of anonymous memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from .protobuf import messages_of, read_message, texts_of

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 10**6  # more means that weights were written, too
_GRAPH, _INITIALIZER, _TENSOR_NAME, _EXTERNAL = 7, 5, 8, 13  # numbers of fields in onnx.proto


class OptimisedGraph:
    """One graph's nodes; empty until a session was made under `recording`.

    Attributes:
        model: an ONNX file's bytes, to be loaded without optimising again; b"" while there is none.
    """

    def __init__(self) -> None:
        self.model = b""
        self._weights: frozenset[str] = frozenset()

    def reads(self, weights: Iterable[str]) -> frozenset[str]:
        """Those of a data file's weights, by name, that the nodes read."""
        return self._weights.intersection(weights)

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
        if not 0 < size <= MAX_BYTES:
            log.debug("an optimised graph of %d bytes is not kept", size)
            return
        model = os.pread(place, size, 0)
        self._weights = _stored_weights(model)
        self.model = model


def _stored_weights(model: bytes) -> frozenset[str]:
    """Names of the initializers that lie in a data file. Raises ValueError: it is no ONNX."""
    graph = messages_of(read_message(model), _GRAPH)[0]
    tensors = (read_message(data) for data in messages_of(read_message(graph), _INITIALIZER))
    return frozenset(
        name
        for fields in tensors
        if messages_of(fields, _EXTERNAL)
        for name in texts_of(fields, _TENSOR_NAME)
    )
