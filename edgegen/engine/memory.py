"""Memory modes: what ONNX Runtime and malloc are told, so that a pack fits where memory is short.

| mode | weights | working memory | speed |
|---|---|---|---|
| `full` | copied into the layout the kernels like best | an arena that only grows | fastest |
| `mapped` | left in the file: the kernel may drop their pages and read them again | no arena | about half |
| `low` | as in `mapped`, one graph at a time | every tensor goes back when it was read | about half |
| `tiled` | as in `low` | as in `low`; the decoder sees the picture in tiles | as `low` |

`low` switches the planner's reuse of buffers off: what it reuses it keeps, from the first layer that needs
the size to the last. On Stable Diffusion 1.5 at 512x512 that is 0.4 GB. Packs store their weights aligned in
external data files; weights inside an .onnx are copied in every mode.

`full`, `mapped` and `low` make the same picture. `tiled` is for decoders that look at the whole picture at
once (`decoding`): its picture differs a little, so that nothing chooses it but need.

Only the CPU provider knows these modes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any

from .arena import share_arena, shrink_arena

SMALL_GRAPH = 8 * 10**6  # bytes of all its files
MMAP_THRESHOLD = 256 * 1024  # bytes; a tensor this big is a mapping of its own, and gone once freed
# mallopt(3), the values of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


@dataclass(frozen=True)
class MemoryMode:
    """How memory is spent.

    Attributes:
        prepacks: kernels keep a copy of the weights in their own layout.
        uses_arena: freed memory stays with ONNX Runtime, for any graph to take.
        plans_buffers: tensors share buffers that live as long as the longest of them.
        keeps_graphs: graphs stay loaded beside each other; else one stage frees the one before.
        decodes_in_tiles: a decoder that is not cut never sees the whole picture.
    """

    name: str
    prepacks: bool
    uses_arena: bool
    plans_buffers: bool
    keeps_graphs: bool
    decodes_in_tiles: bool = False

    def for_graph(self, graph_bytes: int) -> MemoryMode:
        """Small graphs are worth a copy of their weights: kernels that repack them in every run take more."""
        return replace(self, prepacks=True) if graph_bytes <= SMALL_GRAPH else self


FULL = MemoryMode("full", prepacks=True, uses_arena=True, plans_buffers=True, keeps_graphs=True)
MAPPED = MemoryMode("mapped", prepacks=False, uses_arena=False, plans_buffers=True, keeps_graphs=True)
LOW = MemoryMode("low", prepacks=False, uses_arena=False, plans_buffers=False, keeps_graphs=False)
TILED = replace(LOW, name="tiled", decodes_in_tiles=True)
MODES = {mode.name: mode for mode in (FULL, MAPPED, LOW, TILED)}  # fastest first


def apply_mode(options: Any, mode: MemoryMode, is_float: bool = False) -> None:
    """Tell ONNX Runtime's session options; `low` and `tiled` tune this process's malloc too, for good.

    Args:
        is_float: of a graph whose layers compute in float.
    """
    if not mode.prepacks:
        options.add_session_config_entry("session.disable_prepacking", "1")
        if is_float:
            leave_weights_as_stored(options)
    options.enable_cpu_mem_arena = mode.uses_arena
    if mode.uses_arena:
        share_arena(options)
    options.enable_mem_pattern = mode.plans_buffers
    options.enable_mem_reuse = mode.plans_buffers
    if not mode.keeps_graphs:
        tune_malloc()


def leave_weights_as_stored(options: Any) -> None:
    """No copies of weights in another type or layout: folded Casts of FP16, blocked kernels of convolutions.

    Casts then run before each layer, into memory that goes back after it. 8-bit graphs lose by it: their
    convolutions want the layout, and it costs them no copies.
    """
    options.graph_optimization_level = type(options.graph_optimization_level).ORT_ENABLE_EXTENDED
    options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")


def tune_malloc() -> bool:
    """Make glibc give freed memory back at once.

    The environment's MALLOC_ variables do the same, but are read only when a process starts.

    Returns:
        False where the libc has no mallopt (musl) or refuses: then nothing is changed or lost.
    """
    wanted = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: MMAP_THRESHOLD, M_TRIM_THRESHOLD: MMAP_THRESHOLD}
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    accepted = [mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(accepted)


def give_back() -> None:
    """Give free memory back to the system: the arena's, and inside malloc's heaps where the libc can (glibc's
    malloc_trim)."""
    shrink_arena()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
