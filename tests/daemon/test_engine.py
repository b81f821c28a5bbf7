"""A front with its engine: jobs become pictures, are cancelled, refused."""

from __future__ import annotations

import contextlib

import pytest
from PIL import Image

from edgegen.config.files import database_path
from edgegen.jobs.job import JobRequest, JobState
from edgegen.jobs.pace import read_pace
from edgegen.jobs.queue import JobQueue
from tests.support import PATIENCE_S, wait_for

from .device import (
    ENGINE,
    LIMITS,
    LONG,
    start_engine,
    wait_until_all_are_final,
    watch_until,
)


def test_three_jobs_become_three_pictures(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, mqtt={"image_format": "jpeg"})
    appliance.start(with_engine=True)
    for job_id in ("a", "b", "c"):
        appliance.submit(id=job_id, seed=5)
    done = wait_until_all_are_final(appliance)
    assert {job.state for job in done.values()} == {JobState.DONE}, appliance.log.read_text()
    gallery = appliance.settings.node.data_dir / "gallery"
    pixels = []
    for job in done.values():
        with Image.open(gallery / job.picture) as picture:
            assert picture.info["edgegen"]
            pixels.append(picture.tobytes())
    assert len(set(pixels)) == 1, "the same seed gives the same picture"
    assert [job.seed for job in done.values()] == [5, 5, 5]
    with contextlib.closing(JobQueue(database_path(appliance.settings.node))) as queue:
        assert {key.split("/")[2] for key in read_pace(queue.database)} == {
            *("text_encoder", "unet", "vae_decoder")
        }, "the device knows how fast it is"
    assert appliance.stop() == (0, "heavy: []\n"), appliance.log.read_text()


def test_cancelling_a_running_job(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    event = watch_until(appliance, "cancelled", "a", lambda: appliance.ask("cancel", id="a"))
    assert event["job"]["reason"] == "cancelled while it ran"
    appliance.submit(id="b")
    assert wait_until_all_are_final(appliance)["b"].state == JobState.DONE, "the engine lives on"


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        ({"pack": "tinny"}, "unknown_pack", "Did you mean 'tiny'?"),
        ({"width": 9}, "bad_request", "width: 9 is not allowed"),
    ],
)
def test_what_only_the_engine_can_refuse(make_appliance, asked, code, reason):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    appliance.submit(id="a", **asked)
    job = wait_until_all_are_final(appliance)["a"]
    assert (job.state, job.code) == (JobState.FAILED, code)
    assert reason in job.reason


def test_two_units_as_under_systemd(make_appliance):
    """The engine works without a front, is found by one that comes, and its death is noticed there."""
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    queue = JobQueue(database_path(appliance.settings.node))
    queue.enqueue(JobRequest("early", "a red apple"))
    engine = start_engine(appliance)
    wait_for(lambda: queue.get("early").state == JobState.DONE)
    appliance.start(with_engine=False)
    wait_for(lambda: appliance.ask("status")["engine"])
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    event = watch_until(appliance, "queued", "a", engine.kill)
    assert event["job"]["attempts"] == 1
    engine.wait()
    assert not appliance.ask("status")["engine"]
    engine = start_engine(appliance)
    assert wait_until_all_are_final(appliance)["a"].state == JobState.DONE
    second = start_engine(appliance)
    assert second.wait(PATIENCE_S) == 6
    assert "another engine works on this queue" in appliance.log.read_text()
    engine.terminate()
    assert engine.wait(PATIENCE_S) == 0
    queue.close()
