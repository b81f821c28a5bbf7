"""One SQLite file for jobs and pictures, used by several processes at the same time.

Write-ahead log with `synchronous=FULL`: what a transaction committed survives a power cut. A damaged
file is set aside under a name that says when, and a new one starts: the device keeps working.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import StorageError
from .checkpointer import Checkpointer, LogSync
from .salvage import salvage
from .sync import LOCK_WAIT_S, LOOK_EVERY_MS, Sync, patiently

log = logging.getLogger(__name__)

MOST_PAGES = 4000  # of 4 KiB in the write-ahead log: then a commit copies them, whoever waits for it
MIGRATIONS = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        request TEXT NOT NULL,
        priority INTEGER NOT NULL,
        deadline REAL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        started REAL,
        finished REAL,
        seconds REAL,
        seed INTEGER,
        picture TEXT,
        code TEXT,
        reason TEXT,
        cancel_asked INTEGER NOT NULL DEFAULT 0,
        announced INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX jobs_by_turn ON jobs (state, priority DESC, seq);
    CREATE TABLE pictures (
        seq INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        job_id TEXT NOT NULL,
        bytes INTEGER NOT NULL
    );
    CREATE INDEX pictures_by_job ON pictures (job_id);
    """,
    """
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL,
        state TEXT NOT NULL,
        job TEXT NOT NULL,
        created REAL NOT NULL,
        sent INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX outbox_by_job ON outbox (job_id);
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    """,
)
SCHEMA_VERSION = len(MIGRATIONS)
SET_ASIDE = "set_aside"  # what happened to a damaged file, for people
REINDEX_DUE = "reindex_due"  # the pictures still know what the lost file knew
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written: check owner and permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check owner and permissions of the folder",
    sqlite3.SQLITE_IOERR: "the disk reports an error: check it with dmesg",
    sqlite3.SQLITE_BUSY: f"another process held it for {LOCK_WAIT_S:g} s: is a backup or a shell open?",
}


class Database:
    """A connection that any thread may use, one transaction at a time.

    Args:
        path: the file; its folder is made when missing.
        now: Unix seconds, only used to name a damaged file that is set aside.
    Attributes:
        notices: what people should know about this opening (a damaged file set aside).
    Raises:
        StorageError: the file cannot be opened or written, or a newer version made it.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time):
        self.path = path
        self.notices: list[str] = []
        self._now = now
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._level = ""
        self._checkpointer = Checkpointer(path)
        self._log_sync = LogSync(path)
        self._inode = -1
        with self._lock, self._readable_errors():
            self._open()

    @contextlib.contextmanager
    def transaction(self, sync: Sync = Sync.NOW) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        Args:
            sync: how soon the disk must have it.
        """
        with self._lock, self._readable_errors():
            connection = self._current()
            self._set_level(connection, sync)
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        self._checkpointer.note_commit()
        if sync is Sync.SOON:
            self._log_sync.start()

    def _set_level(self, connection: sqlite3.Connection, sync: Sync) -> None:
        """Before it begins, never after: so no failure can leave the next one with less than it asks for."""
        if self._level != sync.pragma:
            connection.execute(f"PRAGMA synchronous = {sync.pragma}")
            self._level = sync.pragma

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """What a single SELECT finds."""
        with self._lock, self._readable_errors():
            connection = self._current()
            return patiently(lambda: connection.execute(sql, values).fetchall())

    def fact(self, name: str) -> str | None:
        """Something small that outlives the process; None when it was never noted."""
        rows = self.rows("SELECT value FROM facts WHERE name = ?", name)
        return rows[0]["value"] if rows else None

    def close(self) -> None:
        """Safe to call twice."""
        self._checkpointer.close()
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _current(self) -> sqlite3.Connection:
        """The connection; a new one when another process has set the file aside."""
        if self._connection is None:
            raise StorageError(f"{self.path}: the database is closed")
        if _inode(self.path) != self._inode:
            self._open()
        assert self._connection is not None
        return self._connection

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            code = getattr(err, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGE and self._connection is not None:
                self._open()
                what = self.notices[-1] if self.notices else "it was opened again"
                raise StorageError(f"{self.path}: was damaged ({err}); {what}") from err
            raise StorageError(f"{self.path}: {_ADVICE.get(code, err)} ({err})") from err
        except OSError as err:
            if isinstance(err, StorageError):
                raise
            raise StorageError(f"{err.filename or self.path}: {err.strerror or err}") from err

    def _open(self) -> None:
        self._hang_up()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opening_lock():
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as err:
                if err.sqlite_errorcode & 0xFF not in _DAMAGE:
                    raise
                notice, aside = self._set_aside(err)
                self._connection = self._connect()
                jobs, results = salvage(aside, self._connection)
                self._remember(
                    f"{notice}; {jobs} waiting jobs and {results} untold results were read from it"
                )
            self._inode = self.path.stat().st_ino

    @contextlib.contextmanager
    def _opening_lock(self) -> Iterator[None]:
        """Two processes that find the same damage must not set aside each other's new file."""
        with self.path.with_name(f"{self.path.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = _tolerant_text  # a flipped bit must not make a row unreadable
            connection.execute("PRAGMA journal_mode = WAL")
            self._level = ""
            self._set_level(connection, Sync.NOW)
            connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")  # the checkpointer comes before
            self._check(connection)
            self._migrate(connection)
            connection.execute(f"PRAGMA busy_timeout = {LOOK_EVERY_MS}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        # Not quick_check, which passes over an index that contradicts its table: each write would then fail.
        finding = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if finding != "ok":
            damage = sqlite3.DatabaseError(finding)
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self.path}: made by a newer edgegen (schema {version}; this one knows 1 to "
                f"{SCHEMA_VERSION}): update edgegen, or move the file away"
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT")

    def _remember(self, notice: str) -> None:
        """In the new file, so that whoever looks later still learns it."""
        assert self._connection is not None
        self._connection.executemany(
            "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)",
            [(SET_ASIDE, notice), (REINDEX_DUE, "1")],
        )

    def _set_aside(self, err: sqlite3.Error) -> tuple[str, Path]:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        aside = free_name(self.path.with_name(f"{self.path.name}.damaged-{stamp}"))
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}{suffix}").rename(f"{aside}{suffix}")
        notice = f"the damaged file is kept as {aside.name}, and a new one starts"
        self.notices.append(notice)
        log.error("%s: %s; %s", self.path, err, notice)
        return f"{stamp}: {notice}", aside


def set_fact(db: sqlite3.Connection, name: str, value: str | None) -> None:
    """Note or forget (None) something small, within a transaction."""
    db.execute("DELETE FROM facts WHERE name = ?", (name,))
    if value is not None:
        db.execute("INSERT INTO facts (name, value) VALUES (?, ?)", (name, value))


def _inode(path: Path) -> int | None:
    """None: there is no such file."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _tolerant_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def add_to_fact(db: sqlite3.Connection, name: str, count: int) -> None:
    """Count something up, within a transaction."""
    db.execute(
        "INSERT INTO facts (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value",
        (name, count),
    )


def free_name(path: Path) -> Path:
    """The path, or with a number behind it when that is taken: a clock may repeat itself."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
