"""What front ends see: events in order, whoever caused them."""

from __future__ import annotations

import threading

import pytest

from edgegen.errors import QueueFull, StorageError, UnknownJob
from edgegen.jobs.job import Job, JobState
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.service import JobService, new_job_id

from .conftest import Clock, request


@pytest.fixture
def monotonic() -> Clock:
    return Clock(0.0)


@pytest.fixture
def service(queue, monotonic) -> JobService:
    return JobService(queue, monotonic=monotonic)


@pytest.fixture
def heard(service) -> list:
    events: list = []
    service.subscribe(events.append)
    return events


def kinds(events) -> list[tuple[str, str]]:
    return [(event.kind, event.job.id) for event in events]


def test_submit_commits_then_announces(service, heard, queue, tmp_path):
    seen = []
    service.subscribe(lambda event: seen.append(JobQueue(tmp_path / "edgegen.db").get(event.job.id).state))
    job = service.submit(request("a"))
    assert job.state == JobState.QUEUED
    assert kinds(heard) == [("queued", "a")]
    assert heard[0].place == 1
    assert seen == [JobState.QUEUED]


def test_a_redelivered_job_announces_nothing(service, heard):
    assert service.submit(request("a")) == service.submit(request("a"))
    assert len(heard) == 1


def test_jobs_that_come_together_are_committed_together(service, heard, queue):
    service.submit(request("known"))
    heard.clear()
    answers = service.submit_all([request(name) for name in ("a", "known", "b", "a", "c", "d", "full", "b")])
    told = [answer.id if isinstance(answer, Job) else answer.code for answer in answers]
    assert told == ["a", "known", "b", "a", "c", "d", "queue_full", "b"]
    assert kinds(heard) == [("queued", name) for name in "abcd"]
    assert [event.place for event in heard] == [2, 3, 4, 5]
    assert service.submit_all([]) == []


def test_when_they_cannot_be_written_none_of_them_exists(service, heard, queue, monkeypatch):
    real = queue._enqueue
    monkeypatch.setattr(
        queue, "_enqueue", lambda db, asked, *more: _fail_at(asked, "b") or real(db, asked, *more)
    )
    with pytest.raises(StorageError):
        service.submit_all([request(name) for name in "abc"])
    assert queue.list() == heard == []


def _fail_at(asked, name):
    if asked.id == name:
        raise StorageError("the disk is full")


def test_a_refused_job_announces_nothing(service, heard):
    for number in range(5):
        service.submit(request(f"{number}"))
    with pytest.raises(QueueFull):
        service.submit(request("more"))
    assert len(heard) == 5


def test_a_listener_that_raises_harms_nobody(service, caplog):
    later = []

    def broken(event):
        raise ValueError("broken listener")

    service.subscribe(broken)
    service.subscribe(later.append)
    service.submit(request("a"))
    assert kinds(later) == [("queued", "a")]
    assert "a listener failed on queued of job a" in caplog.text


def test_unsubscribe(service):
    heard = []
    stop = service.subscribe(heard.append)
    stop()
    stop()
    service.submit(request("a"))
    assert heard == []


def test_steps_of_the_running_job_with_eta(service, heard, queue, monotonic):
    service.submit(request("a"))
    service.report_step("a", 0, 4)  # waits: the queue knows better
    queue.claim()
    service.report_step("a", 0, 4)
    monotonic.seconds = 3.0
    service.report_step("a", 1, 4)
    running = [event for event in heard if event.kind == "running"]
    assert [(e.step, e.steps, e.eta_s) for e in running] == [(0, 4, None), (1, 4, 9.0)]
    assert service.status()["running"] == {"id": "a", "step": 1}


def test_whoever_finished_a_job_it_is_told_once(service, heard, queue):
    service.submit(request("a"))
    service.submit(request("b"))
    queue.finish(queue.claim(), picture="p.png", seed=1, seconds=2.0)
    service.announce_finished()
    service.announce_finished()
    service.cancel("b")
    assert kinds(heard) == [("queued", "a"), ("queued", "b"), ("done", "a"), ("cancelled", "b")]
    assert JobService(queue)._queue.unannounced() == []


def test_a_job_finished_while_the_front_was_away_is_told_after_its_restart(queue):
    queue.enqueue(request("a"))
    queue.fail(queue.claim(), "engine_failed", "no luck")
    heard: list = []
    service = JobService(queue)
    service.subscribe(heard.append)
    service.announce_finished()
    assert kinds(heard) == [("failed", "a")]


def test_orphans_are_announced(service, heard, queue):
    service.submit(request("a"))
    queue.claim()
    service.recover_orphans("killed")
    queue.claim()
    service.recover_orphans("killed")
    assert kinds(heard) == [("queued", "a"), ("queued", "a"), ("failed", "a")]


def test_eta_comes_from_recent_jobs(service, queue):
    service.submit(request("a"))
    assert service.eta_s("a") is None
    queue.finish(queue.claim(), picture="p.png", seed=1, seconds=4.0)
    service.announce_finished()
    service.submit(request("b"))
    service.submit(request("c"))
    assert (service.eta_s("b"), service.eta_s("c")) == (4.0, 8.0)


def test_unknown_jobs(service):
    for call in (service.job, service.cancel):
        with pytest.raises(UnknownJob):
            call("nobody")


def test_events_keep_their_order_between_threads(service):
    heard: list = []
    service.subscribe(heard.append)

    def work(thread: int) -> None:
        job = service.submit(request(f"{thread}"))
        service.cancel(job.id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(5):
        mine = [event.kind for event in heard if event.job.id == f"{number}"]
        assert mine == ["queued", "cancelled"]


def test_a_listener_may_call_back(service):
    heard: list = []

    def greedy(event):
        heard.append((event.kind, event.job.id))
        if event.kind == "queued":
            service.cancel(event.job.id)

    service.subscribe(greedy)
    service.submit(request("a"))
    assert heard == [("queued", "a"), ("cancelled", "a")]


def test_ids_differ():
    assert len({new_job_id() for _ in range(100)}) == 100
