"""Which memory mode a pack runs in, and why; pure but for `memory_for`'s look at what is free."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BadRequest, OutOfMemory, Problem
from ..pack import Manifest
from .freememory import FreeMemory, read_free_memory
from .memory import FULL, LOW, MODES, MemoryMode
from .providers import ProviderChoice

PROCESS_MB = 100  # interpreter, libraries and ONNX Runtime, with some room


@dataclass(frozen=True)
class MemoryNeeds:
    """MB of the whole process by mode, for a picture of the pack's default size."""

    mb: dict[str, int]
    is_estimated: bool

    def of(self, mode: str) -> str:
        return f"{self.mb[mode]} MB{' estimated' if self.is_estimated else ''}"


@dataclass(frozen=True)
class MemoryChoice:
    """The mode that runs the graphs; `reason` is for people: why this one."""

    mode: MemoryMode
    reason: str


def memory_needs(manifest: Manifest) -> MemoryNeeds:
    """What was measured; else an estimate from the graphs' bytes, rather too much than too little."""
    if manifest.ram_mb is not None:
        return MemoryNeeds(manifest.ram_mb.model_dump(), is_estimated=False)
    sizes = [sum(entry.bytes for entry in graph.files.values()) / 1e6 for graph in manifest.graphs.values()]
    full = manifest.min_ram_mb or round(PROCESS_MB + 2.5 * sum(sizes))
    mapped = min(full, round(PROCESS_MB + max(sizes)))
    low = min(mapped, round(PROCESS_MB + max(sizes) / 2))
    return MemoryNeeds({"full": full, "mapped": mapped, "low": low}, is_estimated=True)


def choose_memory(wanted: str, manifest: Manifest, free: FreeMemory | None) -> MemoryChoice:
    """`auto` takes the fastest mode that fits; a mode asked for by name is taken unchecked.

    Args:
        free: None where the kernel does not tell.
    Raises:
        OutOfMemory: not even `low` fits, as measured. An estimate refuses nothing.
        BadRequest: the mode is unknown.
    """
    if wanted in MODES:
        return MemoryChoice(MODES[wanted], "asked for")
    if wanted != "auto":
        message = f"{wanted!r} is no memory mode; known are auto, {', '.join(MODES)}"
        raise BadRequest([Problem("memory", wanted, message)])
    if free is None:
        return MemoryChoice(FULL, "what is free here is unknown")
    needs = memory_needs(manifest)
    for name, mode in MODES.items():
        if needs.mb[name] <= free.ram_mb:
            return MemoryChoice(
                mode, f"needs {needs.of(name)} of {free.ram_mb} MB that {free.bound} has free"
            )
    if not needs.is_estimated and needs.mb["low"] > free.ram_mb + free.swap_mb:
        raise OutOfMemory(_refusal(manifest, needs, free))
    return MemoryChoice(LOW, f"needs {needs.of('low')}, more than the {free.ram_mb} MB {free.bound} has free")


def _refusal(manifest: Manifest, needs: MemoryNeeds, free: FreeMemory) -> str:
    size = f"{manifest.defaults.width}x{manifest.defaults.height}"
    swap = f" and {free.swap_mb} MB of swap" if free.swap_mb else ""
    return (
        f"pack {manifest.name} needs {needs.of('low')} at {size} even in memory mode low, and {free.bound} "
        f"has {free.ram_mb} MB free{swap}: take a smaller pack, free memory here, or lower width and height "
        "and set the memory mode low, which is tried without this check"
    )


def memory_for(manifest: Manifest, provider: ProviderChoice, wanted: str = "auto") -> MemoryChoice:
    """As `choose_memory`, for what is free now; only the CPU provider knows the modes."""
    if provider.name != "cpu":
        return MemoryChoice(FULL, f"provider {provider.name} ignores memory modes")
    return choose_memory(wanted, manifest, read_free_memory() if wanted == "auto" else None)
