"""Configuration files on the disk: replaced whole or not at all, and what was there before is kept.

Old texts go to `history/` beside the file, numbered, for a Raspberry Pi's clock tells no order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageError

HISTORY = "history"
KEPT = 20
NEW_MODE = 0o644


@contextlib.contextmanager
def config_lock(folder: Path) -> Iterator[None]:
    """One change at a time; the folder itself is the lock, so nothing is left behind.

    Raises:
        StorageError: the folder cannot be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise StorageError(f"{folder}: {err.strerror}") from err
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace_config(path: Path, text: str) -> Path | None:
    """Write `text` to `path`, keep its mode and owner, and keep what was there.

    A link is followed: what it leads to is replaced. Returns the backup, None for a new file.

    Raises:
        StorageError: nothing was changed.
    """
    target = path.resolve()
    try:
        old = target.read_bytes()
    except FileNotFoundError:
        old = None
    except OSError as err:
        raise StorageError(f"{target}: cannot be read: {err.strerror}") from err
    data = (b"\xef\xbb\xbf" if old and old.startswith(b"\xef\xbb\xbf") else b"") + text.encode()
    backup = None if old is None else keep(target, old)
    write_atomically(target, data, like=target if old is not None else None)
    return backup


def keep(path: Path, data: bytes) -> Path:
    """A numbered copy in `history/`; the oldest beyond KEPT go. The newest is not kept twice."""
    folder = path.parent / HISTORY
    numbered = backups(path)
    if numbered and numbered[-1].read_bytes() == data:
        return numbered[-1]
    number = int(numbered[-1].name.rpartition(".")[2]) + 1 if numbered else 1
    backup = folder / f"{path.name}.{number}"
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
    except OSError as err:
        raise StorageError(f"{folder}: cannot be made: {err.strerror}") from err
    write_atomically(backup, data, like=path)
    for old in backups(path)[:-KEPT]:
        old.unlink(missing_ok=True)
    return backup


def backups(path: Path) -> list[Path]:
    """What was kept of `path`, the oldest first."""
    target = path.resolve()
    pattern = re.compile(re.escape(target.name) + r"\.(\d+)")
    folder = target.parent / HISTORY
    found = [(int(match[1]), entry) for entry in _entries(folder) if (match := pattern.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found)]


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def write_atomically(path: Path, data: bytes, like: Path | None = None, mode: int = NEW_MODE) -> None:
    """Temp file, fsync, rename, fsync of the folder: after a power cut it is the old file or the new one.

    Args:
        like: the new file gets this one's mode and owner. mode: without `like`, under the umask.
    Raises:
        StorageError: also when the owner cannot be kept; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                _be_like(file.fileno(), like, mode)
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except PermissionError as err:
        message = "cannot be written by this user with its owner kept: try sudo"
        raise StorageError(f"{path}: {message} ({err.strerror})") from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be written: {err.strerror}") from err


def _be_like(fd: int, like: Path | None, mode: int) -> None:
    if like is None:
        os.fchmod(fd, mode & ~_umask())
        return
    wanted, is_now = like.stat(), os.fstat(fd)
    if (wanted.st_uid, wanted.st_gid) != (is_now.st_uid, is_now.st_gid):
        os.fchown(fd, wanted.st_uid, wanted.st_gid)
    os.fchmod(fd, wanted.st_mode & 0o7777)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """A rename or removal in it is on the disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
