"""What can still be read of a damaged database: jobs that waited and results that nobody was told of.

Each row is looked for by its number, so that one broken page costs its own rows only. Whatever is read is
data from a broken disk: a row without a readable id stays behind,
and a request is checked again when it is claimed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .job import JOB_ID

log = logging.getLogger(__name__)

MOST_LOOKUPS = 200_000  # a flipped bit may make a row number of any size
MOST_PAGES = 5000
TABLE_LEAF = 0x0D  # the first byte of such a page (SQLite's file format, 1.6)
MOST_ATTEMPTS = 20
_ENDED = ("done", "failed", "cancelled")
_JOB = "id, request, priority, deadline, created, attempts, cancel_asked"
_RESULT = "job_id, state, job, created, sent"


def salvage(damaged: Path, db: sqlite3.Connection) -> tuple[int, int]:
    """Copy what waits from a file that was set aside into a new one; the file itself stays as it is.

    Args:
        damaged: its `-wal` stands beside it, if it had one.
        db: the new database, empty, outside of a transaction.
    Returns:
        how many waiting jobs and how many untold results came over.
    """
    try:
        with _copy_of(damaged) as copy:
            jobs, results = _read(copy)
        db.execute("BEGIN IMMEDIATE")
        try:
            counts = _insert(db, jobs, results)
        except BaseException:
            db.rollback()
            raise
        db.commit()
        return counts
    except (OSError, sqlite3.Error) as err:
        log.error("%s: nothing can be read of it: %s", damaged, err)
        return 0, 0


def _read(copy: Path) -> tuple[list[tuple], list[tuple]]:
    """Waiting jobs and untold results, ready to be inserted. Leaves the copy as a ruin."""
    with contextlib.closing(sqlite3.connect(copy)) as old:
        old.text_factory = lambda data: data.decode("utf-8", "replace")
        rows = list(_rows(old, "jobs", f"{_JOB}, state, finished"))
        results = [row for row in _rows(old, "outbox", _RESULT) if _is_result(row)]
    seen = {row[0] for row in rows}
    with contextlib.suppress(sqlite3.Error):
        rows += [row for row in _hidden_rows(copy) if row[0] not in seen and row[0] == _id_in(row[1])]
    return [job for row in rows for job in _waiting(row)], results


def _insert(db: sqlite3.Connection, jobs: list[tuple], results: list[tuple]) -> tuple[int, int]:
    marks = "?, ?, ?, ?, ?, ?, ?, 'queued'"
    inserted = db.executemany(f"INSERT OR IGNORE INTO jobs ({_JOB}, state) VALUES ({marks})", jobs)
    told = db.executemany(f"INSERT INTO outbox ({_RESULT}) VALUES (?, ?, ?, ?, ?)", results)
    return max(0, inserted.rowcount), max(0, told.rowcount)


@contextlib.contextmanager
def _copy_of(damaged: Path) -> Iterator[Path]:
    """A copy to open: opening a file with a `-wal` writes to it, and this one is evidence."""
    with tempfile.TemporaryDirectory(prefix=".salvage-", dir=damaged.parent) as folder:
        copy = Path(folder) / "copy"
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{damaged}{suffix}", f"{copy}{suffix}")
        yield copy


def _rows(old: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple]:
    """Every readable row by its number: from both ends as far as that goes, then one by one in between."""
    head = list(_walk(old, f"SELECT seq, {columns} FROM {table} NOT INDEXED ORDER BY seq"))
    tail = list(_walk(old, f"SELECT seq, {columns} FROM {table} NOT INDEXED ORDER BY seq DESC"))
    found = {row[0]: row[1:] for row in (*head, *tail) if isinstance(row[0], int)}
    low, high = (head[-1][0] if head else 0), (tail[-1][0] if tail else 0)
    for seq in range(low + 1, min(high, low + MOST_LOOKUPS)):
        for row in _walk(old, f"SELECT seq, {columns} FROM {table} NOT INDEXED WHERE seq = {seq}"):
            found[seq] = row[1:]
    return (found[seq] for seq in sorted(found))


def _hidden_rows(copy: Path) -> Iterator[tuple]:
    """Rows of whole leaf pages that a broken page above them hides: each is read as if it were the table."""
    with contextlib.closing(sqlite3.connect(copy)) as old:
        size = int(old.execute("PRAGMA page_size").fetchone()[0])
        old.execute("PRAGMA journal_mode = DELETE")  # what the -wal holds is in the file now
    data = copy.read_bytes()
    leaves = [at // size + 1 for at in range(size, len(data), size) if data[at] == TABLE_LEAF]
    for page in leaves[:MOST_PAGES]:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(copy)) as old:
            old.execute("PRAGMA synchronous = OFF")
            old.execute("PRAGMA writable_schema = ON")
            old.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = 'jobs'", (page,))
            old.commit()
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(copy)) as old:
            old.text_factory = lambda data: data.decode("utf-8", "replace")
            yield from _walk(old, f"SELECT {_JOB}, state, finished FROM jobs NOT INDEXED")


def _walk(old: sqlite3.Connection, sql: str) -> Iterator[tuple]:
    """Rows until the damage."""
    with contextlib.suppress(sqlite3.Error):
        yield from old.execute(sql)


def _waiting(row: tuple) -> Iterator[tuple]:
    """A job's columns as they may be inserted; nothing for one that has ended.

    Where the number of the job and that in its request differ, one of them is damaged: both come over, one
    is drawn, the other fails with a reason, and whoever sent it hears of it either way.
    """
    job_id, request, priority, deadline, created, attempts, cancel_asked, state, finished = row
    if state in _ENDED or finished is not None or not isinstance(request, str):
        return
    rest = (
        request,
        priority if type(priority) is int and -100 <= priority <= 100 else 0,
        deadline if isinstance(deadline, float) else None,
        created if isinstance(created, float) else 0.0,
        attempts if type(attempts) is int and 0 <= attempts <= MOST_ATTEMPTS else 0,
        1 if cancel_asked == 1 else 0,
    )
    for name in dict.fromkeys((job_id, _id_in(request))):
        if _is_id(name):
            yield name, *rest


def _id_in(request: object) -> object:
    if not isinstance(request, str):
        return None
    try:
        told = json.loads(request)
    except (ValueError, RecursionError):
        return None
    return told.get("id") if isinstance(told, dict) else None


def _is_result(row: tuple) -> bool:
    job_id, state, job, created, sent = row
    is_text = isinstance(state, str) and isinstance(job, str)
    return _is_id(job_id) and is_text and isinstance(created, float | int) and type(sent) is int


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(JOB_ID.fullmatch(value))
