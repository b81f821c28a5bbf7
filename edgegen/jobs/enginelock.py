"""Only one engine works on one queue, and anybody can tell whether it lives.

The kernel drops the lock with the process, however it dies. So a held lock is proof of life that needs
neither a socket nor a process id.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import StorageError

LOCK_NAME = "engine.lock"


@contextlib.contextmanager
def engine_lock(folder: Path, timeout_s: float = 10.0) -> Iterator[None]:
    """Held by the engine as long as it lives.

    Args:
        folder: the queue's folder.
        timeout_s: how long an old engine may take to end.
    Raises:
        StorageError: another engine works on this queue.
    """
    give_up = time.monotonic() + timeout_s
    with _open(folder) as file:
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= give_up:
                raise StorageError(f"{file.name}: another engine works on this queue: stop that one first")
            time.sleep(0.1)
        yield


@contextlib.contextmanager
def no_engine(folder: Path) -> Iterator[bool]:
    """Whether no engine works on the queue in `folder`; if so, none can start before the block ends."""
    with _open(folder) as file:
        yield _try_lock(file, fcntl.LOCK_SH)


def _open(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK_NAME).open("a")
    except OSError as err:
        raise StorageError(f"{err.filename or folder}: {err.strerror or err}") from err


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
