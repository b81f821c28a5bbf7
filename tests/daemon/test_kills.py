"""Engines and fronts that die in the middle of a job."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from edgegen.jobs.job import JobState
from tests.support import wait_for

from .device import (
    ENGINE,
    LIMITS,
    LONG,
    engine_pid,
    jobs_in,
    wait_until_all_are_final,
    watch_until,
)


def test_a_killed_engine_costs_an_attempt_and_no_job(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    running = watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    assert running["job"]["attempts"] == 1
    os.kill(engine_pid(appliance), signal.SIGKILL)
    (job,) = wait_until_all_are_final(appliance).values()
    assert (job.state, job.attempts) == (JobState.DONE, 2), appliance.log.read_text()
    assert "was killed (SIGKILL: out of memory?)" in appliance.log.read_text()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde"])
def test_a_killed_engines_job_goes_on_at_its_step_to_the_identical_picture(make_appliance, sampler):
    appliance = make_appliance(engine={**ENGINE, "checkpoint_s": 0.05}, limits=LIMITS)
    appliance.start(with_engine=True)
    wanted = {"steps": 100, "seed": 5, "sampler": sampler}
    kept = appliance.settings.node.data_dir / "checkpoints" / "a.checkpoint"
    steps: list[int] = []
    is_killed = False
    with appliance.shell() as shell:
        events = shell.watch()
        appliance.submit(id="a", **wanted)
        for event in events:
            if event["kind"] == "running":
                if event["job"]["attempts"] == 2:
                    break
                steps.append(event["step"])
                if event["step"] >= 30 and not is_killed:  # not every step of milliseconds is told
                    assert kept.exists()
                    os.kill(engine_pid(appliance), signal.SIGKILL)
                    is_killed = True
    assert 0 < event["step"] <= steps[-1] + 1, "the second attempt begins where the file says"
    appliance.submit(id="b", **wanted)
    jobs = wait_until_all_are_final(appliance)
    assert (jobs["a"].state, jobs["a"].attempts) == (JobState.DONE, 2), appliance.log.read_text()
    assert f"job a goes on at step {event['step']}" in appliance.log.read_text()
    pictures = [Image.open(appliance.settings.node.data_dir / "gallery" / jobs[k].picture) for k in "ab"]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert not kept.exists()


def test_a_job_that_always_kills_its_engine_fails(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, queue={"max_attempts": 1})
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    appliance.submit(id="b")
    os.kill(engine_pid(appliance), signal.SIGKILL)
    jobs = wait_until_all_are_final(appliance)
    assert (jobs["a"].state, jobs["a"].code) == (JobState.FAILED, "engine_died")
    assert jobs["a"].reason == "the engine was killed (SIGKILL: out of memory?) (attempt 1 of 1)"
    assert jobs["b"].state == JobState.DONE


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_in_the_middle_of_a_job_loses_nothing(make_appliance, with_signal):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    appliance.submit(id="b")
    pid = engine_pid(appliance)
    appliance.stop(with_signal)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    jobs = jobs_in(appliance)
    assert (jobs["a"].state, jobs["a"].attempts) == (JobState.QUEUED, 0), "given back, not blamed"
    appliance.start(with_engine=True)
    jobs = wait_until_all_are_final(appliance)
    assert {job.state for job in jobs.values()} == {JobState.DONE}, appliance.log.read_text()
    assert appliance.stop()[0] == 0
