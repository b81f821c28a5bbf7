"""The durable queue: every accepted job, waiting, running or finished, in one SQLite file.

The front adds and cancels, the engine claims and finishes, the shell looks: each in its own process.
Order comes from the row number, never from the clock, which may be wrong (a Pi has no battery clock).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import QueueFull, UnknownJob
from ..settings import QueueSettings
from .database import Database
from .job import Job, JobRequest, JobState
from .outbox import ResultOutbox
from .sync import Sync

Jobs = list[Job]  # inside the class, `list` is the method
Seconds = list[float]
_WAITING = "state = 'queued' ORDER BY priority DESC, seq"
_FINAL = "state IN ('done', 'failed', 'cancelled')"


@dataclass(frozen=True)
class Enqueued:
    """`is_new` is False when a job of that id was there already (a redelivery)."""

    job: Job
    is_new: bool


class JobQueue:
    """Jobs in SQLite.

    Args:
        database: the open file, or its path.
        now: this device's clock in Unix seconds; only deadlines and records use it.
        outbox: where every end of a job is posted, in the same transaction; None: nowhere. May be replaced.
    Raises (every method):
        StorageError: the disk is full, the file cannot be written, or it was damaged.
    """

    def __init__(
        self,
        database: Database | Path,
        settings: QueueSettings | None = None,
        now: Callable[[], float] = time.time,
        outbox: ResultOutbox | None = None,
    ):
        self.database = database if isinstance(database, Database) else Database(database, now)
        self._settings = settings or QueueSettings()
        self._now = now
        self.outbox = outbox

    def enqueue(self, request: JobRequest) -> Enqueued:
        """Commit a job. A known id returns the job it has, unchanged.

        Raises:
            QueueFull: `max_jobs` are waiting already.
        """
        (enqueued,) = self.enqueue_all([request])
        if isinstance(enqueued, QueueFull):
            raise enqueued
        return enqueued

    def enqueue_all(self, requests: Sequence[JobRequest]) -> Sequence[Enqueued | QueueFull]:
        """Commit jobs together, at the price of one: a commit waits for the disk, which takes milliseconds.

        Returns what became of each; one that finds the queue full keeps none of the others out.
        """
        with self.database.transaction(Sync.NOW) as db:
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            outcomes = []
            for request in requests:
                outcomes.append(self._enqueue(db, request, waiting))
                waiting += isinstance(outcomes[-1], Enqueued) and outcomes[-1].is_new
            return outcomes

    def _enqueue(self, db: sqlite3.Connection, request: JobRequest, waiting: int) -> Enqueued | QueueFull:
        if known := _find(db, request.id):
            return Enqueued(known, is_new=False)
        if waiting >= self._settings.max_jobs:
            return QueueFull(
                f"{waiting} jobs are waiting and queue.max_jobs is {self._settings.max_jobs}: try later"
            )
        db.execute(
            "INSERT INTO jobs (id, request, priority, deadline, created, state) "
            "VALUES (?, ?, ?, ?, ?, 'queued')",
            (request.id, _dump(request), request.priority, request.deadline, self._now()),
        )
        return Enqueued(_get(db, request.id), is_new=True)

    def claim(self) -> Job | None:
        """Take the next job: highest priority, then oldest. Its attempt is counted before it runs.

        Jobs past their deadline fail with the code `expired` on the way. The disk has it some milliseconds
        later: a power cut before that only forgets an attempt that had not begun.
        """
        if not self.database.rows("SELECT 1 FROM jobs WHERE state = 'queued' LIMIT 1"):
            return None  # an idle engine never writes
        with self.database.transaction(Sync.SOON) as db:
            self._expire(db)
            self._bury_unreadable(db)
            row = db.execute(f"SELECT seq, id FROM jobs WHERE {_WAITING} LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ? WHERE seq = ?",
                (self._now(), row["seq"]),
            )
            return _get(db, row["id"])

    def finish(self, job: Job, *, picture: str, seed: int | None, seconds: float) -> bool:
        """A claimed job is done. False when it is not ours any more (requeued, or claimed again)."""
        return self._end(job, "done", picture=picture, seed=seed, seconds=seconds)

    def fail(self, job: Job, code: str, reason: str) -> bool:
        """A claimed job failed: `code` for machines, `reason` for people. False as for `finish`."""
        return self._end(job, "failed", code=code, reason=reason)

    def end_cancelled(self, job: Job) -> bool:
        """A claimed job stopped because somebody asked. False as for `finish`."""
        return self._end(job, "cancelled", code="cancelled", reason="cancelled while it ran")

    def release(self, job: Job) -> bool:
        """Give a claimed job back, its attempt uncounted: the engine stops for another reason."""
        with self.database.transaction(Sync.SOON) as db:
            return _is_one(
                db.execute(
                    "UPDATE jobs SET state = 'queued', attempts = attempts - 1, started = NULL "
                    "WHERE id = ? AND state = 'running' AND attempts = ?",
                    (job.id, job.attempts),
                )
            )

    def cancel(self, job_id: str) -> Job:
        """A waiting job is cancelled at once; a running one is asked to stop; a finished one stays.

        Raises:
            UnknownJob: no job has that id.
        """
        with self.database.transaction(Sync.NOW) as db:
            _get(db, job_id)
            ended = db.execute(
                "UPDATE jobs SET state = 'cancelled', code = 'cancelled', finished = ?, "
                "reason = 'cancelled while it waited' WHERE id = ? AND state = 'queued'",
                (self._now(), job_id),
            )
            if _is_one(ended):
                self._post(db, _get(db, job_id))
            db.execute("UPDATE jobs SET cancel_asked = 1 WHERE id = ? AND state = 'running'", (job_id,))
            return _get(db, job_id)

    def is_cancel_asked(self, job: Job) -> bool:
        """Whether the claimed job should stop: it was cancelled, or is not ours any more."""
        rows = self.database.rows(
            "SELECT 1 FROM jobs WHERE id = ? AND state = 'running' AND attempts = ? AND cancel_asked = 0",
            job.id,
            job.attempts,
        )
        return not rows

    def requeue_orphans(self, reason: str = "the engine died", is_blamed: bool = True) -> Jobs:
        """Running jobs whose engine is gone go back to their place in the queue.

        One that has used up `max_attempts` fails with the code `engine_died`; one that was asked to
        stop is cancelled. Call it only while no engine works.

        Args:
            is_blamed: False when the engine was stopped for another reason: the attempt is not counted.
        """
        limit = self._settings.max_attempts
        with self.database.transaction(Sync.NOW) as db:
            ids = [
                row["id"] for row in db.execute("SELECT id FROM jobs WHERE state = 'running' ORDER BY seq")
            ]
            if not is_blamed:
                db.execute("UPDATE jobs SET attempts = attempts - 1 WHERE state = 'running'")
            db.execute(
                "UPDATE jobs SET state = 'cancelled', code = 'cancelled', finished = ?, "
                "reason = 'cancelled while it ran' WHERE state = 'running' AND cancel_asked",
                (self._now(),),
            )
            db.execute(
                "UPDATE jobs SET state = 'failed', code = 'engine_died', finished = ?, "
                "reason = ? || ' (attempt ' || attempts || ' of ' || ? || ')' "
                "WHERE state = 'running' AND attempts >= ?",
                (self._now(), reason, limit, limit),
            )
            db.execute("UPDATE jobs SET state = 'queued', started = NULL WHERE state = 'running'")
            jobs = [_get(db, job_id) for job_id in ids]
            self._post(db, *(job for job in jobs if job.state.is_final))
            return jobs

    def get(self, job_id: str) -> Job:
        """Raises UnknownJob."""
        rows = self.database.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        return _to_job(rows[0]) if rows else _unknown(job_id)

    def knows(self, job_id: str) -> bool:
        """Whether a job of that id is here, in whatever state."""
        return bool(self.database.rows("SELECT 1 FROM jobs WHERE id = ?", job_id))

    def list(self, *states: JobState, limit: int = 100) -> Jobs:
        """Jobs in one of these states (none given: all): running, then waiting by turn, then newest."""
        chosen = states or tuple(JobState)
        marks = ", ".join("?" * len(chosen))
        rows = self.database.rows(
            f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY "
            "CASE state WHEN 'running' THEN 0 WHEN 'queued' THEN 1 ELSE 2 END, "
            "CASE WHEN state = 'queued' THEN -priority ELSE 0 END, "
            "CASE WHEN state = 'queued' THEN seq ELSE -seq END LIMIT ?",
            *chosen,
            limit,
        )
        return [_to_job(row) for row in rows]

    def place(self, job_id: str) -> int | None:
        """A waiting job's place in the queue, 1 is next; None for a job that does not wait."""
        rows = self.database.rows(
            "SELECT (SELECT count(*) FROM jobs AS other WHERE other.state = 'queued' AND "
            "(other.priority > mine.priority OR (other.priority = mine.priority AND other.seq <= mine.seq))"
            ") AS place FROM jobs AS mine WHERE mine.id = ? AND mine.state = 'queued'",
            job_id,
        )
        return int(rows[0]["place"]) if rows else None

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        rows = self.database.rows("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")
        found = {row["state"]: int(row["jobs"]) for row in rows}
        return {state: found.get(state, 0) for state in JobState}

    def recent_seconds(self, limit: int = 10) -> Seconds:
        """How long the newest done jobs took, newest first."""
        rows = self.database.rows(
            "SELECT seconds FROM jobs WHERE state = 'done' ORDER BY finished DESC, seq DESC LIMIT ?", limit
        )
        return [row["seconds"] for row in rows]

    def newest_done(self) -> Job | None:
        """The last job that became a picture; None without any."""
        rows = self.database.rows(
            "SELECT * FROM jobs WHERE state = 'done' ORDER BY finished DESC, seq DESC LIMIT 1"
        )
        return _to_job(rows[0]) if rows else None

    def unannounced(self) -> Jobs:
        """Finished jobs that nobody was told about yet, oldest first."""
        rows = self.database.rows(f"SELECT * FROM jobs WHERE announced = 0 AND {_FINAL} ORDER BY seq")
        return [_to_job(row) for row in rows]

    def mark_announced(self, job_id: str) -> bool:
        """False when somebody was faster. Forgotten by a power cut, it is told again."""
        with self.database.transaction(Sync.LATER) as db:
            return _is_one(
                db.execute("UPDATE jobs SET announced = 1 WHERE id = ? AND announced = 0", (job_id,))
            )

    def trim(self) -> int:
        """Forget the oldest finished jobs beyond `keep_finished`; returns how many."""
        with self.database.transaction(Sync.LATER) as db:
            return db.execute(
                f"DELETE FROM jobs WHERE {_FINAL} AND seq <= (SELECT seq FROM jobs WHERE {_FINAL} "
                "ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (self._settings.keep_finished,),
            ).rowcount

    def close(self) -> None:
        """Safe to call twice."""
        self.database.close()

    def _expire(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "UPDATE jobs SET state = 'failed', code = 'expired', finished = ?, "
            "reason = 'its deadline passed while it waited' WHERE state = 'queued' AND deadline < ? "
            "RETURNING id",
            (self._now(), self._now()),
        ).fetchall()
        self._post(db, *(_get(db, row["id"]) for row in rows))

    def _bury_unreadable(self, db: sqlite3.Connection) -> None:
        """Waiting jobs at the head of the queue that a flipped bit made unreadable fail, with a reason."""
        while row := db.execute(f"SELECT * FROM jobs WHERE {_WAITING} LIMIT 1").fetchone():
            if _request_of(row) is not None:
                return
            db.execute(
                "UPDATE jobs SET state = 'failed', code = 'damaged', finished = ?, "
                "reason = 'its record on the disk was damaged: ask again' WHERE seq = ?",
                (self._now(), row["seq"]),
            )
            self._post(db, _get(db, row["id"]))

    def restore(self, jobs: Jobs) -> int:
        """Bring back done jobs that a lost file knew, as told already. Known ids stay; how many came back."""
        rows = [
            (j.id, _dump(j.request), j.request.priority, j.created, j.finished, j.seconds, j.seed, j.picture)
            for j in jobs
        ]
        with self.database.transaction(Sync.NOW) as db:
            return db.executemany(
                "INSERT OR IGNORE INTO jobs (id, request, priority, created, finished, seconds, seed, "
                "picture, state, attempts, announced) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'done', 1, 1)",
                rows,
            ).rowcount

    def _end(self, job: Job, state: str, **columns: object) -> bool:
        assignments = "".join(f", {name} = ?" for name in columns)
        with self.database.transaction(Sync.NOW) as db:
            ended = db.execute(
                f"UPDATE jobs SET state = ?, finished = ?{assignments} "
                "WHERE id = ? AND state = 'running' AND attempts = ?",
                (state, self._now(), *columns.values(), job.id, job.attempts),
            )
            if _is_one(ended):
                self._post(db, _get(db, job.id))
            return _is_one(ended)

    def _post(self, db: sqlite3.Connection, *jobs: Job) -> None:
        if self.outbox is not None:
            for job in jobs:
                self.outbox.post(db, job)


