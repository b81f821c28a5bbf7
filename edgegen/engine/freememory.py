"""How much memory this process may still take: the machine's, or its cgroup's where that is less.

Everything is read below `proc` and `sys`, so that tests point them at fakes. MB are 10^6 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")


@dataclass(frozen=True)
class FreeMemory:
    """What a process of ours may come to use.

    Attributes:
        ram_mb: free now, and what this process holds already: a pack's figures count all of it.
        swap_mb: free swap that could hold more; 0 under a cgroup's limit.
        bound: for messages: what sets the limit.
    """

    ram_mb: int
    swap_mb: int
    bound: str


@dataclass(frozen=True)
class _Group:
    """A memory cgroup's files, and the names its version gives them."""

    folder: Path
    limit: str
    usage: str
    stat_prefix: str


def read_free_memory(proc: Path = PROC, sys: Path = SYS) -> FreeMemory | None:
    """The tightest of machine and cgroups; None where the kernel does not tell."""
    machine = _table(proc / "meminfo")
    if "MemAvailable" not in machine:
        return None
    own = _own_anonymous(proc)
    found = FreeMemory(
        _mb(machine["MemAvailable"] * 1024 + own), _mb(machine.get("SwapFree", 0) * 1024), "this machine"
    )
    frees = [free for group in _groups(proc, sys) if (free := _free_in(group)) is not None]
    if frees and _mb(min(frees) + own) < found.ram_mb:
        return FreeMemory(max(0, _mb(min(frees) + own)), 0, "this process's cgroup")
    return found


def own_anonymous_mb(proc: Path = PROC) -> int:
    """What this process holds that no file backs; 0 where the kernel does not tell."""
    return _mb(_own_anonymous(proc))


def _own_anonymous(proc: Path) -> int:
    return _table(proc / "self/status").get("RssAnon", 0) * 1024


def _groups(proc: Path, sys: Path) -> Iterator[_Group]:
    """The memory cgroups of this process with all their parents, whose limits count as well."""
    root = sys / "fs/cgroup"
    for line in _lines(proc / "self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            for folder in _upwards(root / "memory", path):
                yield _Group(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif number == "0" and not controllers:
            for base in (root, root / "unified"):
                for folder in _upwards(base, path):
                    yield _Group(folder, "memory.max", "memory.current", "")


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """In a container the path may name folders that only the host sees; the root is then our own group."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:count])


def _free_in(group: _Group) -> int | None:
    """Bytes below the limit, counting file pages as free: the kernel drops them first. None: no limit."""
    limit, usage = _number(group.folder / group.limit), _number(group.folder / group.usage)
    if limit is None or usage is None:
        return None
    stat = _table(group.folder / "memory.stat")
    files = sum(stat.get(f"{group.stat_prefix}{kind}", 0) for kind in ("inactive_file", "active_file"))
    return limit - max(0, usage - files)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """`MemTotal: 16000 kB` and `active_file 4096` alike: first word to first number."""
    rows = (line.replace(":", " ").split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _mb(number: int) -> int:
    return number // 10**6
