"""The durable outbox: written with the job's end, bounded, and read back in order."""

from __future__ import annotations

import pytest

from edgegen.errors import StorageError
from edgegen.jobs.job import JobState
from edgegen.jobs.outbox import OutboxReader, ResultOutbox, outbox_counts, result_outbox
from edgegen.jobs.queue import JobQueue
from edgegen.settings import MqttSettings, QueueSettings

from .conftest import request

DAY_S = 86_400
IN_2026 = 1_780_000_000.0


@pytest.fixture
def make_queue(tmp_path, clock):
    queues = []

    def make(max_attempts: int = 1, **mqtt) -> JobQueue:
        outbox = ResultOutbox(MqttSettings(**mqtt), clock)
        settings = QueueSettings(keep_finished=0, max_attempts=max_attempts)
        queues.append(JobQueue(tmp_path / "edgegen.db", settings, clock, outbox))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()


def waiting(queue: JobQueue) -> list[tuple[str, str]]:
    return [(row["job_id"], row["state"]) for row in queue.database.rows("SELECT * FROM outbox ORDER BY seq")]


def end_some(queue: JobQueue, *ids: str) -> None:
    for job_id in ids:
        queue.enqueue(request(job_id))
        queue.cancel(job_id)


def test_every_end_of_a_job_is_posted_in_order(make_queue, clock):
    queue = make_queue()
    for job_id in ("done", "failed", "stopped", "orphan"):
        queue.enqueue(request(job_id))
    queue.finish(queue.claim(), picture="p.png", seed=1, seconds=2.0)
    queue.fail(queue.claim(), "engine_failed", "no luck")
    queue.end_cancelled(queue.claim())
    queue.claim()
    queue.requeue_orphans("killed")
    queue.enqueue(request("waited"))
    queue.cancel("waited")
    queue.cancel("waited")
    queue.enqueue(request("late", deadline=clock.seconds - 1))
    assert queue.claim() is None
    assert waiting(queue) == [
        ("done", "done"),
        ("failed", "failed"),
        ("stopped", "cancelled"),
        ("orphan", "failed"),
        ("waited", "cancelled"),
        ("late", "failed"),
    ]


def test_what_does_not_end_a_job_posts_nothing(make_queue):
    queue = make_queue(max_attempts=3)
    queue.enqueue(request("a"))
    stale = queue.claim()
    queue.requeue_orphans("killed")
    queue.release(queue.claim())
    assert not queue.finish(stale, picture="p.png", seed=1, seconds=2.0)
    assert waiting(queue) == []


def test_the_end_and_its_row_come_together_or_not_at_all(make_queue):
    queue = make_queue()
    queue.enqueue(request("a"))
    job = queue.claim()
    with queue.database.transaction() as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(StorageError):
        queue.finish(job, picture="p.png", seed=1, seconds=2.0)
    assert queue.get("a").state == JobState.RUNNING
    with queue.database.transaction() as db:
        db.execute("DROP TRIGGER full")
    assert queue.finish(job, picture="p.png", seed=1, seconds=2.0)
    assert waiting(queue) == [("a", "done")]


def test_a_row_outlives_its_job_and_tells_all_of_it(make_queue):
    queue = make_queue()
    queue.enqueue(request("a", prompt="ein Apfel", response_topic="edgegen/answers", correlation="00ff"))
    queue.finish(queue.claim(), picture="p.png", seed=7, seconds=2.0)
    job = queue.get("a")
    assert queue.trim() == 1
    reader = OutboxReader(queue.database)
    due = reader.first(reader.last_seq())
    assert (due.job, due.sent, due.is_newest_picture) == (job, 0, True)


def test_beyond_the_count_the_oldest_go_loudly(make_queue, caplog):
    queue = make_queue(outbox_max=2)
    end_some(queue, "a", "b", "c", "d")
    assert [job_id for job_id, _ in waiting(queue)] == ["c", "d"]
    assert "the outbox is full: the broker will not hear of 1 finished jobs: a" in caplog.text
    assert outbox_counts(queue.database) == {"waiting": 2, "dropped": 2}


def test_beyond_the_age_they_go_too(make_queue, clock, caplog):
    queue = make_queue(outbox_days=2)
    clock.seconds = IN_2026
    end_some(queue, "a")
    clock.seconds += 1.5 * DAY_S
    end_some(queue, "b")
    clock.seconds += DAY_S
    end_some(queue, "c")
    assert [job_id for job_id, _ in waiting(queue)] == ["b", "c"]
    assert "too old: the broker will not hear of 1 finished jobs: a" in caplog.text


def test_a_clock_that_was_not_set_ages_nothing(make_queue, clock):
    queue = make_queue(outbox_days=2)
    end_some(queue, "a")  # in 1970, as a Pi without a network has it
    clock.seconds = IN_2026
    end_some(queue, "b")
    clock.seconds = 0.0
    end_some(queue, "c")
    assert [job_id for job_id, _ in waiting(queue)] == ["a", "b", "c"]


def test_nothing_is_posted_where_mqtt_is_off(queue):
    assert result_outbox(MqttSettings()) is None
    assert isinstance(result_outbox(MqttSettings(enabled=True)), ResultOutbox)
    end_some(queue, "a")
    assert waiting(queue) == []
