"""A damaged database: set aside, never deleted; the pictures tell what they know, and work goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.metadata import read_metadata, save_picture
from edgegen.engine.pipeline import GenerationSettings, Picture
from edgegen.errors import StorageError
from edgegen.jobs.checkpoints import Checkpoints
from edgegen.jobs.database import REINDEX_DUE, SET_ASIDE
from edgegen.jobs.gallery import Gallery
from edgegen.jobs.job import Job, JobState
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.restore import restore_jobs
from edgegen.jobs.worker import tidy_up
from edgegen.settings import LimitSettings

from .conftest import request


def picture(prompt: str, seed: int) -> Picture:
    settings = GenerationSettings(prompt, "", seed, 2, 1.0, 16, 16, "euler")
    return Picture(np.zeros((16, 16, 3), np.uint8), settings, 1.5, "cpu", "tiny")


class Device:
    """A queue and a gallery as the engine opens them."""

    def __init__(self, folder: Path):
        self.path = folder / "edgegen.db"
        self.queue = JobQueue(self.path)
        self.gallery = Gallery(folder / "gallery", self.queue.database)

    def draw(self, job_id: str, prompt: str, seed: int) -> None:
        self.queue.enqueue(request(job_id, prompt=prompt))
        job = self.queue.claim()
        path = self.gallery.store(job_id, lambda path: save_picture(picture(prompt, seed), path))
        self.queue.finish(job, picture=path.name, seed=seed, seconds=1.5)

    def start(self) -> int:
        """What the engine does first."""
        tidy_up(self.queue, self.gallery, Checkpoints(self.gallery.folder / "none", 0))
        return restore_jobs(self.queue, self.gallery, LimitSettings(), read_metadata, 1000)

    def close(self) -> None:
        self.queue.close()


@pytest.fixture
def open_device(tmp_path):
    devices: list[Device] = []

    def open_device() -> Device:
        devices.append(Device(tmp_path))
        return devices[-1]

    yield open_device
    for device in devices:
        device.close()


def truncate(data: bytearray) -> bytes:
    return bytes(data[: len(data) // 2 + 100])


def break_header(data: bytearray) -> bytes:
    data[3] ^= 0x10
    return bytes(data)


def break_pages(data: bytearray) -> bytes:
    for place in range(4096, len(data), 512):
        data[place] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize("damage", [truncate, break_header, break_pages, lambda data: b"hello" * 999])
def test_a_damaged_file_is_kept_and_the_pictures_are_indexed_again(
    open_device, tmp_path, caplog, damage: Callable[[bytearray], bytes]
):
    device = open_device()
    for number in range(12):  # some pages
        device.queue.enqueue(request(f"old{number}", prompt="x" * 1000))
        device.queue.cancel(f"old{number}")
    device.draw("a", "a red apple", 5)
    device.draw("b", "ein Äpfelchen", 2**40)
    before = [device.queue.get(job_id) for job_id in ("a", "b")]
    device.queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    device.close()
    broken = damage(bytearray(device.path.read_bytes()))
    device.path.write_bytes(broken)

    device = open_device()
    assert device.start() == 2
    (aside,) = tmp_path.glob("edgegen.db.damaged-*Z")
    assert aside.read_bytes() == broken
    after = [device.queue.get(job_id) for job_id in ("a", "b")]
    assert [told(job) for job in after] == [told(job) for job in before]
    assert device.gallery.names() == [before[1].picture, before[0].picture]
    assert device.queue.unannounced() == [], "nobody hears of them a second time"
    said = device.queue.database.fact(SET_ASIDE)
    assert aside.name in said
    assert said.endswith("2 pictures were indexed again and 2 finished jobs read from them")
    assert "2 finished jobs read from them" in caplog.text
    assert not device.queue.enqueue(request("a")).is_new, "a redelivery is still known"
    assert device.start() == 0


@pytest.mark.parametrize("page", [4, 8, 12])
def test_waiting_jobs_come_over_from_a_damaged_file(open_device, page):
    """One page is gone: its jobs are lost with it, all the others wait as before."""
    device = open_device()
    for number in range(60):
        device.queue.enqueue(request(f"job{number:02}", prompt="a red apple " * 30, priority=number % 3))
    device.queue.cancel("job07")
    device.queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    device.close()
    data = bytearray(device.path.read_bytes())
    start = page * 4096
    gone = {f"job{n:02}" for n in range(60) if f'"job{n:02}"'.encode() in data[start : start + 4096]}
    assert len(data) > start + 4096
    data[start : start + 8] = b"\xff" * 8
    device.path.write_bytes(data)

    device = open_device()
    device.start()
    waiting = device.queue.list(JobState.QUEUED)
    assert {job.id for job in waiting} >= {f"job{n:02}" for n in range(60)} - gone - {"job07"}
    assert "job07" not in {job.id for job in waiting}
    assert [job.request.priority for job in waiting] == sorted(
        (job.request.priority for job in waiting), reverse=True
    )
    assert "waiting jobs and 0 untold results were read from it" in device.queue.database.fact(SET_ASIDE)


def test_a_broken_page_above_others_hides_nothing(open_device):
    device = open_device()
    for number in range(60):
        device.queue.enqueue(request(f"job{number:02}", prompt="a red apple " * 30))
    for name in ("job03", "job50"):
        device.queue.cancel(name)
    device.queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    (root,) = device.queue.database.rows("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'")[0]
    device.close()
    data = bytearray(device.path.read_bytes())
    start = (root - 1) * 4096
    assert data[start] == 5, "the table's first page only points to others"
    data[start : start + 4096] = b"\xff" * 4096
    device.path.write_bytes(data)

    device = open_device()
    device.start()
    waiting = {job.id for job in device.queue.list(JobState.QUEUED)}
    assert waiting == {f"job{n:02}" for n in range(60)} - {"job03", "job50"}


def told(job: Job) -> tuple:
    return job.state, job.request.prompt, job.seed, job.seconds, job.picture


def test_pictures_that_tell_nonsense_are_indexed_all_the_same(open_device):
    device = open_device()
    device.gallery.folder.mkdir()
    Image.new("RGB", (8, 8)).save(device.gallery.folder / "20260101-000001-plain.png")
    (device.gallery.folder / "20260101-000002-junk.png").write_bytes(b"junk")
    save_picture(picture("x" * 10000, 1), device.gallery.folder / "20260101-000003-long.png")
    device.close()
    device.path.write_bytes(b"no database" * 100)
    device = open_device()
    assert device.start() == 0
    assert len(device.gallery.names()) == 3
    assert device.queue.database.fact(REINDEX_DUE) is None


def test_a_sound_database_restores_nothing(open_device):
    device = open_device()
    device.draw("a", "a red apple", 5)
    with device.queue.database.transaction() as db:
        db.execute("DELETE FROM jobs")  # forgotten by queue.keep_finished
    assert device.start() == 0
    assert device.queue.list() == []


@pytest.mark.parametrize("record", ['{"id": "a", "pro', '["a"]', '{"id": "b", "prompt": "x"}', '{"id": "a"}'])
def test_an_unreadable_record_fails_with_a_reason_and_the_next_job_runs(queue, record):
    queue.enqueue(request("a"))
    queue.enqueue(request("c"))
    with queue.database.transaction() as db:
        db.execute("UPDATE jobs SET request = ? WHERE id = 'a'", (record,))
    assert queue.claim().id == "c"
    job = queue.get("a")
    assert (job.state, job.code) == (JobState.FAILED, "damaged")
    assert job.request.prompt == "(its record was damaged)"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_bytes_flip_the_device_works_on(open_device, seed):
    """Either the damage is found and the file set aside, or the damaged rows alone fail, with a reason."""
    rng = random.Random(seed)
    device = open_device()
    for number in range(12):
        device.queue.enqueue(request(f"job{number:02}", prompt="a red apple " * 50))
    device.queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    device.close()
    data = bytearray(device.path.read_bytes())
    for _ in range(3):
        data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)
    device.path.write_bytes(data)

    device = open_device()
    device.start()
    for _ in range(40):
        try:
            while job := device.queue.claim():
                device.queue.finish(job, picture="p.png", seed=1, seconds=1.0)
            break
        except StorageError:
            continue  # damage met in use: set aside by now
    device.queue.enqueue(request("new"))
    assert device.queue.claim().id == "new"
    for job in device.queue.list():
        assert job.state in (JobState.DONE, JobState.RUNNING) or job.code == "damaged", job
