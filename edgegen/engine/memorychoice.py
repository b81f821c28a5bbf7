"""Which memory mode a pack runs in, and why; pure but for `memory_for`'s look at what is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BadRequest, OutOfMemory, Problem
from ..pack import Manifest
from .freememory import FreeMemory, read_free_memory
from .memory import FULL, LOW, MODES, MemoryMode
from .providers import ProviderChoice

PROCESS_MB = 100  # interpreter, libraries and ONNX Runtime, with some room
IDLE_MB = 50  # of that, what no picture's size changes
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class MemoryNeeds:
    """MB of the whole process by mode, for a picture of a size; `tiled` is there where it was measured."""

    mb: dict[str, int]
    is_estimated: bool

    def of(self, mode: str) -> str:
        return f"{self.mb[mode]} MB{' estimated' if self.is_estimated else ''}"

    @property
    def least(self) -> str:
        """The mode that needs least; of equals, the fastest."""
        return min(self.mb, key=lambda name: self.mb[name])


@dataclass(frozen=True)
class MemoryChoice:
    """The mode that runs the graphs; `reason` is for people: why this one."""

    mode: MemoryMode
    reason: str


def memory_needs(manifest: Manifest, size: Size | None = None) -> MemoryNeeds:
    """What was measured; else an estimate from the graphs' bytes, rather too much than too little.

    Args:
        size: None: the pack's default size.
    """
    if manifest.ram_mb is not None:
        needs = {name: value for name in MODES if (value := getattr(manifest.ram_mb, name)) is not None}
        return MemoryNeeds(_grown(needs, manifest, size), is_estimated=False)
    sizes = [sum(entry.bytes for entry in graph.files.values()) / 1e6 for graph in manifest.graphs.values()]
    full = manifest.min_ram_mb or round(PROCESS_MB + 2.5 * sum(sizes))
    mapped = min(full, round(PROCESS_MB + max(sizes)))
    low = min(mapped, round(PROCESS_MB + max(sizes) / 2))
    return MemoryNeeds(
        _grown({"full": full, "mapped": mapped, "low": low}, manifest, size), is_estimated=True
    )


def _grown(needs: dict[str, int], manifest: Manifest, size: Size | None) -> dict[str, int]:
    """Needs of another size. Where growth was not measured, less is never needed, and more in proportion:
    all but the idle process grows, in `full` as in `mapped`, for weights do not."""
    usual = manifest.defaults.width * manifest.defaults.height / 1e6
    more = size[0] * size[1] / 1e6 - usual if size else 0.0
    growth = manifest.ram_mb.growth if manifest.ram_mb else None
    if growth is not None:
        slopes = {name: getattr(growth, name) or 0.0 for name in needs}
        return {name: max(IDLE_MB, round(mb + more * slopes[name])) for name, mb in needs.items()}
    grows = {**needs, "full": needs["mapped"]}
    return {
        name: round(mb + max(0.0, more) * max(0, grows[name] - IDLE_MB) / usual) for name, mb in needs.items()
    }


def choose_memory(
    wanted: str, manifest: Manifest, free: FreeMemory | None, size: Size | None = None
) -> MemoryChoice:
    """`auto` takes the fastest mode that fits; a mode asked for by name is taken unchecked.

    Args:
        free: None where the kernel does not tell.
        size: of the picture; None: the pack's default.
    Raises:
        OutOfMemory: no mode fits, as measured; says which size would. An estimate refuses nothing.
        BadRequest: the mode is unknown.
    """
    if wanted in MODES:
        return MemoryChoice(MODES[wanted], "asked for")
    if wanted != "auto":
        message = f"{wanted!r} is no memory mode; known are auto, {', '.join(MODES)}"
        raise BadRequest([Problem("memory", wanted, message)])
    if free is None:
        return MemoryChoice(FULL, "what is free here is unknown")
    needs = memory_needs(manifest, size)
    for name in needs.mb:
        if needs.mb[name] <= free.ram_mb:
            reason = f"needs {needs.of(name)} of {free.ram_mb} MB that {free.bound} has free"
            return MemoryChoice(MODES[name], reason)
    if not needs.is_estimated and needs.mb[needs.least] > free.ram_mb + free.swap_mb:
        raise OutOfMemory(_refusal(manifest, needs, free, size))
    mode = LOW if needs.is_estimated else MODES[needs.least]
    reason = f"needs {needs.of(mode.name)}, more than the {free.ram_mb} MB {free.bound} has free"
    return MemoryChoice(mode, reason)


def _refusal(manifest: Manifest, needs: MemoryNeeds, free: FreeMemory, size: Size | None) -> str:
    width, height = size or (manifest.defaults.width, manifest.defaults.height)
    swap = f" and {free.swap_mb} MB of swap" if free.swap_mb else ""
    return (
        f"pack {manifest.name} needs {needs.of(needs.least)} at {width}x{height} even in memory mode "
        f"{needs.least}, and {free.bound} has {free.ram_mb} MB free{swap}: {_way_out(manifest, free, size)}"
    )


def _way_out(manifest: Manifest, free: FreeMemory, size: Size | None) -> str:
    """What to do: a size that would fit, if there is one; without measured growth nobody knows."""
    if manifest.ram_mb is None or manifest.ram_mb.growth is None:
        return (
            "take a smaller pack, free memory here, or lower width and height, or set the memory mode low or "
            "tiled, which is tried without this check"
        )
    for smaller in _smaller_sizes(manifest, size):
        needs = memory_needs(manifest, smaller)
        if needs.mb[needs.least] <= free.ram_mb:
            return f"{smaller[0]}x{smaller[1]} would fit ({needs.of(needs.least)}), or free memory here"
    return "take a smaller pack, or free memory here; no smaller size of this one would fit"


def _smaller_sizes(manifest: Manifest, size: Size | None) -> Iterator[Size]:
    """Sizes of about the same proportions, largest first."""
    width, height = size or (manifest.defaults.width, manifest.defaults.height)
    step, least = manifest.sizes.multiple, manifest.sizes.min
    for longer in range(max(width, height) - step, least - 1, -step):
        sides = (max(least, side * longer // max(width, height) // step * step) for side in (width, height))
        yield next(sides), next(sides)


def memory_for(
    manifest: Manifest, provider: ProviderChoice, wanted: str = "auto", size: Size | None = None
) -> MemoryChoice:
    """As `choose_memory`, for what is free now; only the CPU provider knows the modes."""
    if provider.name != "cpu":
        return MemoryChoice(FULL, f"provider {provider.name} ignores memory modes")
    return choose_memory(wanted, manifest, read_free_memory() if wanted == "auto" else None, size)


def memory_for_any(manifest: Manifest, provider: ProviderChoice, wanted: str = "auto") -> MemoryChoice:
    """As `memory_for`, before a size is known: of the default, or of the smallest where that is too large."""
    try:
        return memory_for(manifest, provider, wanted)
    except OutOfMemory:
        if manifest.sizes.min == min(manifest.defaults.width, manifest.defaults.height):
            raise
        return memory_for(manifest, provider, wanted, (manifest.sizes.min, manifest.sizes.min))
