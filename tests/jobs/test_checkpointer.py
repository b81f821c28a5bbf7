"""When the write-ahead log goes into the database: seen by what the database's own file holds."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegen.jobs.checkpointer import Checkpointer, LogSync
from edgegen.jobs.database import Database, set_fact
from edgegen.jobs.sync import Sync
from tests.support import WAIT_S, wait_for

MARK = "somewhere in the file"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "edgegen.db")
    with database.transaction() as db:
        set_fact(db, "mark", MARK)
    yield database
    database.close()


def is_copied(database: Database) -> bool:
    return MARK.encode() in database.path.read_bytes()


def test_after_many_commits_and_a_pause_the_log_is_copied(database):
    checkpointer = Checkpointer(database.path, after=3, quiet_s=0.05)
    checkpointer.note_commit()
    checkpointer.note_commit()
    assert checkpointer._thread is None, "nothing runs on an idle device"
    checkpointer.note_commit()
    assert not is_copied(database)
    wait_for(lambda: is_copied(database), "the log is copied")
    wait_for(lambda: not checkpointer._thread.is_alive(), "the thread ends")
    assert database.fact("mark") == MARK


def test_a_burst_is_not_held_up_and_closing_does_not_wait(database):
    checkpointer = Checkpointer(database.path, after=1, quiet_s=60, longest_s=60)
    checkpointer.note_commit()
    began = time.monotonic()
    checkpointer.close()
    assert time.monotonic() - began < 10
    assert not is_copied(database)


def test_a_burst_without_end_does_not_put_it_off_for_ever(database):
    checkpointer = Checkpointer(database.path, after=1, quiet_s=60, longest_s=0.05)
    checkpointer.note_commit()
    wait_for(lambda: is_copied(database), "the log is copied")


def test_a_database_that_is_gone_is_not_made_anew(tmp_path):
    checkpointer = Checkpointer(tmp_path / "gone.db", after=1, quiet_s=0)
    checkpointer.note_commit()
    checkpointer.close()
    assert not (tmp_path / "gone.db").exists()


def test_the_database_has_one_and_sqlites_own_stays_as_the_bound(database):
    database._checkpointer = Checkpointer(database.path, after=2, quiet_s=0.05)
    for number in range(2):
        with database.transaction() as db:
            set_fact(db, "number", str(number))
    wait_for(lambda: is_copied(database), "the log is copied")
    assert database.rows("PRAGMA wal_autocheckpoint")[0][0] == 4000
    assert database.rows("PRAGMA synchronous")[0][0] == 2, "FULL"


def level(db) -> int:
    return db.execute("PRAGMA synchronous").fetchone()[0]


def test_a_commit_that_does_not_wait_is_synced_right_after_and_the_next_one_waits(database, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()) or real(fd)
    )
    with database.transaction(Sync.SOON) as db:
        assert level(db) == 1, "NORMAL"
        set_fact(db, "number", "1")
    log = database.path.with_name("edgegen.db-wal")
    wait_for(lambda: log in synced, "the log is synced")
    with sqlite3.connect(database.path) as other:
        assert other.execute("SELECT value FROM facts WHERE name = 'number'").fetchone() == ("1",)
    with database.transaction() as db:
        assert level(db) == 2, "FULL"


def test_one_that_fails_leaves_the_next_one_what_it_asks_for(database):
    with pytest.raises(ZeroDivisionError), database.transaction(Sync.SOON):
        raise ZeroDivisionError
    with database.transaction() as db:
        assert level(db) == 2, "FULL"


def test_syncs_asked_for_while_the_disk_is_busy_are_one(tmp_path, monkeypatch):
    (tmp_path / "edgegen.db-wal").touch()
    busy, synced = threading.Event(), []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(busy.wait(WAIT_S)))
    sync = LogSync(tmp_path / "edgegen.db")
    for _ in range(5):
        sync.start()
    busy.set()
    wait_for(lambda: not sync._runs, "it ends")
    assert 1 <= len(synced) <= 2
