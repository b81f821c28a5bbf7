"""The worker's loop over a real queue and gallery, with a painter that does what a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest
from PIL import Image

from edgegen.errors import EngineError, OutOfMemory, StorageError
from edgegen.jobs.checkpoints import Checkpoints
from edgegen.jobs.gallery import Gallery
from edgegen.jobs.guards import Guard, Health
from edgegen.jobs.job import JobRequest, JobState
from edgegen.jobs.renderer import Drawing, Step
from edgegen.jobs.wakeup import StopRequest, Wakeup
from edgegen.jobs.worker import publish_copier
from edgegen.jobs.workloop import Worker
from edgegen.settings import GuardSettings, MqttSettings
from tests.support import small_disk, wait_for

from .conftest import request


class Painter:
    """A renderer of one colour; `on_step` is where tests interfere."""

    def __init__(self) -> None:
        self.on_step: Callable[[JobRequest, int], object] = lambda request, step: None
        self.unloads = 0
        self.look: Callable[[], bytes | None] | None = None

    def draw(self, request: JobRequest, saved: bytes | None = None) -> Generator[Step | Drawing, None, None]:
        steps = request.steps or 3
        first = int(saved.decode()) if saved else 0
        for step in range(first, steps + 1):
            yield Step(step, steps, (lambda done=step: b"%d" % done) if step > first else None, self.look)
            self.on_step(request, step)
        yield Drawing(lambda path: Image.new("RGB", (16, 16), "red").save(path), seed=request.seed or 42)

    def unload(self) -> None:
        self.unloads += 1


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def said() -> list:
    return []


@pytest.fixture
def make_worker(queue, tmp_path, painter, said):
    def make(**options) -> Worker:
        wakeup = Wakeup()
        return Worker(
            queue,
            Gallery(tmp_path / "gallery", queue.database),
            painter,
            send=said.append,
            wakeup=wakeup,
            stop=StopRequest(wakeup),
            **{"poll_s": 0.05, **options},
        )

    return make


@pytest.fixture
def run(make_worker, queue):
    """Run a worker in a thread until its queue is empty, then stop it."""

    def run(**options) -> None:
        worker = make_worker(**options)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            wait_for(lambda: not queue.list(JobState.QUEUED, JobState.RUNNING))
        finally:
            worker._stop.ask()
            thread.join()

    return run


def test_a_job_becomes_a_picture(run, queue, said, tmp_path):
    queue.enqueue(request("a", seed=7, steps=2))
    run(make_publish_copy=publish_copier(MqttSettings(image_format="jpeg"), queue.database))
    job = queue.get("a")
    assert (job.state, job.seed, job.attempts) == (JobState.DONE, 7, 1)
    assert (tmp_path / "gallery" / job.picture).exists()
    assert next((tmp_path / "gallery" / ".publish").iterdir()).suffix == ".jpg"
    assert said[:5] == [
        {"type": "claimed", "id": "a"},
        {"type": "step", "id": "a", "step": 0, "steps": 2},
        {"type": "step", "id": "a", "step": 1, "steps": 2},
        {"type": "step", "id": "a", "step": 2, "steps": 2},
        {"type": "done", "id": "a"},
    ]
    assert said[5:] in ([], [{"type": "idle"}])


def test_steps_of_milliseconds_are_made_rather_than_told(run, queue, said):
    queue.enqueue(request("a", steps=30))
    run(quick_s=60.0)
    assert [message["step"] for message in said if message["type"] == "step"] == [0, 1, 30]
    assert queue.get("a").state == JobState.DONE


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            EngineError("the graph unet failed: bad shape"),
            "engine_failed",
            "the graph unet failed: bad shape",
        ),
        (StorageError("disk full"), "storage", "disk full"),
        (OutOfMemory("512x512 needs 2 GB: lower it"), "out_of_memory", "512x512 needs 2 GB: lower it"),
        (MemoryError(), "out_of_memory", "there was not enough memory: lower width and height"),
        (ValueError("x" * 500), "internal", f"unexpected ValueError: {'x' * 200}"),
        (RecursionError("a\nb"), "internal", "unexpected RecursionError: a b"),
    ],
)
def test_no_failure_ends_the_worker(run, queue, painter, error, code, reason):
    def fail(request, step):
        if request.id == "bad" and step == 1:
            raise error

    painter.on_step = fail
    queue.enqueue(request("bad"))
    queue.enqueue(request("good"))
    run()
    bad = queue.get("bad")
    assert (bad.state, bad.code, bad.reason) == (JobState.FAILED, code, reason)
    assert queue.get("good").state == JobState.DONE
    assert painter.unloads == (code == "out_of_memory")


def test_a_full_disk_fails_the_job_with_a_reason_and_the_next_one_works(run, queue, tmp_path):
    with small_disk(tmp_path / "gallery", 1) as folder:
        (folder / "hog").write_bytes(b"x" * 1024 * 1024)
        queue.enqueue(request("full"))
        run()
        (folder / "hog").unlink()
        queue.enqueue(request("room"))
        run()
        full = queue.get("full")
        assert (full.state, full.code) == (JobState.FAILED, "disk_full")
        assert full.reason.endswith("the disk is full: free some space, or set gallery.make_room")
        assert queue.get("room").state == JobState.DONE
        assert [p.name for p in folder.iterdir()] == [queue.get("room").picture]


def test_cancel_is_honoured_within_a_step(run, queue, painter, said):
    painter.on_step = lambda request, step: step == 2 and queue.cancel("a")
    queue.enqueue(request("a", steps=50))
    run()
    assert queue.get("a").state == JobState.CANCELLED
    assert [message["step"] for message in said if message["type"] == "step"] == [0, 1, 2, 3]


def test_stopping_gives_the_job_back(make_worker, queue, painter, said):
    worker = make_worker()
    painter.on_step = lambda request, step: worker._stop.ask()
    queue.enqueue(request("a"))
    worker.run()
    assert (queue.get("a").state, queue.get("a").attempts) == (JobState.QUEUED, 0)
    assert said[-1] == {"type": "released", "id": "a"}


def test_a_job_taken_away_is_not_finished(run, queue, painter, said):
    def lose(request, step):
        if step == 3:
            queue.requeue_orphans()
            queue.cancel("a")

    painter.on_step = lose
    queue.enqueue(request("a"))
    run()
    assert queue.get("a").state == JobState.CANCELLED


def test_a_picture_that_cannot_be_published_is_still_done(run, queue, caplog):
    def refuse(path):
        raise StorageError("too large")

    queue.enqueue(request("a"))
    run(make_publish_copy=refuse)
    assert queue.get("a").state == JobState.DONE
    assert "cannot be published: too large" in caplog.text


def test_idle_graphs_are_unloaded(make_worker, painter):
    worker = make_worker(idle_unload_s=0.02)
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: painter.unloads)
    worker._stop.ask()
    thread.join()


def test_the_end_of_a_job_waits_for_a_disk_with_space(make_worker, queue, caplog, monkeypatch):
    monkeypatch.setattr("edgegen.jobs.workloop.RETRY_S", 0.05)
    worker = make_worker()
    queue.enqueue(request("a"))
    settled: list[int] = []
    original = queue.finish

    def finish(*args, **options):
        settled.append(1)
        if len(settled) < 3:
            raise StorageError("disk full")
        return original(*args, **options)

    monkeypatch.setattr(queue, "finish", finish)
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: queue.get("a").state == JobState.DONE)
    worker._stop.ask()
    thread.join()
    assert caplog.text.count("is not stored yet: disk full") == 2


def test_a_hot_engine_rests_between_two_steps_and_says_so(run, queue, said):
    celsius = [40.0, 95.0, 92.0, 60.0]
    clock = iter(range(0, 10_000, 10))  # each look is due
    guard = Guard(
        GuardSettings(hot_c=90),
        wait=lambda seconds: None,
        read=lambda: Health(celsius.pop(0) if celsius else 60.0, None),
        monotonic=lambda: next(clock),
    )
    queue.enqueue(request("a", steps=3))
    run(guard=guard)
    assert queue.get("a").state == JobState.DONE
    notes = [(message["step"], message["note"][:24]) for message in said if "note" in message]
    assert notes == [(1, "paused: the CPU has 95 °C"[:24]), (1, "paused: the CPU has 92 °C"[:24])]


def test_a_paused_job_can_be_cancelled(run, queue):
    def wait(seconds: float) -> None:
        queue.cancel("a")

    queue.enqueue(request("a", steps=3))
    run(guard=Guard(GuardSettings(hot_c=90), wait, read=lambda: Health(99.0, None)))
    assert queue.get("a").state == JobState.CANCELLED


def test_a_job_given_back_goes_on_where_it_was(make_worker, queue, painter, said, tmp_path):
    worker = make_worker(checkpoints=Checkpoints(tmp_path / "kept", 3600))
    painter.on_step = lambda request, step: step == 1 and worker._stop.ask()
    queue.enqueue(request("a", steps=5))
    worker.run()
    assert (tmp_path / "kept" / "a.checkpoint").read_bytes() == b"2"
    said.clear()
    painter.on_step = lambda request, step: step == 5 and worker._stop.ask()
    worker = make_worker(checkpoints=Checkpoints(tmp_path / "kept", 3600))
    worker.run()
    assert queue.get("a").state == JobState.DONE
    assert [message["step"] for message in said if message["type"] == "step"] == [2, 3, 4, 5]
    assert list((tmp_path / "kept").iterdir()) == [], "removed when the job ends"


def test_a_cancelled_job_leaves_no_checkpoint(run, queue, painter, tmp_path):
    painter.on_step = lambda request, step: step == 2 and queue.cancel("a")
    queue.enqueue(request("a", steps=50))
    run(checkpoints=Checkpoints(tmp_path / "kept", 1e-9))
    assert queue.get("a").state == JobState.CANCELLED
    assert list((tmp_path / "kept").iterdir()) == []


def test_previews_go_at_most_once_a_second_and_only_when_wanted(run, queue, painter, said, monkeypatch):
    painter.look = lambda: b"jpeg"
    queue.enqueue(request("off", steps=5))
    run()
    assert [message for message in said if message["type"] == "preview"] == []
    queue.enqueue(request("on", steps=5))
    run(previews=True)
    preview = {"type": "preview", "id": "on", "jpeg": "anBlZw=="}
    assert [message for message in said if message["type"] == "preview"] == [preview]
    monkeypatch.setattr("edgegen.jobs.workloop.PREVIEW_S", 0.0)
    painter.look = lambda: None
    queue.enqueue(request("none", steps=5))
    run(previews=True)
    painter.look = lambda: b"x"
    queue.enqueue(request("all", steps=5))
    run(previews=True)
    assert [m["id"] for m in said if m["type"] == "preview"] == ["on", *["all"] * 6]
