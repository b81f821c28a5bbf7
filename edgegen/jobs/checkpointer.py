"""What the disk does for a database beside the commits that somebody waits for.

The write-ahead log is copied into its database at a quiet moment, not within a commit.
SQLite's own way is that the commit which makes the log too long copies it, with two more waits for the disk:
ten jobs or so of a burst then wait long. Ours comes first; SQLite's stays as the bound (sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

AFTER_COMMITS = 200  # about 1000 pages, SQLite's own choice
QUIET_S = 0.3
LONGEST_WAIT_S = 10.0


class Checkpointer:
    """Counts commits; once there are many, a thread waits for a pause in them and copies. Then it ends: a
    process that is idle has no such thread.

    Args:
        path: the database.
    """

    def __init__(
        self,
        path: Path,
        after: int = AFTER_COMMITS,
        quiet_s: float = QUIET_S,
        longest_s: float = LONGEST_WAIT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._path = path
        self._after = after
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._monotonic = monotonic
        self._commits = 0
        self._last = 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def note_commit(self) -> None:
        """After every commit; costs nothing."""
        self._commits += 1
        self._last = self._monotonic()
        if self._commits < self._after or self._closed.is_set():
            return
        if self._thread is None or not self._thread.is_alive():
            self._commits = 0
            self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """No more copying; safe to call twice."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(self._quiet_s + 1)

    def _run(self) -> None:
        give_up = self._monotonic() + self._longest_s
        while (left_s := self._last + self._quiet_s - self._monotonic()) > 0 and self._monotonic() < give_up:
            if self._closed.wait(min(left_s, give_up - self._monotonic())):
                return  # whoever closes last copies all of it
        self._copy()

    def _copy(self) -> None:
        """PASSIVE: nobody who reads or writes has to wait. What fails is tried again by a later one."""
        existing = f"{self._path.absolute().as_uri()}?mode=rw"
        try:
            with contextlib.closing(
                sqlite3.connect(existing, uri=True, timeout=0, isolation_level=None)
            ) as own:
                own.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as err:
            log.debug("%s: the log was not copied: %s", self._path, err)


class LogSync:
    """Has the disk take what was committed without waiting for it, on a thread that ends when it has.

    Args:
        path: the database; its log lies beside it, and may be opened here, for SQLite locks other files.
    """

    def __init__(self, path: Path):
        self._log = path.with_name(f"{path.name}-wal")
        self._lock = threading.Lock()
        self._is_due = self._runs = False

    def start(self) -> None:
        """Returns at once; several calls while the disk is busy are one."""
        with self._lock:
            self._is_due = True
            if self._runs:
                return
            self._runs = True
        threading.Thread(target=self._run, name="log-sync", daemon=True).start()

    def _run(self) -> None:
        while self._is_wanted():
            try:
                with self._log.open("rb") as file:
                    os.fsync(file.fileno())
            except OSError as err:  # gone with the last connection, or a disk that later commits tell of
                log.debug("%s: not synced: %s", self._log, err)

    def _is_wanted(self) -> bool:
        with self._lock:
            self._runs, self._is_due = self._is_due, False
            return self._runs
