"""A memory cgroup of our own, version 1 or 2: a hard limit, no swap, and what was used below it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NO_LIMIT = {1: "-1", 2: "max"}
FILES = {
    1: {"limit": "memory.limit_in_bytes", "swap": "memory.memsw.limit_in_bytes"},
    2: {"limit": "memory.max", "swap": "memory.swap.max"},
}
PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}


@dataclass(frozen=True)
class MemoryGroup:
    """One group's folder; processes enter it by their id in `procs`."""

    folder: Path
    version: int

    @property
    def procs(self) -> Path:
        return self.folder / "cgroup.procs"

    def set_limit(self, limit_bytes: int) -> None:
        """0: none. Without swap: version 1 limits memory and swap together, version 2 swap alone."""
        (self.folder / FILES[self.version]["limit"]).write_text(str(limit_bytes or NO_LIMIT[self.version]))
        swap = self.folder / FILES[self.version]["swap"]
        if limit_bytes and swap.exists():  # a kernel without swap accounting has no such file, and no swap
            swap.write_text("0" if self.version == 2 else str(limit_bytes))

    def peak_bytes(self) -> int | None:
        """The most the group held, file pages included; None on kernels that do not count."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / PEAK[self.version]).read_text())
        return None


@contextlib.contextmanager
def memory_group(name: str) -> Iterator[MemoryGroup]:
    """A new group below the first place that allows one; removed at the end. SystemExit where none does."""
    reasons = []
    for parent, version in places():
        folder = parent / name
        try:
            folder.mkdir()
        except OSError as err:
            reasons.append(f"{folder}: {err.strerror}")
            continue
        group = MemoryGroup(folder, version)
        try:
            if not (folder / FILES[version]["limit"]).exists():
                reasons.append(f"{folder}: no memory controller")
                continue
            yield group
            return
        finally:
            folder.rmdir()
    why = "; ".join(reasons) or f"no memory controller below {ROOT}"
    raise SystemExit(
        f"a hard memory limit needs a cgroup, which may not be made here ({why}): run it as root"
    )


def places() -> Iterator[tuple[Path, int]]:
    """Folders that may hold a group of ours: version 1's, then version 2's with its memory controller on."""
    if (ROOT / "memory/memory.limit_in_bytes").exists():
        yield ROOT / "memory", 1
    for base in (ROOT, ROOT / "unified"):
        with contextlib.suppress(OSError):
            if "memory" in (base / "cgroup.subtree_control").read_text().split():
                yield base, 2


def drop_caches() -> None:
    """Forget all clean file pages, so that the group pays for each it reads. SystemExit when not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as err:
        raise SystemExit(f"file caches cannot be dropped ({err.strerror}): run it as root") from err
