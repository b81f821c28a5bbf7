"""What the front makes of an engine's words and of its silence."""

from __future__ import annotations

import pytest

from edgegen.jobs.enginedesk import EngineDesk
from edgegen.jobs.enginelock import engine_lock
from edgegen.jobs.job import JobState
from edgegen.jobs.service import JobService
from edgegen.jobs.supervisor import Death

from .conftest import request


@pytest.fixture
def service(queue):
    return JobService(queue)


@pytest.fixture
def heard(service) -> list:
    events: list = []
    service.subscribe(events.append)
    return events


@pytest.fixture
def make_desk(service, tmp_path):
    def make(is_supervised: bool = False) -> EngineDesk:
        said: list = []
        return EngineDesk(
            service,
            tmp_path,
            is_supervised=is_supervised,
            note=said.append,
            wake=lambda: said.append("wake"),
        )

    return make


def kinds(events) -> list[str]:
    return [event.kind for event in events]


def test_steps_and_ends_become_events(make_desk, service, queue, heard):
    desk = make_desk()
    service.submit(request("a"))
    job = queue.claim()
    desk.hear({"type": "claimed", "id": "a"})
    desk.hear({"type": "step", "id": "a", "step": 1, "steps": 4})
    queue.finish(job, picture="p.png", seed=1, seconds=1.0)
    desk.hear({"type": "done", "id": "a"})
    assert kinds(heard) == ["queued", "running", "done"]


def test_a_pause_is_told_in_words(make_desk, service, queue, heard):
    desk = make_desk()
    service.submit(request("a"))
    queue.claim()
    desk.hear({"type": "step", "id": "a", "step": 1, "steps": 4, "note": "paused: hot" + "!" * 1000})
    desk.hear({"type": "step", "id": "a", "step": 2, "steps": 4, "note": 5})
    desk.hear({"type": "step", "id": "a", "step": 3, "steps": 4})
    notes = [event.note for event in heard[1:]]
    assert notes[0].startswith("paused: hot!")
    assert len(notes[0]) == 200
    assert notes[1:] == [None, None]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"type": "step"},
        {"type": "step", "id": 5, "step": 1, "steps": 4},
        {"type": "step", "id": "a", "step": 5, "steps": 4},
        {"type": "step", "id": "a", "step": -1, "steps": 4},
        {"type": "step", "id": "a", "step": "1", "steps": "4"},
        {"type": "done", "id": "a"},
        {"type": "sing"},
    ],
)
def test_what_an_engine_makes_up_changes_nothing(make_desk, service, queue, heard, nonsense):
    service.submit(request("a"))
    queue.claim()
    make_desk().hear(nonsense)
    assert kinds(heard) == ["queued"]
    assert queue.get("a").state == JobState.RUNNING


def test_a_lost_engine_is_buried_once_its_lock_is_free(make_desk, service, queue, heard, tmp_path):
    desk = make_desk()
    service.submit(request("a"))
    with engine_lock(tmp_path):
        queue.claim()
        desk.hear({"type": "disconnected"})
        desk.collect_orphans()
        assert queue.get("a").state == JobState.RUNNING, "only the connection was lost: it still works"
        assert desk.orphans_due
    desk.collect_orphans()
    assert not desk.orphans_due
    assert queue.get("a").state == JobState.QUEUED
    assert kinds(heard) == ["queued", "queued"]


def test_the_supervisor_knows_the_cause(make_desk, service, queue):
    desk = make_desk(is_supervised=True)
    service.submit(request("a"))
    for _ in range(2):
        queue.claim()
        desk.hear({"type": "disconnected"})
        assert not desk.orphans_due
        desk.bury(Death("was killed (SIGKILL: out of memory?)", is_blamed=True))
    job = queue.get("a")
    assert job.code == "engine_died"
    assert job.reason == "the engine was killed (SIGKILL: out of memory?) (attempt 2 of 2)"


def test_only_a_running_jobs_whole_jpeg_is_passed_on(make_desk, service, queue):
    desk, shown = make_desk(), []
    service.preview_listeners += [lambda job, jpeg: 1 / 0, lambda job, jpeg: shown.append((job.id, jpeg))]
    service.submit(request("a"))
    preview = {"type": "preview", "id": "a", "jpeg": "/9j/"}
    desk.hear(preview)
    assert shown == [], "it does not run yet"
    queue.claim()
    desk.hear({"type": "step", "id": "a", "step": 1, "steps": 4})
    for broken in (
        {"id": "b"},
        {"jpeg": "/9j"},
        {"jpeg": "anBlZw=="},
        {"jpeg": "/9j/" * 33_334},
        {"jpeg": 1},
    ):
        desk.hear({**preview, **broken})
    assert shown == []
    desk.hear(preview)
    assert shown == [("a", b"\xff\xd8\xff")]
