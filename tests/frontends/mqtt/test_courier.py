"""From the durable outbox to the broker: one message at a time, in order, over crashes and full disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.frontends.mqtt.courier import Courier
from edgegen.frontends.mqtt.messages import Outgoing
from edgegen.jobs.job import Job, JobRequest, JobState
from edgegen.jobs.outbox import OutboxReader, ResultOutbox, outbox_counts
from edgegen.jobs.queue import JobQueue
from edgegen.settings import MqttSettings
from tests.support import wait_for


def render(job: Job, with_picture: bool) -> list[Outgoing]:
    parts = ["status", "image"] if with_picture and job.state == JobState.DONE else ["status"]
    return [Outgoing(f"{job.id}/{part}", b"x") for part in parts]


class Van:
    """A courier, its queue, and a broker played by the test."""

    def __init__(self, folder: Path):
        self.queue = JobQueue(folder / "edgegen.db", outbox=ResultOutbox(MqttSettings(enabled=True)))
        self.put: list[Outgoing] = []
        self.told: list[str] = []
        reader = OutboxReader(self.queue.database)
        self.courier = Courier(
            reader, render, self.put.append, lambda job: self.told.append(job.id), retry_s=0.05
        )

    def finish(self, job_id: str) -> Job:
        self.queue.enqueue(JobRequest(job_id, "a red apple"))
        self.queue.finish(self.queue.claim(), picture=f"{job_id}.png", seed=1, seconds=1.0)
        return self.queue.get(job_id)

    def acknowledge(self) -> str:
        """The broker has the newest message; returns its topic."""
        topic = self.put[-1].topic
        self.put[-1].on_sent()
        return topic

    def topics(self) -> list[str]:
        return [message.topic for message in self.put]

    def close(self) -> None:
        self.courier.close()
        self.queue.close()


@pytest.fixture
def make_van(tmp_path):
    vans: list[Van] = []

    def make() -> Van:
        vans.append(Van(tmp_path))
        return vans[-1]

    yield make
    for van in vans:
        van.close()


def test_one_message_at_a_time_and_the_row_goes_with_the_last(make_van):
    van = make_van()
    van.courier.start()
    van.courier.fetch(van.finish("a"))
    assert van.topics() == ["a/status"]
    van.acknowledge()
    assert van.topics() == ["a/status", "a/image"]
    assert outbox_counts(van.queue.database)["waiting"] == 1
    van.acknowledge()
    assert outbox_counts(van.queue.database)["waiting"] == 0
    assert van.told == ["a"]
    van.courier.fetch(van.queue.get("a"))  # told again after a restart: nothing more to say
    assert van.topics() == ["a/status", "a/image"]


def test_a_result_waits_until_its_end_was_announced(make_van):
    van = make_van()
    van.courier.start()
    job = van.finish("a")
    assert van.topics() == [], "steps before the end may still be on their way"
    van.courier.fetch(job)
    assert van.topics() == ["a/status"]


def test_of_many_pictures_only_the_newest_is_sent_but_every_status(make_van):
    van = make_van()
    for job_id in ("a", "b", "c"):
        van.finish(job_id)
    van.courier.start()
    assert van.courier.holds_picture()
    sent = [van.acknowledge() for _ in range(4)]
    assert sent == ["a/status", "b/status", "c/status", "c/image"]
    assert van.told == ["a", "b", "c"]
    assert not van.courier.holds_picture()


def test_a_crash_repeats_at_most_the_message_that_was_on_its_way(make_van):
    first = make_van()
    first.finish("a")
    first.courier.start()
    first.acknowledge()
    assert first.topics() == ["a/status", "a/image"]
    second = make_van()  # the first one is gone without a word
    second.courier.start()
    assert second.topics() == ["a/image"]
    second.acknowledge()
    third = make_van()
    third.courier.start()
    assert third.topics() == []


@pytest.mark.parametrize("what", ["UPDATE", "DELETE"])
def test_a_disk_that_refuses_holds_the_next_message_back(make_van, what, caplog):
    van = make_van()
    van.finish("a")
    van.finish("b")
    van.courier.start()
    with van.queue.database.transaction() as db:
        db.execute(f"CREATE TRIGGER full BEFORE {what} ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
    acknowledged = 0
    while len(van.put) > acknowledged:
        van.acknowledge()
        acknowledged += 1
    stuck_at = van.topics()
    assert stuck_at == (["a/status"] if what == "DELETE" else ["a/status", "b/status"])
    assert "results wait, tried again in 0.05 s" in caplog.text
    with van.queue.database.transaction() as db:
        db.execute("DROP TRIGGER full")
    wait_for(lambda: len(van.put) > acknowledged, "the next message after the disk has emptied")
    while outbox_counts(van.queue.database)["waiting"]:
        van.acknowledge()
    assert van.topics() == ["a/status", "b/status", "b/image"]


@pytest.mark.parametrize(
    "damage",
    [
        "'{' || job",
        "replace(job, 'prompt', 'pr/mpt')",
        'replace(job, \'"state": "done"\', \'"state": "dome"\')',
    ],
)
def test_a_flipped_bit_in_one_result_does_not_hold_up_the_others(make_van, damage):
    van = make_van()
    van.finish("a")
    van.finish("b")
    with van.queue.database.transaction() as db:
        db.execute(f"UPDATE outbox SET job = {damage} WHERE job_id = 'a'")
    van.courier.start()
    assert van.acknowledge() == "a/status"
    while van.topics()[-1] != "b/image":
        van.acknowledge()
    van.acknowledge()
    assert (van.told, outbox_counts(van.queue.database)["waiting"]) == (["a", "b"], 0)


def test_a_result_that_cannot_be_rendered_is_told_bare(make_van):
    van = make_van()
    van.queue.enqueue(JobRequest("a", "a red apple", correlation="no hexadecimal"))
    van.queue.finish(van.queue.claim(), picture="a.png", seed=1, seconds=1.0)

    def strict(job: Job, with_picture: bool) -> list[Outgoing]:
        bytes.fromhex(job.request.correlation or "")
        return render(job, with_picture)

    courier = Courier(OutboxReader(van.queue.database), strict, van.put.append, lambda job: None, 0.05)
    courier.start()
    assert van.acknowledge() == "a/status"
    assert outbox_counts(van.queue.database)["waiting"] == 0
    courier.close()
