"""The queue on a real file, as several processes see it."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest

from edgegen.errors import QueueFull, StorageError, UnknownJob
from edgegen.jobs.job import JobState
from edgegen.jobs.queue import JobQueue
from edgegen.settings import QueueSettings

from .conftest import request


def states(queue: JobQueue) -> dict[str, str]:
    return {job.id: job.state.value for job in queue.list()}


def test_a_job_lives_through_a_restart(queue, tmp_path):
    asked = request("a", seed=5, guidance=2.5, transaction="Ü", deadline=2e6)
    queue.enqueue(asked)
    queue.close()
    again = JobQueue(tmp_path / "edgegen.db")
    assert again.get("a").request == asked
    assert again.get("a").state == JobState.QUEUED


def test_enqueue_is_idempotent(queue):
    first = queue.enqueue(request("a"))
    second = queue.enqueue(request("a", prompt="something else"))
    assert (first.is_new, second.is_new) == (True, False)
    assert second.job == first.job


def test_a_full_queue_refuses_but_knows_its_own(queue):
    for number in range(5):
        queue.enqueue(request(f"{number}"))
    assert not queue.enqueue(request("0")).is_new
    with pytest.raises(QueueFull, match=r"5 jobs are waiting and queue\.max_jobs is 5"):
        queue.enqueue(request("more"))


def test_priority_then_age_even_when_the_clock_goes_back(queue, clock):
    for job_id, priority in (("old", 0), ("urgent", 5), ("new", 0), ("low", -1)):
        clock.seconds -= 1000
        queue.enqueue(request(job_id, priority=priority))
    assert [queue.place(job_id) for job_id in ("old", "urgent", "new", "low")] == [2, 1, 3, 4]
    assert [job.id for job in queue.list(JobState.QUEUED)] == ["urgent", "old", "new", "low"]
    assert [queue.claim().id for _ in range(4)] == ["urgent", "old", "new", "low"]
    assert queue.claim() is None
    assert queue.place("old") is None


def test_claim_counts_the_attempt_and_finish_ends_it(queue, clock):
    queue.enqueue(request("a"))
    job = queue.claim()
    assert (job.state, job.attempts, job.started) == (JobState.RUNNING, 1, clock.seconds)
    assert queue.finish(job, picture="p.png", seed=7, seconds=1.5)
    done = queue.get("a")
    assert (done.state, done.picture, done.seed, done.seconds) == (JobState.DONE, "p.png", 7, 1.5)
    assert not queue.fail(job, "late", "a second ending changes nothing")
    assert queue.get("a") == done


def test_jobs_past_their_deadline_expire(queue, clock):
    queue.enqueue(request("late", deadline=clock.seconds + 10))
    queue.enqueue(request("in-time", deadline=clock.seconds + 100))
    clock.seconds += 50
    assert queue.claim().id == "in-time"
    late = queue.get("late")
    assert (late.state, late.code) == (JobState.FAILED, "expired")
    assert "deadline" in late.reason


def test_cancel(queue):
    queue.enqueue(request("a"))
    queue.enqueue(request("b"))
    running = queue.claim()
    assert not queue.is_cancel_asked(running)
    assert queue.cancel("a").state == JobState.RUNNING
    assert queue.is_cancel_asked(running)
    assert queue.end_cancelled(running)
    assert queue.cancel("b").state == JobState.CANCELLED
    assert queue.cancel("a").state == JobState.CANCELLED
    with pytest.raises(UnknownJob, match="'c'"):
        queue.cancel("c")


def test_orphans_return_then_fail(queue):
    queue.enqueue(request("a"))
    queue.enqueue(request("b"))
    first = queue.claim()
    assert [job.state for job in queue.requeue_orphans("killed (out of memory?)")] == [JobState.QUEUED]
    assert not queue.finish(first, picture="x", seed=1, seconds=1), "a dead engine's claim is void"
    assert queue.is_cancel_asked(first)
    assert queue.claim().id == "a", "it keeps its place"
    (failed,) = queue.requeue_orphans("killed (out of memory?)")
    assert (failed.state, failed.code, failed.attempts) == (JobState.FAILED, "engine_died", 2)
    assert failed.reason == "killed (out of memory?) (attempt 2 of 2)"
    assert queue.requeue_orphans() == []


def test_an_attempt_that_is_not_the_jobs_fault_does_not_count(queue):
    queue.enqueue(request("a"))
    for _ in range(3):
        queue.claim()
        (orphan,) = queue.requeue_orphans("was stopped", is_blamed=False)
        assert (orphan.state, orphan.attempts) == (JobState.QUEUED, 0)


def test_an_orphan_that_was_cancelled_is_not_run_again(queue):
    queue.enqueue(request("a"))
    queue.claim()
    queue.cancel("a")
    assert [job.state for job in queue.requeue_orphans()] == [JobState.CANCELLED]


def test_a_released_job_has_its_attempt_back(queue):
    queue.enqueue(request("a"))
    assert queue.release(queue.claim())
    assert (queue.get("a").state, queue.get("a").attempts) == (JobState.QUEUED, 0)


def test_trim_forgets_the_oldest_finished(queue):
    for number in range(5):
        queue.enqueue(request(f"{number}"))
        if number:
            queue.cancel(f"{number}")
    assert queue.trim() == 2
    assert states(queue) == {"0": "queued", "4": "cancelled", "3": "cancelled"}
    assert queue.trim() == 0
    assert queue.counts()[JobState.CANCELLED] == 2


def test_finished_jobs_are_announced_once(queue):
    queue.enqueue(request("a"))
    queue.cancel("a")
    assert [job.id for job in queue.unannounced()] == ["a"]
    assert queue.mark_announced("a")
    assert not queue.mark_announced("a")
    assert queue.unannounced() == []


def _claim_all(path: Path, found: multiprocessing.Queue) -> None:
    queue = JobQueue(path)
    while job := queue.claim():
        found.put(job.id)
        queue.finish(job, picture="p.png", seed=1, seconds=0.1)


def test_processes_and_threads_share_the_file(tmp_path):
    path = tmp_path / "edgegen.db"
    queue = JobQueue(path)
    names = [f"{thread}-{number}" for thread in range(4) for number in range(8)]

    def add(thread: int) -> None:
        for number in range(8):
            queue.enqueue(request(f"{thread}-{number}"))

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [context.Process(target=_claim_all, args=(path, found)) for _ in range(2)]
    for process in processes:
        process.start()
    claimed = sorted(found.get(timeout=120) for _ in names)
    for process in processes:
        process.join(120)
    assert claimed == sorted(names), "every job is claimed exactly once"
    assert queue.counts()[JobState.DONE] == len(names)


def test_a_damaged_file_is_set_aside(tmp_path, clock):
    path = tmp_path / "edgegen.db"
    for _ in range(2):  # at the same second by a clock that stands still
        path.write_bytes(b"this is no database, whatever it says" * 100)
        queue = JobQueue(path, now=clock)
        assert queue.list() == []
        queue.enqueue(request("a"))
        assert "damaged-19700112T134640Z" in queue.database.notices[0]
        queue.close()
    aside = sorted(p.name for p in tmp_path.iterdir() if "damaged" in p.name)
    assert aside == ["edgegen.db.damaged-19700112T134640Z", "edgegen.db.damaged-19700112T134640Z-2"]


def test_damage_while_in_use_is_reported_and_mended(tmp_path):
    path = tmp_path / "edgegen.db"
    queue = JobQueue(path)
    for number in range(200):
        queue.enqueue(request(f"{number}", prompt="x" * 500))
    queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    other = JobQueue(path)  # a second process would see the damage when it opens the file
    assert other.database.notices
    queue.enqueue(request("new"))
    assert [job.id for job in other.list()] == ["new"], "the first one moves over to the new file"


def test_a_newer_schema_is_left_alone(tmp_path):
    path = tmp_path / "edgegen.db"
    JobQueue(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="schema 99; this one knows 1 to"):
        JobQueue(path)
    assert path.exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        JobQueue(tmp_path / "file" / "edgegen.db")


def test_a_full_disk_is_a_storage_error(tmp_path):
    queue = JobQueue(tmp_path / "edgegen.db", QueueSettings())
    pages = queue.database.rows("PRAGMA page_count")[0][0]
    queue.database.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full"):
        for number in range(1000):
            queue.enqueue(request(f"{number}", prompt="x" * 900))
    kept = len(queue.list(limit=1000))
    assert queue.counts()[JobState.QUEUED] == kept
