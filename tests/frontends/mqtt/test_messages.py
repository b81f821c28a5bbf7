import json
from dataclasses import replace

import pytest

from edgegen.errors import BadRequest, Problem, QueueFull
from edgegen.frontends.mqtt import messages
from edgegen.frontends.mqtt.messages import Command, Outgoing
from edgegen.frontends.mqtt.topics import Topics
from edgegen.jobs.events import JobEvent
from edgegen.jobs.job import Job, JobRequest, JobState

TOPICS = Topics("edgegen", "shop")
REQUEST = JobRequest(id="a1", prompt="a red apple", transaction="t-9")
JOB = Job(REQUEST, JobState.QUEUED, created=1000.0)


def status(kind: str, job: Job = JOB, **event) -> dict:
    return messages.status_of(JobEvent(kind, job, **event), TOPICS)


def test_every_state_says_what_the_contract_says():
    assert status("queued", place=2, eta_s=12.3456) == {
        "id": "a1", "state": "queued", "transaction": "t-9", "place": 2, "eta_s": 12.35,
    }  # fmt: skip
    assert status("running", step=3, steps=8) == {
        "id": "a1", "state": "running", "transaction": "t-9", "step": 3, "steps": 8,
    }  # fmt: skip
    assert status("running", step=3, steps=8, note="paused: hot")["note"] == "paused: hot"
    done = replace(JOB, state=JobState.DONE, seconds=1.5, seed=7, picture="x-a1.png")
    assert status("done", done) == {
        "id": "a1", "state": "done", "transaction": "t-9", "image": "edgegen/shop/last/image",
        "file": "x-a1.png", "seed": 7, "seconds": 1.5,
    }  # fmt: skip
    failed = replace(JOB, state=JobState.FAILED, code="out_of_memory", reason="lower the size")
    assert status("failed", failed)["code"] == "out_of_memory"
    assert status("failed", failed)["reason"] == "lower the size"


def test_progress_is_qos_0_and_what_nothing_else_tells_is_qos_1():
    started = messages.status_messages(status("running", step=0, steps=2), TOPICS, None, None)
    assert [m.qos for m in started] == [1]
    running = messages.status_messages(status("running", step=1, steps=2), TOPICS, None, None)
    queued = messages.status_messages(status("queued", place=1), TOPICS, "edgegen/me", b"\x01")
    assert [m.qos for m in running] == [0]
    assert [(m.topic, m.qos, m.correlation) for m in queued] == [
        ("edgegen/shop/job/a1/status", 1, b"\x01"),
        ("edgegen/me", 1, b"\x01"),
    ]
    assert not any(m.retain for m in running + queued)


def test_a_rejection_lists_every_problem():
    error = BadRequest([Problem("steps", 900, "900 is more than 100"), Problem("seed", "x" * 999, "no")])
    told = messages.rejection(error, "a1", "t")
    assert told["code"] == "bad_request"
    assert told["transaction"] == "t"
    assert told["problems"][0] == {"field": "steps", "value": 900, "message": "900 is more than 100"}
    assert len(told["problems"][1]["value"]) == 200


def test_a_rejection_without_fields():
    told = messages.rejection(QueueFull("1000 jobs are waiting"), "a1")
    assert told == {"id": "a1", "state": "rejected", "code": "queue_full", "reason": "1000 jobs are waiting"}


@pytest.mark.parametrize("value", [float("inf"), 10**400, {"a": [1] * 500}, "\ud800", b"\xff" * 999])
def test_hostile_values_are_sent_back_as_valid_json(value):
    error = BadRequest([Problem("prompt", value, "wrong")])
    data = messages.to_json(messages.rejection(error, "a1"))
    assert len(data) < 1000
    assert json.loads(data, parse_constant=pytest.fail)["problems"][0]["field"] == "prompt"


def test_message_expiry_becomes_the_deadline_unless_an_earlier_one_is_asked():
    def deadline(asked: float | None, expiry_s: int | None) -> float | None:
        command = Command(b"", expiry_s=expiry_s)
        return messages.with_properties(replace(REQUEST, deadline=asked), command, TOPICS, 100.0).deadline

    assert deadline(None, None) is None
    assert deadline(None, 60) == 160.0
    assert deadline(130.0, 60) == 130.0
    assert deadline(500.0, 60) == 160.0


def test_reply_properties_are_kept_with_the_request_or_refused():
    command = Command(b"", response_topic="edgegen/me", correlation=b"\x00\xff")
    kept = messages.with_properties(REQUEST, command, TOPICS, 0.0)
    assert (kept.response_topic, kept.correlation) == ("edgegen/me", "00ff")
    with pytest.raises(BadRequest) as caught:
        messages.check_reply(Command(b"", response_topic="elsewhere", correlation=b"x" * 2000), TOPICS)
    assert [p.field for p in caught.value.problems] == ["Response Topic", "Correlation Data"]


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"words", "application/octet-stream"),
    ],
)
def test_picture_type_by_first_bytes(start, media_type):
    assert messages.picture_type(start) == media_type


def test_only_retained_and_progress_messages_replace_older_ones():
    assert Outgoing("t", b"", qos=1).slot is None
    assert Outgoing("t", b"", qos=1, retain=True).slot == "t"
    assert Outgoing("t", b"", qos=0).slot == "t"
