"""Whether a pack's files are what its manifest says: inside the folder, of their size, of their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .parts import FileEntry


def file_entry(path: Path) -> FileEntry:
    """Hash and measure a file. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(sha256=digest, bytes=file.tell())


def file_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    try:
        real = (folder / path).resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            return f"{path}: a link that leads out of the pack"
        if not real.is_file():
            return f"{path}: not a regular file"
        size = real.stat().st_size
    except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links
        return f"{path}: cannot be read ({getattr(err, 'strerror', None) or err})"
    return None if size == entry.bytes else f"{path}: {size} bytes, expected {entry.bytes}"


def hash_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    try:
        found = file_entry(folder / path).sha256
    except OSError as err:
        return f"{path}: cannot be read ({err.strerror})"
    return None if found == entry.sha256 else f"{path}: SHA-256 is {found}, expected {entry.sha256}"


_whole: set[tuple[str, int, int, int, int, int]] = set()
"""Files of this process found whole: hash, and whatever of a file's state changes with its content."""


def new_hash_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    """As `hash_problem`, remembering what is whole: reading a gigabyte for each picture takes as long as a
    step, and drives the weights themselves out of a small memory."""
    before = _state(folder / path, entry)
    if before in _whole:
        return None
    problem = hash_problem(folder, path, entry)
    if problem is None and before is not None and before == _state(folder / path, entry):
        _whole.add(before)
    return problem


def _state(path: Path, entry: FileEntry) -> tuple[str, int, int, int, int, int] | None:
    """ctime is in it: whoever writes to a file may set its mtime back, but not that."""
    try:
        s = path.stat()
    except OSError:
        return None
    return entry.sha256, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
