"""Results that a broker must still hear of, kept in the jobs' database.

A row is written in the same transaction as the job's end, and goes when the broker has acknowledged the
last of its messages: neither an absent broker nor a killed process loses one. Rows carry the whole job, so
that forgetting finished jobs (`queue.keep_finished`) does not touch them.

Bounded by count and age. What is between a job's start and its end (queued, running) is never kept here;
of several pictures that wait only the newest is sent; a final status goes only when a bound is reached, and
then it is logged by name and counted.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..settings import MqttSettings
from .database import Database, add_to_fact, set_fact
from .job import Job, JobRequest, JobState
from .sync import Sync

log = logging.getLogger(__name__)

CLOCK_IS_SET_S = 1_735_689_600  # 2025-01-01: earlier than that says a clock that nobody has set yet
DROPPED = "outbox_dropped"
PICTURE_ROOM = "broker_picture_bytes"
_DAY_S = 86_400
_NAMED_IDS = 5


@dataclass(frozen=True)
class Due:
    """The next result to be told.

    Attributes:
        seq: its place in the order.
        sent: how many of its messages the broker has already.
        is_newest_picture: False when a later picture waits too.
    """

    seq: int
    job: Job
    sent: int
    is_newest_picture: bool


class ResultOutbox:
    """Writes rows into the transactions of a queue. Made only where MQTT is on.

    Args:
        settings: its bounds, `outbox_max` and `outbox_days`.
        now: Unix seconds; a clock before 2025 counts as not set, and ages nothing.
    """

    def __init__(self, settings: MqttSettings, now: Callable[[], float] = time.time):
        self._max_rows = settings.outbox_max
        self._max_age_s = settings.outbox_days * _DAY_S
        self._now = now

    def post(self, db: sqlite3.Connection, job: Job) -> None:
        """Remember a job that has just ended, within the transaction that ends it."""
        db.execute(
            "INSERT INTO outbox (job_id, state, job, created) VALUES (?, ?, ?, ?)",
            (job.id, job.state.value, _dump(job), self._now()),
        )
        self._drop(db, "the outbox is full", *self._beyond_count(db))
        if self._max_age_s and self._now() > CLOCK_IS_SET_S:
            self._drop(db, "too old", "created > ? AND created < ?", self._too_old())

    def _beyond_count(self, db: sqlite3.Connection) -> tuple[str, tuple[float, ...]]:
        count = db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        excess = max(0, count - self._max_rows)
        return "seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)", (excess,)

    def _too_old(self) -> tuple[float, ...]:
        return CLOCK_IS_SET_S, self._now() - self._max_age_s

    def _drop(self, db: sqlite3.Connection, why: str, where: str, values: tuple[float, ...]) -> None:
        rows = db.execute(f"DELETE FROM outbox WHERE {where} RETURNING job_id", values).fetchall()
        if not rows:
            return
        add_to_fact(db, DROPPED, len(rows))
        named = ", ".join(row["job_id"] for row in rows[:_NAMED_IDS])
        log.error("%s: the broker will not hear of %d finished jobs: %s", why, len(rows), named)


class OutboxReader:
    """Takes rows out again, oldest first: the front's side. Raises StorageError as the database does.

    Rows are named by place and job together: a database that starts anew counts from 1 again.
    """

    def __init__(self, database: Database):
        self._database = database

    def first(self, up_to: int) -> Due | None:
        """The oldest row, none after row `up_to`."""
        rows = self._database.rows("SELECT * FROM outbox WHERE seq <= ? ORDER BY seq LIMIT 1", up_to)
        if not rows:
            return None
        row = rows[0]
        newer = self._database.rows(
            "SELECT 1 FROM outbox WHERE seq > ? AND state = 'done' LIMIT 1", row["seq"]
        )
        return Due(row["seq"], _job_of(row), row["sent"], is_newest_picture=not newer)

    def last_seq(self, job_id: str | None = None) -> int:
        """The newest row's place, of one job or of all; 0 without any."""
        where, values = ("WHERE job_id = ?", (job_id,)) if job_id else ("", ())
        return int(self._database.rows(f"SELECT max(seq) AS seq FROM outbox {where}", *values)[0]["seq"] or 0)

    def owes_status(self, job_id: str) -> bool:
        """Whether the broker has nothing yet of how a job ended, and will get it."""
        rows = self._database.rows("SELECT 1 FROM outbox WHERE job_id = ? AND sent = 0 LIMIT 1", job_id)
        return bool(rows)

    def holds_picture(self) -> bool:
        """Whether a done job waits."""
        return bool(self._database.rows("SELECT 1 FROM outbox WHERE state = 'done' LIMIT 1"))

    def note_sent(self, due: Due, sent: int) -> None:
        """The broker has the first `sent` messages of a row.

        After a power cut within milliseconds they are told again; a picture, the last of its row, is not, for
        `remove` waits for the disk.
        """
        with self._database.transaction(Sync.SOON) as db:
            db.execute("UPDATE outbox SET sent = ? WHERE seq = ? AND job_id = ?", (sent, due.seq, due.job.id))

    def remove(self, due: Due) -> None:
        """The broker has all of it."""
        with self._database.transaction(Sync.NOW) as db:
            db.execute("DELETE FROM outbox WHERE seq = ? AND job_id = ?", (due.seq, due.job.id))

    def picture_room(self) -> int | None:
        """The largest picture in bytes that the broker takes, as its last CONNACK said; None: any."""
        return picture_room(self._database)

    def note_picture_room(self, room_bytes: int | None) -> None:
        """For the engine, and for the time until the broker says it again."""
        with self._database.transaction(Sync.LATER) as db:
            set_fact(db, PICTURE_ROOM, None if room_bytes is None else str(room_bytes))


def picture_room(database: Database) -> int | None:
    """The largest picture in bytes that the broker takes, as its last CONNACK said; None: any."""
    text = database.fact(PICTURE_ROOM)
    return int(text) if text and text.isdecimal() else None


def result_outbox(settings: MqttSettings, now: Callable[[], float] = time.time) -> ResultOutbox | None:
    """Where a queue posts its results; None when MQTT is off and nobody would fetch them."""
    return ResultOutbox(settings, now) if settings.enabled else None


def outbox_counts(database: Database) -> dict[str, int]:
    """How many results wait for the broker, and how many were ever dropped at a bound."""
    waiting = int(database.rows("SELECT count(*) AS count FROM outbox")[0]["count"])
    return {"waiting": waiting, "dropped": int(database.fact(DROPPED) or 0)}


def _dump(job: Job) -> str:
    told = replace(job, request=replace(job.request, workflow=None))  # no status says more than its name
    return json.dumps({**vars(told), "request": vars(told.request)}, ensure_ascii=False, allow_nan=False)


def damaged_job(job_id: str, state: str) -> Job:
    """What can still be told of a result whose record a flipped bit made unreadable."""
    known = JobState(state) if state in tuple(JobState) else JobState.FAILED
    request = JobRequest(job_id, "(its record was damaged)")
    return Job(request, known, 0.0, code="damaged", reason="its record on the disk was damaged: ask again")


def _job_of(row: sqlite3.Row) -> Job:
    """One unreadable row must not hold up the others for ever."""
    try:
        return _load(row["job"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as err:
        log.error("the result of job %s is damaged, told without its details: %s", row["job_id"], err)
        return damaged_job(str(row["job_id"]), row["state"])


def _load(text: str) -> Job:
    fields = json.loads(text)
    request, state = JobRequest(**fields.pop("request")), JobState(fields.pop("state"))
    return Job(request=request, state=state, **fields)
