"""A job: what was asked, and what became of it. Pure: no clock, no disk, no network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobRequest:
    """What somebody asked for; None means the pack's own default.

    Attributes:
        id: the sender's unique id, or ours: 1 to 64 of A-Z a-z 0-9 _ . -
        priority: -100 to 100; higher goes first.
        deadline: Unix seconds after which nobody wants it any more.
        source: where it came from (`mqtt`, `button:17`, `cli`).
        transaction: echoed in every status (MQTT 3.1.1's stand-in for Correlation Data).
    """

    id: str
    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    pack: str | None = None
    priority: int = 0
    deadline: float | None = None
    source: str = "cli"
    transaction: str | None = None


@dataclass(frozen=True)
class Job:
    """One accepted request.

    Attributes:
        created, started, finished: Unix seconds by this device's clock, which may be wrong.
        attempts: times an engine claimed it.
        seed: the seed that was used, once done.
        picture: file name in the gallery, once done.
        code, reason: why it failed, for machines and for people.
    """

    request: JobRequest
    state: JobState
    created: float
    attempts: int = 0
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None
    seed: int | None = None
    picture: str | None = None
    code: str | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        return self.request.id
