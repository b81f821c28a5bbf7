"""The newest picture and what is said of it (`last/image`, `last/meta`), as large as the broker takes it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...errors import StorageError
from ...jobs.job import Job
from ...jobs.outbox import OutboxReader
from . import messages
from .limits import Limits
from .messages import JSON, Outgoing
from .topics import Topics

log = logging.getLogger(__name__)


class LastPicture:
    """Renders its messages when it is their turn: only then it is known what the broker takes.

    Args:
        read_picture: a done job's picture as it should be published; None when it is gone.
        max_bytes: `mqtt.image_max_bytes`.
        results: where the engine, which makes the copies to send, learns how large they may be.
        limits: what the broker takes now.
    """

    def __init__(
        self,
        topics: Topics,
        read_picture: Callable[[Job], bytes | None],
        max_bytes: int,
        results: OutboxReader,
        limits: Callable[[], Limits],
    ):
        self._topics = topics
        self._read_picture = read_picture
        self._max_bytes = max_bytes
        self._results = results
        self._limits = limits

    def messages(self, job: Job) -> list[Outgoing]:
        """What is said, then the picture; no picture where it is gone or too large for the broker."""
        meta, image = self._topics.last_meta, self._topics.last_image
        return [
            Outgoing(meta, lambda: self._meta(job), retain=True, content_type=JSON),
            Outgoing(image, lambda: self._image(job), retain=True),
        ]

    def note_room(self) -> None:
        """For the engine's next pictures; written when it changes, that is hardly ever."""
        room = self._room_bytes()
        try:
            if self._results.picture_room() != room:
                self._results.note_picture_room(room)
        except StorageError as err:
            log.warning("the engine was not told which pictures the broker takes: %s", err)

    def _room_bytes(self) -> int | None:
        return self._limits().room_bytes(self._topics.last_image)

    def _meta(self, job: Job) -> bytes:
        room, size = self._room_bytes(), {}
        if room is not None and room < self._max_bytes:
            picture = self._read_picture(job)
            size = messages.picture_size(None if picture is None else len(picture), room)
        return messages.to_json(messages.meta_of(job, size))

    def _image(self, job: Job) -> bytes | None:
        picture, room = self._read_picture(job), self._room_bytes()
        if picture is None or room is None or len(picture) <= room:
            return picture
        log.warning(
            "the picture of job %s is not sent: it has %d bytes, the broker's packets hold %d; those of "
            "later jobs are made smaller",
            job.id,
            len(picture),
            room,
        )
        return None
