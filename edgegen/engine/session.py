"""Sessions: graphs loaded by ONNX Runtime, with every failure made readable."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, OutOfMemory, ProviderError
from ..pack import PackFolder
from .compiled import cache_key
from .freememory import own_anonymous_mb
from .graphtimes import GraphTimes
from .lora.merge import LoraSet
from .memory import FULL, MemoryMode, apply_mode, trim_malloc
from .providers import ProviderChoice, choose_provider
from .runtime import FATAL_ONLY, onnxruntime, usable_cores
from .textgraph import TextEdit, TextGraph

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
DECODER = "vae_decoder"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
AS_IT_IS = TextEdit()
_NO_MEMORY = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory", "cannot allocate memory")


class GraphSession:
    """One loaded graph. Feeds are cast to the types and ranks it declares, so graphs exported elsewhere run.

    Attributes:
        name: for messages: the role or the file.
        inputs: name -> (dtype, rank); outputs: names. shapes: name -> sides, None for a free one.
        properties: the graph's own metadata.
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
            values = self._session.run(None, cast)
        except Exception as err:
            raise _readable(f"graph {self.name} failed", err) from err
        _log_cost(f"graph {self.name} ran", began)
        self.runs += 1
        if self.times is not None:
            self.times.note(self.name, feeds, time.monotonic() - began)
        return dict(zip(self.outputs, values, strict=True))

    def output(
        self, feeds: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """One output as float32. Raises as `run`, and EngineError when there is none, or of another shape."""
        return output_of(self.run(feeds), name, self.name, shape)

    def _fitted(self, name: str, value: np.ndarray) -> np.ndarray:
        dtype, rank = self.inputs[name]
        if value.ndim != rank and value.size == 1 and rank <= 1:
            value = value.reshape((1,) * rank)  # a timestep may be a scalar or (1,)
        if np.issubdtype(dtype, np.integer) and not np.issubdtype(value.dtype, np.integer):
            value = np.rint(value)  # a timestep may lie between two, but not every graph takes that
        return np.asarray(value, dtype, order="C")

    def close(self) -> None:
        """Free the graph's memory; safe to call twice."""
        self._session = None


def output_of(
    out: Mapping[str, np.ndarray], name: str, graph: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """One output as float32. Raises EngineError when the graph has none of that name, or another shape."""
    if name not in out:
        raise EngineError(f"graph {graph} has no output {name}; it has {', '.join(out)}")
    if shape is not None and out[name].shape != shape:
        raise EngineError(f"graph {graph}: {name} has shape {out[name].shape}, expected {shape}")
    return out[name].astype(np.float32, copy=False)


def _log_cost(what: str, began: float) -> None:
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
) -> GraphSession:
    """Load a graph.

    Args:
        path: an .onnx file of a verified pack: ONNX Runtime parses it, and what it names beside it.
        threads: for one operator's work; 0: one per usable core.
        name: for messages; the file's path when empty.
        memory: how to spend it; only the CPU provider listens.
        compiled: folder where the provider finds and keeps what it compiled; the CPU provider needs none.
        is_float: whether the graph's layers compute in float; the sparing memory modes then copy no weights.
        weights: values in place of those in the data file, by name; of the same types and shapes.
        edited: the graph's file as it is to be read instead; its weights lie where those of `path` do.
    Raises:
        OutOfMemory, EngineError: the graph does not load.
        ProviderError: the provider is not what runs it.
    """
    ort = onnxruntime()
    name = name or str(path)
    try:
        options = session_options(ort, threads or usable_cores())
        if weights:
            values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v)) for v in weights.values()]
            options.add_external_initializers(list(weights), values)
        if edited is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent.absolute()))
        graph = str(path) if edited is None else edited
        if choice.devices:
            options.add_provider_for_devices(
                list(choice.devices), choice.make_options(threads or usable_cores(), compiled)
            )
            session = ort.InferenceSession(graph, options)
        else:
            apply_mode(options, memory, is_float)
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise _readable(f"graph {name} does not load with provider {choice.name}", err) from err
    if choice.devices and choice.devices[0].ep_name not in session.get_providers():
        raise ProviderError(f"provider {choice.name} refuses graph {name}; use provider cpu")
    return GraphSession(session, name)


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


