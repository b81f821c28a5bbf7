"""A memory card lasts as long as it is left alone: idle, the device writes nothing; a job writes little."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgegen.jobs.job import JobState
from tests.support import wait_for

from .device import Box

IDLE_S = 5.5  # more than a keep-alive, and more than the engine's look at the queue (5 s) ...
QUIET_S = 5.5  # ... whose first after a commit notes in the shared memory file how far it has read
JOBS = 5
MOST_PER_JOB = 400_000  # a dozen commits of a few pages, and a picture of 64x64


def written(pid: int) -> int:
    """Bytes that a process and its children have had sent to storage so far, as the kernel counts."""
    own = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return int(own["write_bytes"]) + sum(map(written, children))


def touched(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def draw(box: Box, jobs: int) -> None:
    ids = [box.submit(steps=1, width=64, height=64)["id"] for _ in range(jobs)]
    wait_for(lambda: box.ask("status")["jobs"][JobState.DONE.value] >= len(ids))


def settle(pid: int) -> None:
    """What the last job still had to tell is told: nothing was written for a while."""
    seen = [written(pid)]

    def is_quiet() -> bool:
        time.sleep(QUIET_S)
        seen.append(written(pid))
        return seen[-1] == seen[-2]

    wait_for(is_quiet)


def test_an_idle_device_writes_nothing_and_a_job_little(box, broker):
    box.write(f'[mqtt]\nenabled = true\nhost = "127.0.0.1"\nport = {broker.port}\nkeepalive_s = 5\n')
    box.start()
    before = written(box.process.pid)
    draw(box, JOBS)
    settle(box.process.pid)
    a_job = (written(box.process.pid) - before) / JOBS
    if not a_job:
        pytest.skip("the file system of /tmp does not count what is written")
    assert a_job < MOST_PER_JOB
    before, files = written(box.process.pid), touched(box.folder)
    time.sleep(IDLE_S)
    after = written(box.process.pid)
    assert touched(box.folder) == files, box.log.read_text()[-2000:]
    assert after == before
