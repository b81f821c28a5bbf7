"""Sessions: graphs loaded by ONNX Runtime, with every failure made readable."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, OutOfMemory, ProviderError
from .freememory import own_anonymous_mb
from .graphtimes import GraphTimes
from .memory import FULL, MemoryMode, apply_mode
from .operators.rewriting import MAX_BYTES, taken, with_own_operators
from .optimised import OptimisedGraph, Shaped
from .providers import ProviderChoice
from .runtime import FATAL_ONLY, onnxruntime, usable_cores

log = logging.getLogger(__name__)

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_MEMORY = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory", "cannot allocate memory")


class GraphSession:
    """One loaded graph. Feeds are cast to the types and ranks it declares, so graphs exported elsewhere run.

    Attributes:
        name: for messages: the role or the file.
        inputs: name -> (dtype, rank); outputs: names. shapes: name -> sides, None for a free one.
        properties: the graph's own metadata.
        open_to: names of weights that `hold` may replace.
        runs: how often it ran.
        times: told of every run; None: nobody is.
    """

    times: GraphTimes | None = None

    def __init__(self, session: Any, name: str):
        self.name = name
        self.inputs = {i.name: (_dtype(i.type, i.name, name), len(i.shape)) for i in session.get_inputs()}
        self.shapes = {
            i.name: [s if isinstance(s, int) else None for s in i.shape] for i in session.get_inputs()
        }
        self.outputs = [o.name for o in session.get_outputs()]
        self.properties: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.open_to = frozenset(i.name for i in session.get_overridable_initializers())
        self._held: Mapping[str, np.ndarray] = {}
        self.runs = 0
        self._session = session

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name.

        Raises:
            OutOfMemory: an allocation failed.
            EngineError: a feed is missing or unknown, has a wrong shape, or the graph failed.
        """
        if self._session is None:
            raise EngineError(f"graph {self.name} is closed")
        if set(feeds) != set(self.inputs):
            takes, given = (", ".join(sorted(names)) for names in (self.inputs, feeds))
            raise EngineError(f"graph {self.name} takes {takes}, but was given {given}")
        cast = {name: self._fitted(name, np.asarray(value)) for name, value in feeds.items()}
        began = time.monotonic()
        try:
            values = self._session.run(None, {**cast, **self._held})
        except Exception as err:
            raise _readable(f"graph {self.name} failed", err) from err
        log_cost(f"graph {self.name} ran", began)
        self.runs += 1
        if self.times is not None:
            self.times.note(self.name, feeds, time.monotonic() - began)
        return dict(zip(self.outputs, values, strict=True))

    def output(
        self, feeds: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """One output as float32. Raises as `run`, and EngineError when there is none, or of another shape."""
        return output_of(self.run(feeds), name, self.name, shape)

    def hold(self, weights: Mapping[str, np.ndarray]) -> None:
        """Run with these values from now on, and with the graph's own for all else it is open to.

        Args:
            weights: by name, of the types and shapes they have in the graph; not copied.
        """
        self._held = weights

    def _fitted(self, name: str, value: np.ndarray) -> np.ndarray:
        dtype, rank = self.inputs[name]
        if value.ndim != rank and value.size == 1 and rank <= 1:
            value = value.reshape((1,) * rank)  # a timestep may be a scalar or (1,)
        if np.issubdtype(dtype, np.integer) and not np.issubdtype(value.dtype, np.integer):
            value = np.rint(value)  # a timestep may lie between two, but not every graph takes that
        return np.asarray(value, dtype, order="C")

    def close(self) -> None:
        """Free the graph's memory; safe to call twice."""
        self._session, self._held = None, {}


def output_of(
    out: Mapping[str, np.ndarray], name: str, graph: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """One output as float32. Raises EngineError when the graph has none of that name, or another shape."""
    if name not in out:
        raise EngineError(f"graph {graph} has no output {name}; it has {', '.join(out)}")
    if shape is not None and out[name].shape != shape:
        raise EngineError(f"graph {graph}: {name} has shape {out[name].shape}, expected {shape}")
    return out[name].astype(np.float32, copy=False)


def log_cost(what: str, began: float) -> None:
    if log.isEnabledFor(logging.DEBUG):  # looking memory up takes longer than small graphs run
        log.debug("%s in %.2f s; %d MB held", what, time.monotonic() - began, own_anonymous_mb())


def _dtype(kind: str, input_name: str, graph: str) -> type:
    if kind not in DTYPES:
        raise EngineError(f"graph {graph}: input {input_name} has the unsupported type {kind}")
    return DTYPES[kind]


def _readable(doing: str, err: Exception) -> EngineError:
    detail = " ".join(str(err).split())[:400] or type(err).__name__
    if isinstance(err, MemoryError) or any(sign in detail.lower() for sign in _NO_MEMORY):
        return OutOfMemory(f"{doing}: not enough memory ({detail[-120:]})")
    return EngineError(f"{doing}: {detail}")


def open_session(
    path: Path,
    choice: ProviderChoice,
    threads: int = 0,
    name: str = "",
    memory: MemoryMode = FULL,
    compiled: Path | None = None,
    is_float: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
    edited: bytes | None = None,
    kept: OptimisedGraph | None = None,
    open_to: Mapping[str, Shaped] | None = None,
) -> GraphSession:
    """Load a graph.

    Args:
        path: an .onnx file of a verified pack: ONNX Runtime parses it, and what it names beside it.
        threads: for one operator's work; 0: one per usable core.
        name: for messages; the file's path when empty.
        memory: how to spend it; only the CPU provider listens.
        compiled: folder where the provider finds and keeps what it compiled; the CPU provider needs none.
        is_float: whether the graph's layers compute in float; the sparing memory modes then copy no weights,
            and no operators of ours have a part in it.
        weights: values in place of those in the data file, by name; of the same types and shapes.
        edited: the graph's file as it is to be read instead; its weights lie where those of `path` do.
        kept: what an earlier load made of the graph, taken instead; if empty, to be filled. Only the CPU
            provider listens.
        open_to: weights that `hold` may replace later, by name; only in a graph that is kept.
    Raises:
        OutOfMemory, EngineError: the graph does not load.
        ProviderError: the provider is not what runs it.
    """
    ort = onnxruntime()
    name = name or str(path)
    operators = None if is_float else choice.operators
    try:
        options = session_options(ort, threads or usable_cores())
        if not choice.devices:
            apply_mode(options, memory, is_float)
        if kept is not None and kept.model:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            edited = kept.open_to(open_to or {})
        elif operators:
            edited = _rewritten(path, edited)
        if weights:
            _replace_weights(ort, options, weights, edited if operators else None)
        if operators:
            options.register_custom_ops_library(str(operators))
        if edited is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent.absolute()))
        graph = str(path) if edited is None else edited
        if choice.devices:
            made = choice.make_options(threads or usable_cores(), compiled)
            options.add_provider_for_devices(list(choice.devices), made)
            session = ort.InferenceSession(graph, options)
        else:
            session = _on_cpu(ort, graph, options, kept)
    except Exception as err:
        raise _readable(f"graph {name} does not load with provider {choice.name}", err) from err
    if choice.devices and choice.devices[0].ep_name not in session.get_providers():
        raise ProviderError(f"provider {choice.name} refuses graph {name}; use provider cpu")
    return GraphSession(session, name)


def _on_cpu(ort: Any, graph: str | bytes, options: Any, kept: OptimisedGraph | None) -> Any:
    """A session of the CPU provider; what it makes of the graph is kept where nothing is yet."""
    with contextlib.nullcontext() if kept is None or kept.model else kept.recording(options):
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _replace_weights(
    ort: Any, options: Any, weights: Mapping[str, np.ndarray], rewritten: bytes | None
) -> None:
    """Have the session read these; of a graph with our operators those alone that it still takes."""
    names = list(weights) if rewritten is None else sorted(taken(rewritten, weights))
    values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(weights[name])) for name in names]
    options.add_external_initializers(names, values)


def _rewritten(path: Path, edited: bytes | None) -> bytes | None:
    """The graph with our own operators in it; None: to be read from its file as it is."""
    if edited is None and path.stat().st_size > MAX_BYTES:
        return None
    stock = path.read_bytes() if edited is None else edited
    own = with_own_operators(stock, path.parent)
    return edited if own == stock else own


def session_options(ort: Any, threads: int) -> Any:
    """Explicit thread counts (ORT's own guess fails under cpusets), and no spinning: idle must be idle."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
