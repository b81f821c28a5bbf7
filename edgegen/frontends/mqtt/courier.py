"""Carries finished jobs from the durable outbox to the broker, one message at a time.

The next message goes only after the broker acknowledged the one before and the database knows it. So a
process that dies repeats one message at most, and the order of results is the order of their ends. The
disk is waited for only after a result's last message, its picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from ...errors import StorageError
from ...jobs.job import Job
from ...jobs.outbox import Due, OutboxReader, damaged_job
from .messages import Outgoing

log = logging.getLogger(__name__)
RETRY_S = 10.0  # after the disk refused


class Courier:
    """Any thread may call any method; nothing here waits for the broker.

    Args:
        reader: the durable outbox.
        render: a result's messages, in order; with or without its picture.
        put: hands a message to the connection, which keeps it until the broker has it.
        on_done: called with every job of which the broker has all.
    """

    def __init__(
        self,
        reader: OutboxReader,
        render: Callable[[Job, bool], list[Outgoing]],
        put: Callable[[Outgoing], object],
        on_done: Callable[[Job], object],
        retry_s: float = RETRY_S,
    ):
        self._reader = reader
        self._render = render
        self._put = put
        self._on_done = on_done
        self._retry_s = retry_s
        self._lock = threading.RLock()
        self._due: Due | None = None
        self._messages: list[Outgoing] = []
        self._sent = 0
        self._unrecorded = False
        self._up_to = 0
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._guarded(lambda: self._raise_mark(self._reader.last_seq()))

    def fetch(self, job: Job) -> None:
        """This job has ended and everything before its end was told."""
        self._guarded(lambda: self._raise_mark(self._reader.last_seq(job.id)))

    def close(self) -> None:
        """What is not acknowledged yet stays in the database; safe to call twice."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()

    def holds_picture(self) -> bool:
        """Whether a picture is still on its way: then an older one must not follow it."""
        try:
            return self._reader.holds_picture()
        except StorageError as err:
            log.warning("whether a picture waits cannot be told: %s", err)
            return True

    def _raise_mark(self, seq: int) -> None:
        self._up_to = max(self._up_to, seq)
        if self._due is None:
            self._next()

    def _next(self) -> None:
        """Take the oldest result and send the first message that the broker does not have."""
        while (due := self._reader.first(self._up_to)) is not None:
            self._messages = self._messages_of(due)
            self._due, self._sent = due, due.sent
            if self._sent < len(self._messages):
                self._send()
                return
            self._unrecorded = True
            self._finish(due)
        self._due = None

    def _messages_of(self, due: Due) -> list[Outgoing]:
        """A result that cannot be rendered (a flipped bit) is told bare: the others wait behind it."""
        try:
            return self._render(due.job, due.is_newest_picture)
        except StorageError:
            raise
        except Exception:
            log.exception("the result of job %s is told without its details", due.job.id)
            return self._render(damaged_job(due.job.id, due.job.state), False)

    def _send(self) -> None:
        self._put(replace(self._messages[self._sent], on_sent=self._on_sent))

    def _on_sent(self) -> None:
        self._guarded(self._advance)

    def _advance(self) -> None:
        assert self._due is not None
        self._sent, self._unrecorded = self._sent + 1, True
        self._record()

    def _record(self) -> None:
        """The database learns it before anything else is sent."""
        due = self._due
        assert due is not None
        if self._sent < len(self._messages):
            self._reader.note_sent(due, self._sent)
            self._unrecorded = False
            self._send()
        else:
            self._finish(due)
            self._next()

    def _finish(self, due: Due) -> None:
        self._reader.remove(due)
        self._due, self._unrecorded = None, False
        self._on_done(due.job)

    def _guarded(self, step: Callable[[], object]) -> None:
        """The disk may refuse for a while; nothing is lost, it is tried again."""
        with self._lock:
            if self._is_closed:
                return
            try:
                step()
            except StorageError as err:
                log.error("results wait, tried again in %g s: %s", self._retry_s, err)
                self._retry_later()
            except Exception:  # this may be paho's thread, which must not end
                log.exception("results wait, tried again in %g s", self._retry_s)
                self._retry_later()

    def _retry_later(self) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(self._retry_s, self._retry)
            self._timer.daemon = True
            self._timer.start()

    def _retry(self) -> None:
        with self._lock:
            self._timer = None
        self._guarded(self._record if self._unrecorded else self._look_again)

    def _look_again(self) -> None:
        self._raise_mark(self._reader.last_seq())
