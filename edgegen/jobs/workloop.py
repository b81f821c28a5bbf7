"""The engine's work: claims one job at a time, draws it, stores the picture, finishes the job.

No job may end it, and it may end at any moment: the queue's file always knows where a job stands.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ..errors import Cancelled, EdgegenError, OutOfMemory, StorageError
from .checkpoints import Checkpoints
from .gallery import Gallery
from .guards import Guard
from .job import Job
from .queue import JobQueue
from .renderer import Drawing, Renderer, Step
from .sdnotify import SystemdNotifier
from .wakeup import StopRequest, Wakeup
from .wire import Message

log = logging.getLogger(__name__)

POLL_S = 5.0  # without a front that wakes us, for jobs that a shell put into the file
PREVIEW_S = 1.0
RETRY_S = 5.0  # after the disk refused
MAX_REASON_CHARS = 2000  # a workflow may be wrong in hundreds of places


class Stopped(Exception):
    """The engine was asked to end; its job goes back to the queue."""


class Worker:
    """Works until it is asked to stop. One thread; everything it needs is handed in.

    Args:
        send: tells the front; never fails.
        guard: may hold the job between two steps; None: it never pauses.
        checkpoints: where a job's steps are kept for a next attempt; None: nowhere.
        remember_pace: keeps how fast the graphs were; None: nobody does.
        previews: tell the front how the picture looks, at most once a second.
        quick_s: a step that follows so soon on one that was dealt with is only made.
        make_publish_copy: bytes small enough to send of a picture file, and their suffix; None: no copies.
        wakeup: ends its idle wait. stop: ends its work, within one step. retire: ends it between two jobs.
    """

    def __init__(
        self,
        queue: JobQueue,
        gallery: Gallery,
        renderer: Renderer,
        *,
        send: Callable[[Message], object],
        wakeup: Wakeup,
        stop: StopRequest,
        retire: StopRequest | None = None,
        make_publish_copy: Callable[[Path], tuple[bytes, str]] | None = None,
        notifier: SystemdNotifier | None = None,
        idle_unload_s: float = 0.0,
        poll_s: float = POLL_S,
        guard: Guard | None = None,
        checkpoints: Checkpoints | None = None,
        previews: bool = False,
        remember_pace: Callable[[dict[str, float]], object] | None = None,
        quick_s: float = 0.0,
    ):
        self._quick_s = quick_s
        self._dealt_at = float("-inf")
        self._queue = queue
        self._gallery = gallery
        self._renderer = renderer
        self._send = send
        self._wakeup = wakeup
        self._stop = stop
        self._retire = retire or StopRequest(wakeup)
        self._make_publish_copy = make_publish_copy
        self._notifier = notifier or SystemdNotifier({})
        self._idle_unload_s = idle_unload_s
        self._poll_s = poll_s
        self._guard = guard
        self._checkpoints = checkpoints
        self._remember_pace = remember_pace
        self._preview_at = float("-inf") if previews else float("inf")

    def run(self) -> None:
        """Returns when asked to stop."""
        idle_since: float | None = None
        while not (self._stop.is_asked or self._retire.is_asked):
            self._notifier.alive()
            if (job := self._claim()) is not None:
                self._work(job)
                idle_since = None
                continue
            if idle_since is None:
                idle_since = time.monotonic()
                self._send({"type": "idle"})
                self._notifier.status("idle")
            self._rest(time.monotonic() - idle_since)

    def _claim(self) -> Job | None:
        try:
            return self._queue.claim()
        except StorageError as err:
            log.error("no job can be claimed: %s", err)
            return None

    def _rest(self, idle_s: float) -> None:
        """Sleep until somebody wakes us, or it is time for a look at the file or a sign of life."""
        waits = [self._poll_s, self._notifier.watchdog_s or self._poll_s]
        if self._idle_unload_s:
            if idle_s >= self._idle_unload_s:
                self._renderer.unload()
            else:
                waits.append(self._idle_unload_s - idle_s)
        self._wakeup.wait(min(waits))

    def _work(self, job: Job) -> None:
        log.info("job %s: attempt %d", job.id, job.attempts)
        self._send({"type": "claimed", "id": job.id})
        self._notifier.status(f"job {job.id}")
        kind, settle = self._attempt(job)
        if self._insist(settle) and self._checkpoints and kind != "released":
            self._checkpoints.remove(job.id)
        self._send({"type": kind, "id": job.id})

    def _attempt(self, job: Job) -> tuple[str, Callable[[], object]]:
        """Draw the job; returns what to tell the front, and what the queue must still be told."""
        try:
            return "done", self._draw(job)
        except Stopped:
            return "released", lambda: self._queue.release(job)
        except Cancelled:
            return "failed", lambda: self._queue.end_cancelled(job)
        except MemoryError as err:  # OutOfMemory is one too
            self._renderer.unload()
            advice = str(err) or "there was not enough memory: lower width and height"
            code, reason = OutOfMemory.code, advice
        except EdgegenError as err:
            code, reason = err.code, str(err)[:MAX_REASON_CHARS]
        except Exception as err:
            log.exception("job %s", job.id)
            code, reason = "internal", f"unexpected {type(err).__name__}: {' '.join(str(err).split())[:200]}"
        log.warning("job %s failed: %s: %s", job.id, code, reason)
        return "failed", lambda: self._queue.fail(job, code, reason)

    def _draw(self, job: Job) -> Callable[[], object]:
        began = time.monotonic()
        drawing = self._steps(job)
        for save in drawing.others:
            self._gallery.store(job.id, save)
        path = self._gallery.store(job.id, drawing.save)
        self._write_publish_copy(path)
        if self._remember_pace:
            self._remember_pace(drawing.pace)
        seconds = time.monotonic() - began
        log.info("job %s: done in %.2f s: %s", job.id, seconds, path.name)
        return lambda: self._queue.finish(job, picture=path.name, seed=drawing.seed, seconds=seconds)

    def _steps(self, job: Job) -> Drawing:
        """Runs every step; between two of them the job may be cancelled or the engine stopped."""
        saved = self._checkpoints.begin(job.id) if self._checkpoints else None
        with closing(self._renderer.draw(job.request, saved)) as parts:
            for part in parts:
                if isinstance(part, Drawing):
                    return part
                self._note_step(job, part)
        raise RuntimeError("the pipeline ended without a picture")

    def _note_step(self, job: Job, part: Step) -> None:
        if self._is_quick(part):
            return
        step = {"type": "step", "id": job.id, "step": part.step, "steps": part.steps}
        self._send(step)
        self._notifier.alive()
        self._keep_step(job, part)
        self._send_preview(job, part)
        if self._guard and part.step < part.steps:  # after the last step only the picture is left
            self._guard.hold(lambda why: self._tell_pause(step, why), lambda: self._must_end(job))
        if self._stop.is_asked:
            self._keep_step(job, part, is_last_chance=True)
            raise Stopped
        if self._queue.is_cancel_asked(job):
            raise Cancelled(f"job {job.id} was cancelled at step {part.step} of {part.steps}")

    def _keep_step(self, job: Job, part: Step, is_last_chance: bool = False) -> None:
        if self._checkpoints and part.checkpoint:
            keep = self._checkpoints.write if is_last_chance else self._checkpoints.offer
            keep(job.id, part.checkpoint)

    def _send_preview(self, job: Job, part: Step) -> None:
        now = time.monotonic()
        if part.preview is None or now - self._preview_at < PREVIEW_S or not (data := part.preview()):
            return
        self._preview_at = now
        self._send({"type": "preview", "id": job.id, "jpeg": base64.b64encode(data).decode()})

    def _is_quick(self, part: Step) -> bool:
        """To tell of a step of milliseconds, and to ask whether it is still wanted, takes a share of it."""
        now = time.monotonic()
        if 1 < part.step < part.steps and now - self._dealt_at < self._quick_s and not self._stop.is_asked:
            return True
        self._dealt_at = now
        return False

    def _tell_pause(self, step: Message, reason: str) -> None:
        """A paused engine is alive: systemd and the front's step timeout must not take it for hung."""
        self._send({**step, "note": reason})
        self._notifier.alive()
        self._notifier.status(f"job {step['id']} {reason}")

    def _must_end(self, job: Job) -> bool:
        return self._stop.is_asked or self._queue.is_cancel_asked(job)

    def _write_publish_copy(self, path: Path) -> None:
        if self._make_publish_copy is None:
            return
        try:
            data, suffix = self._make_publish_copy(path)
            self._gallery.write_publish_copy(path.name, data, suffix)
        except EdgegenError as err:  # the picture itself is safe
            log.warning("%s cannot be published: %s", path.name, err)

    def _insist(self, settle: Callable[[], object]) -> bool:
        """The queue must learn how a job ended; a full disk may empty. False when the engine ends first."""
        while True:
            try:
                settle()
                self._queue.trim()
                return True
            except StorageError as err:
                log.error("the end of the job is not stored yet: %s", err)
                if self._stop.is_asked:
                    return False  # the job still counts as running, and the next engine finds it
                self._wakeup.wait(RETRY_S)
