"""Facts about this machine, read from /proc and /sys: no packages, nothing written, works anywhere.

Every function takes its folders from `Roots`, so that tests point them at fakes; a fact the machine
does not offer is None, never an error.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgegen.jobs.throttling import Throttling

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@dataclass(frozen=True)
class Roots:
    """Where the kernel's files are."""

    proc: Path = field(default=Path("/proc"))
    sys: Path = field(default=Path("/sys"))
    dev: Path = field(default=Path("/dev"))


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return None


def board(roots: Roots) -> str | None:
    """`Raspberry Pi 5 Model B Rev 1.0`, or the product name of a PC."""
    return read_text(roots.proc / "device-tree/model") or read_text(roots.sys / "class/dmi/id/product_name")


def memory_mb(roots: Roots) -> tuple[int, int] | None:
    """(total, available) memory in MiB, as /proc/meminfo has it; a smaller cgroup limit wins."""
    text = read_text(roots.proc / "meminfo")
    if text is None:
        return None
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        total, free = (int(rows[key].split()[0]) // 1024 for key in ("MemTotal", "MemAvailable"))
    except (KeyError, ValueError, IndexError):
        return None
    limit = cgroup_limit_mb(roots)
    return (total, free) if limit is None or limit >= total else (limit, min(free, limit))


def cgroup_limit_mb(roots: Roots) -> int | None:
    """The memory limit of this process's cgroup (v2) in MiB, None without one."""
    where = (read_text(roots.proc / "self/cgroup") or "").rpartition("::")[2].strip()
    limit = read_text(roots.sys / "fs/cgroup" / where.lstrip("/") / "memory.max")
    return int(limit) // 2**20 if limit and limit.isdigit() else None


def cpu_temperature(roots: Roots) -> float | None:
    """The hottest CPU zone in °C, as `jobs.thermal` reads it."""
    from edgegen.jobs import thermal

    return thermal.cpu_temperature(roots.sys)


def throttling(roots: Roots) -> Throttling | None:
    """As `jobs.throttling` reads it."""
    from edgegen.jobs.throttling import read_throttling

    return read_throttling(roots.sys)


def disk_free_mb(folder: Path) -> int | None:
    """Free MiB for us where `folder` is or will be."""
    for place in (folder, *folder.parents):
        try:
            stat = os.statvfs(place)
        except OSError:
            continue
        return stat.f_bavail * stat.f_frsize // 2**20
    return None


def clock_is_synchronised() -> bool | None:
    """Whether some time service disciplines the kernel's clock (adjtimex(2)); None if it does not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR
