"""Graphs as a provider compiled them, kept on disk: a second start need not compile again.

One folder per graph and provider version. What OpenVINO writes there is sealed with its hashes once the
graph has loaded; what is not whole when it is next wanted (a power cut, a full disk, a flipped bit) is
dropped and made again. The cache is never needed: whatever goes wrong with it costs time only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import EngineError, OutOfMemory

log = logging.getLogger(__name__)

SEAL = "seal.json"
Opened = TypeVar("Opened")


class CompiledCache:
    """Folders of compiled graphs, the least recently used going first.

    Args:
        folder: made when first needed.
        limit_mb: what all of them may take; a single graph beyond it is not kept.
    """

    def __init__(self, folder: Path, limit_mb: int):
        self.folder = folder
        self._limit = limit_mb * 1_000_000

    def open(self, key: str, load: Callable[[Path | None], Opened]) -> Opened:
        """Load a graph with its folder; without one when that fails.

        Args:
            key: of the graph's files and the provider's version; a file name.
            load: given the folder to compile into and load from, or None.
        Raises:
            EngineError: the graph does not load, cache or no cache.
        """
        entry = self.folder / key
        try:
            is_new = self._prepare(entry)
        except OSError as err:
            log.warning("compiled graphs cannot be kept in %s: %s", self.folder, err.strerror or err)
            return load(None)
        try:
            opened = load(entry)
        except OutOfMemory:
            raise
        except EngineError as err:
            log.warning("compiled graph %s is dropped: %s", entry, err)
            drop(entry)
            return load(None)
        self._keep(entry, is_new)
        return opened

    def _prepare(self, entry: Path) -> bool:
        """The folder, whole or empty; returns whether it is empty."""
        entry.mkdir(parents=True, exist_ok=True)
        if not is_sealed(entry):
            drop(entry)
            entry.mkdir()
            return True
        os.utime(entry / SEAL)
        return False

    def _keep(self, entry: Path, is_new: bool) -> None:
        try:
            if is_new:
                seal(entry)
            self._prune()
        except OSError as err:
            log.warning("compiled graph %s is not kept: %s", entry, err.strerror or err)
            drop(entry)

    def _prune(self) -> None:
        entries = sorted(self.folder.iterdir(), key=_last_used, reverse=True)
        total = 0
        for entry in entries:
            total += sum(path.stat().st_size for path in _files(entry))
            if total > self._limit:
                drop(entry)


def cache_in(folder: Path | None, limit_mb: int) -> CompiledCache | None:
    """A cache in a folder; None where there is no folder or nothing may be kept."""
    return CompiledCache(folder, limit_mb) if folder is not None and limit_mb else None


def cache_key(hashes: list[str], version: str) -> str:
    """Names a graph's folder.

    Args:
        hashes: SHA-256 of the graph's files; in any order.
        version: of what compiles: its blobs fit no other.
    """
    return hashlib.sha256("\n".join([version, *sorted(hashes)]).encode()).hexdigest()[:32]


def seal(entry: Path) -> None:
    """Note the hashes of all files, durably; an entry with no files is removed."""
    hashes = {path.name: _sha256(path, flush=True) for path in _files(entry)}
    if not hashes:
        drop(entry)
        return
    part = entry / f"{SEAL}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(hashes, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(entry / SEAL)


def is_sealed(entry: Path) -> bool:
    """Whether an entry holds exactly what was sealed."""
    try:
        wanted = json.loads((entry / SEAL).read_text("utf-8"))
        return bool(wanted) and wanted == {path.name: _sha256(path) for path in _files(entry)}
    except (OSError, ValueError):
        return False


def drop(entry: Path) -> None:
    """Remove an entry, as far as that can be done."""
    shutil.rmtree(entry, ignore_errors=True)


def _files(entry: Path) -> list[Path]:
    return [path for path in sorted(entry.iterdir()) if path.name != SEAL] if entry.is_dir() else []


def _last_used(entry: Path) -> float:
    try:
        return (entry / SEAL).stat().st_mtime
    except OSError:
        return 0.0


def _sha256(path: Path, flush: bool = False) -> str:
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
