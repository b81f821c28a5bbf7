"""A pack's graphs as sessions: loaded when wanted, changed by LoRA and edits, freed as the mode says."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..pack import PackFolder
from .compiled import cache_key
from .graphtimes import GraphTimes
from .lora.merge import LoraSet, Merged
from .memory import FULL, MAPPED, MemoryMode, trim_malloc
from .optimised import OptimisedGraph
from .providers import ProviderChoice, choose_provider
from .session import GraphSession, log_cost, open_session
from .textgraph import TextEdit, TextGraph

DECODER = "vae_decoder"
AS_IT_IS = TextEdit()


class SessionCache:
    """A pack's sessions: one per graph, loaded when first wanted, after its files' hashes were checked.

    In a memory mode that keeps no graphs, wanting one frees the others first. INT8 graphs on the CPU provider
    load faster from the second time on, see `optimised`.

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
        self._kept: dict[str, OptimisedGraph] = {}
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
            self._kept.clear()
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
        files = self._pack.manifest.graphs[role].files.values()
        merged = self._loras.merge(self._pack, role, self._threads) if changed and self._loras else Merged()
        edited = TextGraph.read(path, role).edited(edit) if edit else None
        choice = choose_provider("cpu") if edit else self._choice  # text encoders are fast anywhere
        kept = self._kept_graph(role, path, merged) if not (edit or choice.devices) else None

        def load(folder: Path | None) -> GraphSession:
            return self._open_session(role, path, choice, folder, merged, edited, kept)

        if choice.compiled is None or merged:
            session = load(None)
        else:
            session = choice.compiled.open(cache_key([file.sha256 for file in files], choice.version), load)
        if merged:
            merged.clear()  # ONNX Runtime has its own copy
            trim_malloc()
        if role != DECODER:
            session.times = self.times
        log_cost(f"graph {role} loaded", began)
        return session

    def _open_session(
        self,
        role: str,
        path: Path,
        choice: ProviderChoice,
        folder: Path | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        edited: bytes | None = None,
        kept: OptimisedGraph | None = None,
    ) -> GraphSession:
        entry = self._pack.manifest.graphs[role]
        memory = self._memory.for_graph(sum(file.bytes for file in entry.files.values()))
        is_float = entry.precision in ("fp32", "fp16")
        return open_session(
            path, choice, self._threads, role, memory, folder, is_float, weights, edited, kept
        )

    def _kept_graph(self, role: str, path: Path, merged: Merged) -> OptimisedGraph | None:
        """What an earlier load made of the graph, or where this one is to leave it; None: not to be kept.

        Only of INT8 graphs: optimising float ones makes new weights of the old. Merged weights would be
        written as part of the graph, so that it is loaded once without them."""
        if self._pack.manifest.graphs[role].precision != "int8":
            return None
        kept = self._kept.setdefault(role, OptimisedGraph())
        if merged and not kept.model:
            choice = self._choice
            open_session(path, choice, self._threads, role, MAPPED, kept=kept).close()
        lost = merged.keys() - kept.reads(merged.keys()) - merged.spare
        return None if lost else kept

    def close(self) -> None:
        """Free all graphs; safe to call twice. A later `get` loads again."""
        for _, session in self._open.values():
            session.close()
        self._open.clear()
        if not self._memory.keeps_graphs:
            trim_malloc()
