"""The kept pictures: files in a folder, and rows that remember their order and their jobs.

The file comes first, then the row; a re-index mends what a power cut left between the two. The engine
writes; the front only reads bytes that the engine prepared, so it needs no picture library.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DiskFull, StorageError
from ..settings import GallerySettings
from .database import Database
from .diskspace import is_disk_full
from .sync import Sync

log = logging.getLogger(__name__)

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
CONTENT_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
PUBLISH_FOLDER = ".publish"
KEPT_PUBLISH_COPIES = 16
ROOM_FOR_A_PICTURE = 8_000_000  # bytes to free before a second try
DAY_S = 86_400
CLOCK_IS_SET = "20250101"  # the clock of a device that was never set is earlier
_NAME = re.compile(r"(\d{8})-(\d{6,15})-([A-Za-z0-9_.-]{1,64})\.(?:png|webp|jpg)")
_HALF_WRITTEN = re.compile(rf"\.{_NAME.pattern}\..+|{_NAME.pattern}\.part")


@dataclass(frozen=True)
class Publishable:
    """A picture as bytes to send: `content_type` is `image/webp`, `image/jpeg` or `image/png`."""

    name: str
    data: bytes
    content_type: str


class Gallery:
    """Pictures in `folder`, indexed in the jobs' database.

    Args:
        settings: bounds and format; may be replaced while it runs.
        now: Unix seconds; only the date in a name comes from it, never its uniqueness.
    Raises (every method):
        StorageError: the folder or the index cannot be written.
        DiskFull: there is no space; nothing half-written stays.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        settings: GallerySettings | None = None,
        now: Callable[[], float] = time.time,
    ):
        self.folder = folder
        self._database = database
        self.settings = settings or GallerySettings()
        self._now = now

    def store(self, job_id: str, save: Callable[[Path], object]) -> Path:
        """Let `save` write the picture at a new path, then remember it and let the oldest go.

        On a full disk the oldest go first and `save` gets a second try, where `make_room` says so.

        Args:
            save: writes one file, durably (temporary file, fsync, rename, fsync of the folder).
        """
        try:
            path = self._save(job_id, save)
        except DiskFull:
            if not self.settings.make_room or not self.make_room(ROOM_FOR_A_PICTURE):
                raise
            path = self._save(job_id, save)
        self.apply_retention()
        return path

    def _save(self, job_id: str, save: Callable[[Path], object]) -> Path:
        """The file and its row, or neither."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self._new_path(job_id)
            try:
                save(path)
                self._remember([(path.name, path.stat().st_size)])
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return path
        except OSError as err:
            raise _storage_error(err, self.folder) from err

    def names(self, limit: int = 100) -> list[str]:
        """File names, newest first."""
        rows = self._database.rows("SELECT name FROM pictures ORDER BY seq DESC LIMIT ?", limit)
        return [row["name"] for row in rows]

    def path(self, name: str) -> Path:
        """Where a picture of ours is; refuses names that the gallery would not give."""
        if not _NAME.fullmatch(name):
            raise StorageError(f"{name!r} is no picture of the gallery {self.folder}")
        return self.folder / name

    def apply_retention(self) -> int:
        """Let pictures beyond `max_pictures`, `max_mb` or `max_days` go; the newest stays. How many went."""
        rows = self._database.rows("SELECT seq, name, bytes FROM pictures ORDER BY seq DESC")
        budget, gone = self.settings.max_mb * 1_000_000, []
        oldest_day = self._oldest_day()
        for count, row in enumerate(rows, start=1):
            budget -= row["bytes"]
            is_beyond = count > self.settings.max_pictures or budget < 0
            if count > 1 and (is_beyond or CLOCK_IS_SET <= row["name"][:8] < oldest_day):
                gone.append(row)
        self._forget(reversed(gone))
        return len(gone)

    def make_room(self, missing: int) -> int:
        """Let the oldest pictures go until `missing` bytes are freed; the newest stays. Bytes freed."""
        rows = self._database.rows("SELECT seq, name, bytes FROM pictures ORDER BY seq")
        freed, gone = 0, []
        for row in rows[:-1]:
            if freed >= missing:
                break
            freed += row["bytes"]
            gone.append(row)
        if gone:
            log.warning("the disk is full: the %d oldest pictures go, %d bytes", len(gone), freed)
        self._forget(gone)
        return freed

    def _oldest_day(self) -> str:
        """The first day, as names begin, of pictures that are young enough; empty when age is no matter.

        Days before 2025 come from a clock that was not set; they tell no age.
        """
        today = time.strftime("%Y%m%d", time.gmtime(self._now()))
        if not self.settings.max_days or today < CLOCK_IS_SET:
            return ""
        return time.strftime("%Y%m%d", time.gmtime(self._now() - self.settings.max_days * DAY_S))

    def _forget(self, rows: Iterable[sqlite3.Row]) -> None:
        """Files first: a row without a file is mended by `reindex`."""
        gone = list(rows)
        for row in gone:
            self._remove_file(self.folder / row["name"])
        if gone:
            with self._database.transaction(Sync.LATER) as db:
                db.executemany("DELETE FROM pictures WHERE seq = ?", [(row["seq"],) for row in gone])

    def sweep(self) -> int:
        """Remove what a power cut left half-written; only while nobody writes. How many went."""
        found = [*_listing(self.folder), *_listing(self.folder / PUBLISH_FOLDER)]
        half = [path for path in found if _HALF_WRITTEN.fullmatch(path.name)]
        for path in half:
            self._remove_file(path)
        return len(half)

    def reindex(self) -> tuple[int, int]:
        """Make the rows match the folder; returns how many pictures were found new and found missing."""
        found = self._scan()
        known = {row["name"] for row in self._database.rows("SELECT name FROM pictures")}
        missing = known - found.keys()
        if missing:
            with self._database.transaction(Sync.LATER) as db:
                db.executemany("DELETE FROM pictures WHERE name = ?", [(name,) for name in missing])
        new = [(name, size) for name, size in found.items() if name not in known]
        self._remember(new)
        return len(new), len(missing)

    def write_publish_copy(self, name: str, data: bytes, suffix: str) -> None:
        """Keep bytes that are small enough to send; only the newest few copies are kept."""
        folder = self.folder / PUBLISH_FOLDER
        temporary = folder / f"{Path(name).stem}{suffix}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.rename(folder / f"{Path(name).stem}{suffix}")
            copies = sorted(
                (p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: _seq(p.name)
            )
        except OSError as err:
            self._remove_file(temporary)
            raise _storage_error(err, folder) from err
        for old in copies[:-KEPT_PUBLISH_COPIES]:
            self._remove_file(old)

    def publishable(self, name: str, max_bytes: int) -> Publishable | None:
        """The prepared copy of a picture, else the picture itself when it is small enough, else None."""
        path = self.path(name)
        copies = [(path.parent / PUBLISH_FOLDER / f"{path.stem}{suffix}") for suffix in CONTENT_TYPES]
        for candidate in (*copies, path):
            with contextlib.suppress(OSError):
                if 0 < candidate.stat().st_size <= max_bytes:
                    return Publishable(name, candidate.read_bytes(), CONTENT_TYPES[candidate.suffix])
        return None

    def _new_path(self, job_id: str) -> Path:
        last = self._database.rows("SELECT coalesce(max(seq), 0) AS last FROM pictures")[0]["last"]
        seq = max(last, *map(_seq, self._scan()), 0) + 1
        day = time.strftime("%Y%m%d", time.gmtime(self._now()))
        return self.folder / f"{day}-{seq:06}-{job_id}{SUFFIXES[self.settings.format]}"

    def _remember(self, pictures: list[tuple[str, int]]) -> None:
        rows = [
            (int(match[2]), name, match[3], size)
            for name, size in pictures
            if (match := _NAME.fullmatch(name))
        ]
        with self._database.transaction(Sync.SOON) as db:  # `reindex` finds a file whose row was lost
            db.executemany(
                "INSERT OR REPLACE INTO pictures (seq, name, job_id, bytes) VALUES (?, ?, ?, ?)", rows
            )

    def _scan(self) -> dict[str, int]:
        """Size in bytes by name of every picture in the folder."""
        try:
            with os.scandir(self.folder) as entries:
                return {e.name: e.stat().st_size for e in entries if _NAME.fullmatch(e.name) and e.is_file()}
        except FileNotFoundError:
            return {}
        except OSError as err:
            raise _storage_error(err, self.folder) from err

    def _remove_file(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            log.warning("%s: cannot be removed: %s", path, err)


def job_id_of(name: str) -> str:
    """The id of the job that a picture came from, by its name; empty for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return match[3] if match else ""


def _seq(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[2]) if match else 0


def _listing(folder: Path) -> list[Path]:
    """What is in a folder; nothing when it cannot be read."""
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []


def _storage_error(err: OSError, folder: Path) -> StorageError | DiskFull:
    if is_disk_full(err):
        return DiskFull(f"{folder}: the disk is full: free some space, or set gallery.make_room")
    if isinstance(err, StorageError):
        return err
    return StorageError(f"{err.filename or folder}: {err.strerror or err}: check space and permissions")