class SessionCache:
    """A pack's sessions: one per graph, loaded when first wanted, after its files' hashes were checked.

    In a memory mode that keeps no graphs, wanting one frees the others first.

    Attributes:
        times: how long the graphs took; whoever decodes notes that, for it may happen piece by piece.
    """

    def __init__(self, pack: PackFolder, choice: ProviderChoice, threads: int = 0, memory: MemoryMode = FULL):
        self._pack = pack
        self._choice = choice
        self._threads = threads
        self._memory = memory
        self._open: dict[str, tuple[tuple[object, ...], GraphSession]] = {}
        self._loras: LoraSet | None = None
        self.times = GraphTimes()

    def with_loras(self, loras: LoraSet) -> SessionCache:
        """The same cache, but graphs come with these merged in; of each graph one is in memory at a time,
        whichever was wanted last. Both close together; make another after `use`."""
        other = copy.copy(self)
        other._loras = loras
        return other

    def use(self, memory: MemoryMode) -> None:
        """Load in another mode from now on; what is loaded in the old one is freed."""
        if memory != self._memory:
            self.close()
            self._memory = memory

    @property
    def roles(self) -> list[str]:
        """The pack's graphs."""
        return sorted(self._pack.manifest.graphs)

    @property
    def loaded(self) -> list[str]:
        """The roles whose graphs are in memory."""
        return sorted(self._open)

    def get(self, role: str, edit: TextEdit = AS_IT_IS) -> GraphSession:
        """A graph, of a text encoder with a change. Of both one is in memory at a time.

        Raises PackError for a missing or altered graph, EngineError when it does not load, LoraError for a
        LoRA that does not fit."""
        loras = self._loras.key(role) if self._loras else ()
        key = (loras, edit)
        opened, session = self._open.get(role, (None, None))
        if session is None or opened != key:
            if session is not None:
                session.close()
                del self._open[role]
                trim_malloc()  # before the merge takes as much again
            if not self._memory.keeps_graphs:
                self.close()
            session = self._load(role, bool(loras), edit)
            self._open[role] = key, session
        return session

    def release(self, *roles: str) -> None:
        """Free those graphs, if they are loaded."""
        freed = [self._open.pop(role)[1] for role in roles if role in self._open]
        for session in freed:
            session.close()
        if freed:
            trim_malloc()

    def _load(self, role: str, changed: bool, edit: TextEdit) -> GraphSession:
        began = time.monotonic()
        path = self._pack.verify_graph(role)
        entry = self._pack.manifest.graphs[role]
        memory = self._memory.for_graph(sum(file.bytes for file in entry.files.values()))
        is_float = entry.precision in ("fp32", "fp16")
        weights = self._loras.merge(self._pack, role, self._threads) if changed and self._loras else None
        edited = TextGraph.read(path, role).edited(edit) if edit else None
        choice = choose_provider("cpu") if edit else self._choice  # text encoders are fast anywhere

        def load(folder: Path | None) -> GraphSession:
            return open_session(path, choice, self._threads, role, memory, folder, is_float, weights, edited)

        if choice.compiled is None or weights:
            session = load(None)
        else:
            key = cache_key([file.sha256 for file in entry.files.values()], choice.version)
            session = choice.compiled.open(key, load)
        if weights:
            weights.clear()  # ONNX Runtime has its own copy
            trim_malloc()
        if role != DECODER:
            session.times = self.times
        _log_cost(f"graph {role} loaded", began)
        return session

    def close(self) -> None:
        """Free all graphs; safe to call twice. A later `get` loads again."""
        for _, session in self._open.values():
            session.close()
        self._open.clear()
        if not self._memory.keeps_graphs:
            trim_malloc()
