"""A disk never runs quite full: under its reserve no new job is taken, for its picture would find no room."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import DiskFull
from ..settings import GallerySettings

MB = 1_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(folder: Path) -> int | None:
    """Bytes that we may still write in a folder, or where it will be; None when nobody can tell."""
    place = next((p for p in (folder, *folder.parents) if p.exists()), None)
    try:
        found = os.statvfs(place) if place else None
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found else None


def is_disk_full(err: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is no space (or no quota) left."""
    while err is not None:
        if isinstance(err, DiskFull) or getattr(err, "errno", None) in _FULL:
            return True
        if isinstance(err, sqlite3.Error) and err.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            return True
        err = err.__cause__
    return False


class DiskReserve:
    """Admits new jobs as long as enough of the disk is free.

    Args:
        folders: where the jobs and the pictures are kept.
        settings: the reserve; may be replaced while it runs.
        make_room: frees about so many bytes by letting old pictures go; used where `make_room` says so.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        settings: GallerySettings,
        make_room: Callable[[int], int],
        free: Callable[[Path], int | None] = free_bytes,
    ):
        self._folders = tuple(folders)
        self.settings = settings
        self._make_room = make_room
        self._free = free

    def admit(self) -> None:
        """Raises DiskFull: the reserve is reached, and old pictures may not go or did not suffice."""
        if self.settings.make_room and (missing := self._missing()[0]) > 0:
            self._make_room(missing)
        missing, folder = self._missing()
        if missing > 0:
            free = max(0, self.settings.reserve_mb * MB - missing) // MB
            raise DiskFull(
                f"only {free} MB are free for {folder}, and gallery.reserve_mb keeps "
                f"{self.settings.reserve_mb}: free space, lower gallery.max_mb, or set gallery.make_room"
            )

    def _missing(self) -> tuple[int, Path]:
        """Bytes that the worst of the folders lacks, not positive when all have enough."""
        reserve = self.settings.reserve_mb * MB
        lacks = [(reserve - free, f) for f in self._folders if (free := self._free(f)) is not None]
        return max(lacks, key=lambda pair: pair[0], default=(0, Path()))
