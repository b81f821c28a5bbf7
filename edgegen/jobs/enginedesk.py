"""What the front makes of its engine's words, and of its silence."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from pathlib import Path

from .enginelock import no_engine
from .service import JobService
from .supervisor import Death
from .wire import Message

log = logging.getLogger(__name__)
MAX_NOTE = 200  # characters
MAX_PREVIEW = 100_000  # bytes


def read_preview(text: str) -> bytes | None:
    """An engine's preview, base64 of a JPEG; None when it is none."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if data.startswith(b"\xff\xd8\xff") and len(data) <= MAX_PREVIEW else None


class EngineDesk:
    """Turns an engine's messages into the service's events, and its death into orphans found.

    Args:
        folder: the queue's folder, where the engine's lock is.
        note: hears every message too (the supervisor's, where there is one).
        is_supervised: deaths come from the supervisor, with their cause; a lost connection means nothing.
        wake: has `collect_orphans` called soon.
    """

    def __init__(
        self,
        service: JobService,
        folder: Path,
        *,
        is_supervised: bool,
        note: Callable[[Message], object],
        wake: Callable[[], object],
    ):
        self._service = service
        self._folder = folder
        self._is_supervised = is_supervised
        self._note = note
        self._wake = wake
        self.orphans_due = False

    def hear(self, message: Message) -> None:
        """Runs on the hub's thread. What it does not understand is passed over."""
        self._note(message)
        match message:
            case {"type": "step", "id": str(job_id), "step": int(step), "steps": int(steps)}:
                if 0 <= step <= steps:
                    note = message.get("note")
                    self._service.report_step(
                        job_id, step, steps, note[:MAX_NOTE] if isinstance(note, str) else None
                    )
            case {"type": "preview", "id": str(job_id), "jpeg": str(text)}:
                self._service.report_preview(job_id, read_preview(text))
            case {"type": "disconnected"} if not self._is_supervised:
                self.orphans_due = True
                self._wake()
            case _:
                self._service.announce_finished()

    def bury(self, death: Death) -> None:
        """The supervised engine is dead; runs on the supervisor's thread."""
        self.recover(f"the engine {death.reason}", death.is_blamed)

    def collect_orphans(self) -> None:
        """After a lost connection: once no engine holds the lock, its job is an orphan."""
        if self.orphans_due and self.recover("the engine died"):
            self.orphans_due = False

    def recover(self, reason: str, is_blamed: bool = True) -> bool:
        """Orphans go back to the queue unless an engine works; False when one does."""
        with no_engine(self._folder) as is_free:
            if not is_free:
                return False
            for job in self._service.recover_orphans(reason, is_blamed):
                log.warning("job %s: %s; it is %s now", job.id, reason, job.state.value)
        self._service.announce_finished()
        return True
