"""How soon the disk has which write, and how long the two processes wait for each other."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from statistics import median

import pytest

from edgegen.errors import StorageError
from edgegen.jobs import database as database_module
from edgegen.jobs.database import Database, set_fact
from edgegen.jobs.gallery import Gallery
from edgegen.jobs.outbox import OutboxReader, ResultOutbox
from edgegen.jobs.pace import remember_pace
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.sync import Sync, patiently
from edgegen.settings import GallerySettings, MqttSettings, QueueSettings

from .conftest import request


class Watched:
    """A queue with its outbox and gallery, and the level of every write transaction that was begun."""

    def __init__(self, folder: Path):
        self.queue = JobQueue(
            folder / "edgegen.db", QueueSettings(keep_finished=1), outbox=ResultOutbox(MqttSettings())
        )
        self.reader = OutboxReader(self.queue.database)
        self.gallery = Gallery(folder / "gallery", self.queue.database, GallerySettings(max_pictures=1))
        self._level, self._begun = "FULL", []
        self._syncs = 0
        start = self.queue.database._log_sync.start

        def count() -> None:
            self._syncs += 1
            start()

        self.queue.database._log_sync.start = count
        self.queue.database._connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        if statement.startswith("PRAGMA synchronous"):
            self._level = statement.split()[-1]
        elif statement == "BEGIN IMMEDIATE":
            self._begun.append(self._level)

    def during(self, act) -> list[Sync]:
        """The levels of the transactions that `act` makes."""
        self._begun, before = [], self._syncs
        act()
        soon = self._syncs - before
        assert set(self._begun) <= {"FULL", "NORMAL"}
        if "FULL" in self._begun:
            assert not soon
        return [Sync.NOW if level == "FULL" else Sync.SOON if soon else Sync.LATER for level in self._begun]

    def done(self, name: str) -> None:
        self.queue.enqueue(request(name))
        self.queue.finish(self.queue.claim(), picture="x.png", seed=1, seconds=1.0)


@pytest.fixture
def watched(tmp_path):
    watched = Watched(tmp_path)
    yield watched
    watched.queue.close()


def test_what_somebody_is_told_of_is_on_the_disk_before(watched):
    queue = watched.queue
    assert watched.during(lambda: queue.enqueue_all([request("a"), request("b"), request("c")])) == [Sync.NOW]
    assert watched.during(lambda: queue.cancel("c")) == [Sync.NOW]
    job = queue.claim()
    assert watched.during(lambda: queue.finish(job, picture="a.png", seed=1, seconds=1.0)) == [Sync.NOW]
    job = queue.claim()
    assert watched.during(lambda: queue.fail(job, "x", "y")) == [Sync.NOW]
    assert watched.during(lambda: watched.reader.remove(watched.reader.first(99))) == [Sync.NOW]
    assert watched.during(queue.requeue_orphans) == [Sync.NOW]


def test_what_may_happen_once_more_is_waited_for_by_nobody(watched):
    queue = watched.queue
    queue.enqueue(request("a"))
    assert watched.during(queue.claim) == [Sync.SOON]
    assert watched.during(lambda: queue.release(queue.get("a"))) == [Sync.SOON]
    watched.done("b")
    assert watched.during(lambda: watched.reader.note_sent(watched.reader.first(99), 1)) == [Sync.SOON]


def test_bookkeeping_goes_with_the_next_that_waits(watched):
    watched.done("a")
    watched.done("b")
    assert watched.during(lambda: watched.queue.mark_announced("a")) == [Sync.LATER]
    assert watched.during(watched.queue.trim) == [Sync.LATER]
    assert watched.during(lambda: watched.reader.note_picture_room(1000)) == [Sync.LATER]
    assert watched.during(lambda: remember_pace(watched.queue.database, {"a": 1.0})) == [Sync.LATER]


def test_a_level_holds_for_its_transaction_only_also_after_a_failure(watched):
    database = watched.queue.database

    def fail() -> None:
        with database.transaction(Sync.LATER):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert watched.during(lambda: watched.queue.enqueue(request("a"))) == [Sync.NOW]


def hold(path: Path, seconds: float, is_held: threading.Event) -> float:
    """Another process, as far as SQLite can tell: keeps the database for a while; when it let go."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    is_held.set()
    time.sleep(seconds)
    other.execute("COMMIT")
    released = time.monotonic()
    other.close()
    return released


def test_the_turn_is_taken_within_milliseconds(tmp_path):
    """SQLite's own wait, after 250 ms, looks every 100 ms: half of that in the median."""
    database, late = Database(tmp_path / "edgegen.db"), []
    for _ in range(9):
        is_held, released = threading.Event(), []
        other = threading.Thread(target=lambda: released.append(hold(database.path, 0.25, is_held)))  # noqa: B023
        other.start()
        is_held.wait()
        with database.transaction() as db:
            began = time.monotonic()
            set_fact(db, "a", "b")
        other.join()
        late.append(began - released[0])
    assert median(late) < 0.02, late
    database.close()


def test_one_that_never_lets_go_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "patiently", lambda ask: patiently(ask, longest_s=0.05))
    database = Database(tmp_path / "edgegen.db")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another process held it"), database.transaction():
        pass
    other.execute("COMMIT")
    with database.transaction() as db:
        set_fact(db, "a", "b")
    other.close()
    database.close()
