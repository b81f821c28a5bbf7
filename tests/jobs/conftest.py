from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.jobs.job import JobRequest
from edgegen.jobs.queue import JobQueue
from edgegen.settings import QueueSettings


class Clock:
    """A clock that tests set."""

    def __init__(self, seconds: float = 1_000_000.0):
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock):
    queue = JobQueue(
        tmp_path / "edgegen.db", QueueSettings(max_attempts=2, keep_finished=2, max_jobs=5), clock
    )
    yield queue
    queue.close()


def request(job_id: str, **fields) -> JobRequest:
    return JobRequest(id=job_id, prompt=fields.pop("prompt", "a red apple"), **fields)
