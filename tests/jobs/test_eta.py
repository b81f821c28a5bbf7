"""Guesses at the time a picture takes."""

from __future__ import annotations

from edgegen.jobs.eta import StepClock, mean_seconds
from edgegen.jobs.job import Job, JobState

from .conftest import request

JOB = Job(request("a"), JobState.RUNNING, created=0.0)


def test_the_pace_so_far_wins_over_the_mean():
    clock = StepClock(JOB)
    clock.note(0, 100.0)
    assert clock.remaining_s(4, None) is None
    assert clock.remaining_s(4, 20.0) == 20.0
    clock.note(1, 103.0)
    assert clock.remaining_s(4, 20.0) == 9.0
    clock.note(4, 110.0)
    assert clock.remaining_s(4, 20.0) == 0.0


def test_a_step_seen_first_in_the_middle():
    clock = StepClock(JOB)
    clock.note(2, 50.0)
    clock.note(3, 51.0)
    assert clock.remaining_s(5, None) == 2.0


def test_means():
    assert mean_seconds([]) is None
    assert mean_seconds([1.0, 3.0]) == 2.0
