"""What is on the screen when: messages as the hub sends them, and a clock that the test turns."""

from __future__ import annotations

import base64

import pytest

from edgegen.frontends.display.plot import AWAY, AWAY_S, FAULT, QUICK_S, STARTING, Plot
from edgegen.frontends.display.scenes import Dark, Drawing, Failed, SafeMode, Showing, Waiting
from edgegen.settings import DisplaySettings

PICTURE = "20260101-000001-one.png"
OTHER = "20260101-000002-two.png"


def job(job_id="one", prompt="an owl", **more):
    return {"id": job_id, "prompt": prompt, **more}


def event(kind, asked=None, **more):
    return {"type": "event", "kind": kind, "job": asked or job(), **more}


def snapshot(running=None, newest=None, problems=()):
    return {"type": "snapshot", "running": running, "newest": newest, "problems": list(problems)}


def done(job_id="one", picture=PICTURE, prompt="an owl"):
    return event("done", job(job_id, prompt, picture=picture))


def plot(*messages, now=0.0, **settings):
    made = Plot(DisplaySettings(**settings), now)
    for message in messages:
        made.hear(message, now)
    return made


def test_waiting_until_there_is_something():
    made = plot()
    assert made.scene(0) == Waiting(STARTING)
    assert made.next_change(0) == AWAY_S
    assert made.scene(AWAY_S) == Waiting(AWAY)
    made.hear(snapshot(), 30)
    assert made.scene(30) == Waiting()
    assert made.next_change(30) is None


def test_the_newest_picture_stays():
    made = plot(snapshot(newest=job(picture=PICTURE)))
    assert made.scene(0) == Showing(PICTURE, "an owl")
    assert made.scene(1e6) == Showing(PICTURE, "an owl")
    made.hear(done("two", OTHER), 1e6)
    assert made.scene(1e6) == Showing(OTHER, "an owl")


def test_a_job_from_its_first_step_to_its_picture():
    made = plot(snapshot())
    made.hear(event("queued", place=1), 1)
    assert made.scene(1) == Waiting()
    made.hear(event("running", step=0, steps=20), 2)
    assert made.scene(2) == Drawing("an owl", 0, 20)
    made.hear(event("running", step=3, steps=20, eta_s=17.0), 3)
    made.hear({"type": "preview", "id": "one", "jpeg": base64.b64encode(b"jpeg").decode()}, 3)
    assert made.scene(3) == Drawing("an owl", 3, 20, 17.0, preview=b"jpeg")
    made.hear(event("running", step=3, steps=20, note="paused: hot"), 4)
    assert made.scene(4) == Drawing("an owl", 3, 20, note="paused: hot", preview=b"jpeg")
    made.hear(done(), 5)
    assert made.scene(5) == Showing(PICTURE, "an owl")


def test_a_quick_job_does_not_flicker_over_a_picture():
    made = plot(snapshot(newest=job(picture=PICTURE)))
    made.hear(event("running", job("two"), step=0, steps=4), 10)
    assert made.scene(10) == Showing(PICTURE, "an owl")
    assert made.next_change(10) == pytest.approx(QUICK_S)
    assert isinstance(made.scene(10 + QUICK_S), Drawing)


def test_a_job_that_was_running_already_is_drawn():
    assert plot(snapshot(running=job())).scene(0) == Drawing("an owl")


def test_a_failure_is_told_for_a_while():
    made = plot(snapshot(newest=job(picture=PICTURE)), failure_s=5)
    made.hear(event("failed", job("two", code="out_of_memory", reason="not enough\nmemory")), 10)
    assert made.scene(10) == Failed("an owl", "not enough memory")
    assert made.next_change(10) == 5
    assert made.scene(15) == Showing(PICTURE, "an owl")


@pytest.mark.parametrize("reason", ["unexpected ValueError: at 0x7f", "", None])
def test_a_fault_of_ours_is_no_matter_for_visitors(reason):
    made = plot(snapshot(), event("failed", job(code="internal", reason=reason)))
    assert made.scene(0) == Failed("an owl", FAULT)