def _is_one(cursor: sqlite3.Cursor) -> bool:
    return cursor.rowcount == 1


def _dump(request: JobRequest) -> str:
    return json.dumps(vars(request), ensure_ascii=False, allow_nan=False)


def _find(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _to_job(row) if row else None


def _get(db: sqlite3.Connection, job_id: str) -> Job:
    return _find(db, job_id) or _unknown(job_id)


def _unknown(job_id: str) -> Job:
    raise UnknownJob(f"no job {job_id!r} is known here: see `edgegen queue` for those that are")


def _to_job(row: sqlite3.Row) -> Job:
    """The job of a row; what a flipped bit made unreadable is said to be so."""
    columns = ("created", "attempts", "started", "finished", "seconds", "seed", "picture", "code", "reason")
    state = row["state"] if row["state"] in tuple(JobState) else JobState.FAILED
    return Job(
        request=_request_of(row) or JobRequest(str(row["id"]), "(its record was damaged)"),
        state=JobState(state),
        **{name: row[name] for name in columns},
    )


def _request_of(row: sqlite3.Row) -> JobRequest | None:
    """None: a flipped bit made it unreadable."""
    try:
        request = JobRequest(**json.loads(row["request"]))
    except (ValueError, TypeError, RecursionError):
        return None
    return request if request.id == row["id"] and isinstance(request.prompt, str) else None
