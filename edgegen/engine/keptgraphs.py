"""What ONNX Runtime made of a pack's INT8 graphs, so that they load faster again, also with other weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ..pack import PackFolder
from .memory import MAPPED, MemoryMode
from .optimised import FEW_BYTES, MAX_BYTES, OptimisedGraph, Shaped, open_to
from .providers import ProviderChoice
from .session import open_session


class KeptGraphs:
    """Optimised graphs by role, see `optimised`, and by what else each leaves as the pack stores it.

    Optimising makes other weights of some: it widens and lays out those of the few layers that an INT8 pack
    leaves in float. A LoRA that changes such layers gets a graph of its own, in which they stay as they are.
    What that draws differs in the last bits, so that it is not taken for any other work. Of such graphs the
    last of each role is kept.
    """

    def __init__(self, pack: PackFolder, choice: ProviderChoice, threads: int):
        self._pack = pack
        self._choice = choice
        self._threads = threads
        self._graphs: dict[tuple[str, frozenset[str]], OptimisedGraph] = {}

    def clear(self) -> None:
        self._graphs.clear()

    def find(
        self, role: str, path: Path, changed: Mapping[str, Shaped], memory: MemoryMode
    ) -> OptimisedGraph | None:
        """What an earlier load made of the graph, or where this one is to leave it; None: not to be kept.

        Args:
            path: the graph's file, verified.
            changed: weights that are to be others, by name, as they are stored.
        """
        if self._pack.manifest.graphs[role].precision != "int8":
            return None  # optimising float graphs makes other weights of all
        kept = self._at(role, frozenset(), memory)
        if not changed:
            return kept
        if not kept.model:
            self._record(role, path, kept)
        made = self.remade(role, changed)
        if not made or not kept.model:
            return kept if kept.model else None
        kept = self._at(role, made, memory)
        if not kept.model:
            self._record(role, path, kept, open_to({name: changed[name] for name in made}, path.read_bytes()))
        return kept if made <= kept.reads(made) else None

    def remade(self, role: str, weights: Collection[str]) -> frozenset[str]:
        """Those of a graph's weights that optimising makes others of; all, as long as nothing is kept."""
        kept = self._graphs.get((role, frozenset()), OptimisedGraph())
        return frozenset(weights) - kept.reads(weights)

    def _at(self, role: str, made: frozenset[str], memory: MemoryMode) -> OptimisedGraph:
        room = MAX_BYTES if memory.keeps_graphs else FEW_BYTES
        for other in [key for key in self._graphs if made and key[0] == role and key[1] and key[1] != made]:
            del self._graphs[other]
        return self._graphs.setdefault((role, made), OptimisedGraph(room))

    def _record(self, role: str, path: Path, kept: OptimisedGraph, model: bytes | None = None) -> None:
        """Load once, without packing weights."""
        open_session(path, self._choice, self._threads, role, MAPPED, edited=model, kept=kept).close()
