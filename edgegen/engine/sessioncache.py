"""A pack's graphs as sessions: loaded when wanted, changed by LoRA and edits, freed as the mode says."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..pack import PackFolder
from .compiled import cache_key
from .graphtimes import GraphTimes
from .keptgraphs import KeptGraphs
from .lora.merge import LoraSet, Merged
from .lora.table import Stored
from .memory import FULL, MemoryMode, give_back
from .optimised import OptimisedGraph
from .providers import ProviderChoice, choose_provider
from .session import GraphSession, log_cost, open_session
from .textgraph import TextEdit, TextGraph

DECODER = "vae_decoder"
AS_IT_IS = TextEdit()
Loras = tuple[object, ...]
Key = tuple[Loras, TextEdit]
"""What makes loaded graphs of one role differ: the LoRAs at their strengths, and the change to the text."""


class SessionCache:
    """A pack's sessions: one per graph, loaded when first wanted, after its files' hashes were checked.

    In a memory mode that keeps no graphs, wanting one frees the others first. INT8 graphs on the CPU provider
    load faster from the second time on, and once loaded with a LoRA they change to another one, or back to
    the pack's own weights, without loading again: see `optimised`.

    Attributes:
        times: how long the graphs took; whoever decodes notes that, for it may happen piece by piece.
    """

    def __init__(self, pack: PackFolder, choice: ProviderChoice, threads: int = 0, memory: MemoryMode = FULL):
        self._pack = pack
        self._choice = choice
        self._threads = threads
        self._memory = memory
        self._open: dict[str, tuple[Key, GraphSession]] = {}
        self._loras: LoraSet | None = None
        self._kept = KeptGraphs(pack, choice, threads)
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
    def on_cpu(self) -> bool:
        """Whether ONNX Runtime's CPU provider runs the graphs."""
        return not self._choice.devices

    @property
    def loaded(self) -> list[str]:
        """The roles whose graphs are in memory."""
        return sorted(self._open)

    def get(self, role: str, edit: TextEdit = AS_IT_IS) -> GraphSession:
        """A graph, of a text encoder with a change. Of both one is in memory at a time.

        Raises PackError for a missing or altered graph, EngineError when it does not load, LoraError for a
        LoRA that does not fit."""
        key = (self._loras.key(role) if self._loras else (), edit)
        if role not in self._open or self._open[role][0] != key:
            self._switch(role, key)
        return self._open[role][1]

    def _switch(self, role: str, key: Key) -> None:
        """Change what is loaded, or load anew."""
        (loras, edit), (old, session) = key, self._open.get(role, (None, None))
        if not self._memory.keeps_graphs:
            self.release(*(self._open.keys() - {role}))
        if session is not None and old is not None and old[1] == edit and self._is_open(role, session, loras):
            del self._open[role]  # should the merge fail, it is neither the one nor the other
            session.hold({})
            give_back()  # the merge takes as much again
            session.hold(self._merged(role, loras).read)
        else:
            self.release(role)  # before the merge takes as much again
            session = self._load(role, loras, edit)
        self._open[role] = key, session

    def _is_open(self, role: str, session: GraphSession, loras: Loras) -> bool:
        """Whether a graph can change to those weights, or back to its own, as it is loaded.

        What it draws then is what it would if it was loaded for them."""
        wanted = self._changing(role, loras).keys()
        as_stored = self._kept.remade(role, session.open_to)
        return bool(session.open_to) and wanted <= session.open_to and as_stored <= wanted

    def _changing(self, role: str, loras: Loras) -> dict[str, Stored]:
        return self._loras.weights(self._pack, role) if loras and self._loras else {}

    def _merged(self, role: str, loras: Loras) -> Merged:
        return self._loras.merge(self._pack, role, self._threads) if loras and self._loras else Merged()

    def release(self, *roles: str) -> None:
        """Free those graphs, if they are loaded."""
        freed = [self._open.pop(role)[1] for role in roles if role in self._open]
        for session in freed:
            session.close()
        if freed:
            give_back()

    def _load(self, role: str, loras: Loras, edit: TextEdit) -> GraphSession:
        began = time.monotonic()
        path = self._pack.verify_graph(role)
        kept, changing = None, self._changing(role, loras)
        if not (edit or self._choice.devices):
            kept = self._kept.find(role, path, changing, self._memory)
        if kept is not None and changing:
            session = self._load_open(role, path, kept, loras, changing)
        else:
            session = self._load_merged(role, path, kept, loras, edit)
        if role != DECODER:
            session.times = self.times
        give_back()  # what loading took beside the weights
        log_cost(f"graph {role} loaded", began)
        return session

    def _load_open(
        self, role: str, path: Path, kept: OptimisedGraph, loras: Loras, changing: Mapping[str, Stored]
    ) -> GraphSession:
        """A graph whose changed weights are merged while ONNX Runtime packs the others, by one thread."""
        with ThreadPoolExecutor(1) as pool:
            merging = pool.submit(self._merged, role, loras)
            session = self._open_session(role, path, self._choice, kept=kept, open_to=changing)
            session.hold(merging.result().read)
        return session

    def _load_merged(
        self, role: str, path: Path, kept: OptimisedGraph | None, loras: Loras, edit: TextEdit
    ) -> GraphSession:
        """A graph whose weights are what they are when it loads."""
        files = self._pack.manifest.graphs[role].files.values()
        merged = self._merged(role, loras)
        edited = TextGraph.read(path, role).edited(edit) if edit else None
        # text encoders are fast anywhere, and their attention is causal, which ours is not made for
        choice = choose_provider("cpu", operators="runtime") if edit else self._choice

        def load(folder: Path | None) -> GraphSession:
            return self._open_session(role, path, choice, folder, merged, edited, kept)

        if choice.compiled is None or merged:
            session = load(None)
        else:
            session = choice.compiled.open(cache_key([file.sha256 for file in files], choice.version), load)
        if merged:
            merged.clear()  # ONNX Runtime has its own copy
            give_back()
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
        open_to: Mapping[str, Stored] | None = None,
    ) -> GraphSession:
        entry = self._pack.manifest.graphs[role]
        memory = self._memory.for_graph(sum(file.bytes for file in entry.files.values()))
        is_float = entry.precision in ("fp32", "fp16")
        return open_session(
            path, choice, self._threads, role, memory, folder, is_float, weights, edited, kept, open_to
        )

    def close(self) -> None:
        """Free all graphs; safe to call twice. A later `get` loads again."""
        for _, session in self._open.values():
            session.close()
        self._open.clear()
        give_back()