def test_a_new_job_or_picture_ends_a_failure():
    failed = event("failed", job(code="x", reason="no"))
    made = plot(snapshot(), failed, event("running", job("two"), step=1, steps=2))
    assert made.scene(0) == Drawing("an owl", 1, 2)
    assert plot(snapshot(), failed, done("two")).scene(0) == Showing(PICTURE, "an owl")


@pytest.mark.parametrize("kind", ["cancelled", "queued"])
def test_a_job_that_ends_without_a_picture_or_goes_back_leaves_quietly(kind):
    made = plot(snapshot(), event("running", step=1, steps=2), event(kind))
    assert made.scene(0) == Waiting()


def test_a_picture_may_go_after_a_time():
    made = plot(snapshot(), done(), picture_s=60)
    assert made.next_change(0) == 60
    assert (made.scene(59.9), made.scene(60)) == (Showing(PICTURE, "an owl"), Waiting())


def test_dark_when_nobody_asks():
    made = plot(snapshot(newest=job(picture=PICTURE)), blank_after_s=100)
    assert made.next_change(0) == 100
    assert (made.scene(99), made.scene(100)) == (Showing(PICTURE, "an owl"), Dark())
    made.hear(event("running", job("two"), step=0, steps=9), 200)
    assert isinstance(made.scene(201), Drawing)
    assert isinstance(made.scene(900), Drawing), "a long job is no idle time"
    made.hear(done("two", OTHER), 900)
    assert made.scene(999) == Showing(OTHER, "an owl")
    assert made.scene(1000) == Dark()


def test_a_front_that_is_away_leaves_the_picture():
    made = plot(snapshot(newest=job(picture=PICTURE)), event("running", job("two"), step=1, steps=3))
    made.hear({"type": "away"}, 5)
    assert made.scene(100) == Showing(PICTURE, "an owl")
    made.hear(snapshot(newest=job(picture=PICTURE)), 200)
    assert made.scene(200) == Showing(PICTURE, "an owl")


def test_a_picture_that_was_done_while_the_front_was_away_is_shown():
    made = plot(snapshot(newest=job(picture=PICTURE)), blank_after_s=100)
    made.hear({"type": "away"}, 5)
    assert made.scene(200) == Dark()
    made.hear(snapshot(newest=job("two", "a cat", picture=OTHER)), 200)
    assert made.scene(200) == Showing(OTHER, "a cat")
    assert made.scene(300) == Dark()


def test_a_front_that_restarts_does_not_bring_a_picture_back_that_had_its_time():
    made = plot(snapshot(newest=job(picture=PICTURE)), picture_s=60, blank_after_s=100)
    made.hear({"type": "away"}, 61)
    made.hear(snapshot(newest=job(picture=PICTURE)), 62)
    assert made.scene(62) == Waiting()
    assert made.scene(101) == Dark(), "nobody asked for anything"


def test_safe_mode_comes_first():
    made = plot(snapshot(newest=job(picture=PICTURE), problems=["mqtt.port: 0"]))
    assert made.scene(0) == SafeMode(("mqtt.port: 0",))
    made.hear(snapshot(), 1)
    assert made.scene(1) == Showing(PICTURE, "an owl")


@pytest.mark.parametrize("name", ["../../etc/shadow", "/etc/shadow.png", "x.png", "", None, 7])
def test_only_the_gallerys_names_are_pictures(name):
    assert plot(snapshot(), done(picture=name)).scene(0) == Waiting()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "event"},
        {"type": "event", "kind": "running", "job": 1},
        {"type": "event", "kind": "running", "job": {"id": 7}},
        {"type": "preview", "id": "one", "jpeg": "jpeg"},
        {"type": "preview", "id": "one", "jpeg": None},
        {"type": "nonsense"},
    ],
)
def test_what_it_does_not_understand_changes_nothing(message):
    assert plot(snapshot(), message).scene(0) == Waiting()


@pytest.mark.parametrize("jpeg", ["not base64!", "A", "ü"])
def test_a_preview_that_is_none(jpeg):
    made = plot(snapshot(running=job()), {"type": "preview", "id": "one", "jpeg": jpeg})
    assert isinstance(made.scene(0), Drawing)


def test_a_picture_that_cannot_be_shown_is_given_up():
    made = plot(snapshot(), done())
    made.lose_picture()
    assert made.scene(0) == Waiting()
