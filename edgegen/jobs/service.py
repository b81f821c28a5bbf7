"""What a front end sees of jobs: submit, cancel, look, and be told.

The queue's file is the truth. Whatever an engine or another process reports only makes the service look
there, so a lost or forged message loses and changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from .. import __version__
from ..errors import EdgegenError, QueueFull, StorageError
from .admission import Admission
from .database import SET_ASIDE, set_fact
from .diskspace import DiskReserve
from .eta import StepClock, mean_seconds
from .events import JobEvent
from .gallery import Gallery, Publishable
from .job import Job, JobRequest, JobState
from .outbox import outbox_counts
from .queue import Enqueued, JobQueue
from .sync import Sync

log = logging.getLogger(__name__)

Listener = Callable[[JobEvent], object]
PreviewListener = Callable[[Job, bytes], object]


def new_job_id() -> str:
    """An id nobody else has: 32 hexadecimal digits."""
    return uuid.uuid4().hex


class JobService:
    """Any thread may call any method.

    Attributes:
        preview_listeners: called with the running job and a JPEG of how its picture looks.

    Listeners hear of every event in order, one at a time.

    A listener runs on whichever thread caused the event and with no lock of ours held, so it may call
    back; what it raises is logged and harms nobody.
    """

    def __init__(
        self,
        queue: JobQueue,
        gallery: Gallery | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        reserve: DiskReserve | None = None,
        admission: Admission | None = None,
    ):
        self._queue = queue
        self._reserve = reserve
        self._admission = admission
        self._gallery = gallery
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self.preview_listeners: list[PreviewListener] = []
        self._outbox: deque[JobEvent] = deque()
        self._is_delivering = False
        self._being_announced: set[str] = set()
        self._running: StepClock | None = None
        self._recent: list[float] | None = None  # how long the newest done jobs took; None: not known now

    def submit(self, request: JobRequest) -> Job:
        """Commit a job, then announce it. An id known already returns its job and announces nothing.

        Raises:
            BlockedPrompt, RateLimited: this device does not take it, or not now.
            QueueFull: as many jobs wait as may.
            DiskFull: the disk's reserve is reached.
            StorageError: it could not be written; the job does not exist.
        """
        (answer,) = self.submit_all([request])
        if isinstance(answer, EdgegenError):
            raise answer
        return answer

    def submit_all(self, requests: Sequence[JobRequest]) -> list[Job | EdgegenError]:
        """Commit jobs together, as `submit` does one: for each its job, or why it is refused.

        Raises:
            StorageError: they could not be written; none of them exists.
        """
        with self._lock:
            answers: dict[str, EdgegenError | None] = {}
            room = cache(self._check_room)  # once for all of them: to look costs more than a job writes
            for request in requests:  # of two with one id the second is known, once the first is in
                if request.id not in answers:
                    answers[request.id] = self._refusal(request, room)
            admitted = [request for request in requests if answers[request.id] is None]
            enqueued = self._queue.enqueue_all(admitted) if admitted else ()
            for done in enqueued:
                if isinstance(done, Enqueued) and done.is_new:
                    self._outbox.append(self._queued_event(done.job))
        self._deliver()
        outcomes = iter(enqueued)
        return [answers[request.id] or _job_or_error(next(outcomes)) for request in requests]

    def _refusal(self, request: JobRequest, room: Callable[[], EdgegenError | None]) -> EdgegenError | None:
        """A redelivery is never refused: its job is here, and a second answer would be a lie."""
        try:
            if self._queue.knows(request.id):
                return None
            if self._admission is not None:
                self._admission.admit(request)
        except StorageError:
            raise
        except EdgegenError as err:
            return err
        return room()

    def _check_room(self) -> EdgegenError | None:
        try:
            if self._reserve is not None:
                self._reserve.admit()
        except StorageError:
            raise
        except EdgegenError as err:
            return err
        return None

    def cancel(self, job_id: str) -> Job:
        """A waiting job is cancelled at once, a running one within its step, a finished one stays.

        Raises:
            UnknownJob: no job has that id.
        """
        job = self._queue.cancel(job_id)
        self.announce_finished()
        return job

    def job(self, job_id: str) -> Job:
        """Raises UnknownJob."""
        return self._queue.get(job_id)

    def jobs(self, *states: JobState, limit: int = 100) -> list[Job]:
        """Running jobs, then waiting ones by turn, then finished ones, newest first."""
        return self._queue.list(*states, limit=limit)

    def counts(self) -> dict[JobState, int]:
        return self._queue.counts()

    def place(self, job_id: str) -> int | None:
        """1 is next; None for a job that does not wait."""
        return self._queue.place(job_id)

    def eta_s(self, job_id: str) -> float | None:
        """Seconds until its picture, from how long recent jobs took; None without ground for a guess."""
        return self._eta_s(self.place(job_id))

    def picture(self, job: Job, max_bytes: int) -> Publishable | None:
        """The bytes to send of a done job's picture, None when there are none of at most `max_bytes`."""
        return self._gallery.publishable(job.picture, max_bytes) if job.picture and self._gallery else None

    def newest_done(self) -> Job | None:
        """The last job that became a picture; None without any."""
        return self._queue.newest_done()

    def noted(self, name: str) -> str | None:
        """Something small that a front end noted, this time or before a restart."""
        return self._queue.database.fact(name)

    def note(self, name: str, value: str) -> None:
        """Keep something small over a restart. Raises StorageError."""
        with self._queue.database.transaction(Sync.NOW) as db:
            set_fact(db, name, value)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(event)` called for every event; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def report_step(self, job_id: str, step: int, steps: int, note: str | None = None) -> None:
        """An engine says that a job has reached a step; announced when the queue says that it runs.

        Args:
            note: what people should know about it (a pause).
        """
        with self._lock:
            running = self._clock_of(job_id, step)
            if running is None:
                return
            running.note(step, self._monotonic())
            eta_s = running.remaining_s(steps, self._mean_s())
            event = JobEvent("running", running.job, step=step, steps=steps, eta_s=eta_s, note=note)
            self._outbox.append(event)
        self._deliver()

    def report_preview(self, job_id: str, jpeg: bytes | None) -> None:
        """An engine shows how the running job's picture looks; whoever listens is told, nothing is kept."""
        running = self._running
        if jpeg is None or running is None or running.job.id != job_id:
            return
        for listener in tuple(self.preview_listeners):
            try:
                listener(running.job, jpeg)
            except Exception:
                log.exception("a listener failed on a preview of job %s", job_id)

    def announce_finished(self) -> None:
        """Tell of every finished job that nobody was told about, whoever finished it."""
        with self._lock:
            for job in self._queue.unannounced():
                if job.id in self._being_announced:
                    continue
                self._being_announced.add(job.id)
                self._recent = None
                if self._running and self._running.job.id == job.id:
                    self._running = None
                self._outbox.append(JobEvent(job.state.value, job))
        self._deliver()

    def recover_orphans(self, reason: str, is_blamed: bool = True) -> list[Job]:
        """The engine is gone: its job goes back to the queue or has failed; both are announced.

        Arguments as for `JobQueue.requeue_orphans`.
        """
        with self._lock:
            self._running = None
            jobs = self._queue.requeue_orphans(reason, is_blamed)
            waiting = [job for job in jobs if job.state == JobState.QUEUED]
            self._outbox.extend(self._queued_event(job) for job in waiting)
        self.announce_finished()
        return jobs

    def status(self) -> dict[str, Any]:
        """Counts by state, the running job and its step, what waits for a broker, and this version."""
        running = self._running
        return {
            "version": __version__,
            "jobs": {state.value: count for state, count in self.counts().items()},
            "running": {"id": running.job.id, "step": running.step} if running else None,
            "outbox": outbox_counts(self._queue.database),
            "database_lost": self._queue.database.fact(SET_ASIDE),
        }

    def _clock_of(self, job_id: str, step: int) -> StepClock | None:
        """The running job's clock; a new one for a new job or attempt, None when it does not run."""
        known = self._running
        if known is None or known.job.id != job_id or step < known.step:
            job = self._queue.get(job_id)
            self._running = StepClock(job) if job.state == JobState.RUNNING else None
        return self._running

    def _queued_event(self, job: Job) -> JobEvent:
        place = self._queue.place(job.id)
        return JobEvent("queued", job, place=place, eta_s=self._eta_s(place))

    def _eta_s(self, place: int | None) -> float | None:
        mean = self._mean_s()
        return None if mean is None or place is None else mean * (place + (self._running is not None))

    def _mean_s(self) -> float | None:
        """Looked up again only after a job has ended: every job and step wants it, and to sort all done jobs
        by their end takes milliseconds."""
        with self._lock:
            if self._recent is None:
                self._recent = self._queue.recent_seconds()
            return mean_seconds(self._recent)

    def _deliver(self) -> None:
        """Empty the outbox, unless another thread (or a caller of ours) is at it already."""
        while True:
            with self._lock:
                if self._is_delivering or not self._outbox:
                    return
                self._is_delivering = True
                event, listeners = self._outbox.popleft(), tuple(self._listeners)
            try:
                self._tell(event, listeners)
            finally:
                with self._lock:
                    self._is_delivering = False

    def _tell(self, event: JobEvent, listeners: tuple[Listener, ...]) -> None:
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on %s of job %s", event.kind, event.job.id)
        if event.job.state.is_final:
            self._mark_announced(event.job)

    def _mark_announced(self, job: Job) -> None:
        try:
            self._queue.mark_announced(job.id)
        except EdgegenError as err:  # it stays in _being_announced: told once by this process
            log.warning("job %s may be announced again after a restart: %s", job.id, err)
        else:
            self._being_announced.discard(job.id)


def _job_or_error(outcome: Enqueued | QueueFull) -> Job | EdgegenError:
    return outcome if isinstance(outcome, QueueFull) else outcome.job
