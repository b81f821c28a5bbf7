"""What a picture costs, told from few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgegen.pack import Pack
from quantize.evaluate import measure_cost
from quantize.measure import Stopwatch, reckoned_seconds
from quantize.runner import Runner

POCKET = Path(__file__).parents[2] / "edgegen/packs/pocket"


def test_only_warm_runs_count_for_the_steps_that_are_not_made():
    runs = {"text_encoder": [3.0, 0.1], "unet": [9.0, 8.0, 2.0, 2.2], "vae_decoder": [5.0, 1.5]}
    assert reckoned_seconds(runs, steps=20, timed_steps=2) == pytest.approx(2 * 0.1 + 20 * 2 * 2.1 + 1.5)


def test_a_sampler_with_two_runs_a_step_but_the_last_counts_as_it_runs():
    runs = {"text_encoder": [0.5], "unet": [9.0, 8.0, 2.0], "vae_decoder": [1.0, 1.0]}
    assert reckoned_seconds(runs, steps=20, timed_steps=2) == pytest.approx(0.5 + 20 * 1.5 * 2.0 + 1.0)


def test_a_stopwatch_sees_every_run_of_a_picture():
    watch = Stopwatch()
    runner = Runner.of_pack(Pack.open(POCKET), 1, watch)
    runner.recipe = replace(runner.recipe, steps=3, width=64, height=64)
    runner.picture("a red apple", 1)
    guided = 2 if runner.recipe.guidance != 1 else 1
    made = {role: len(seconds) for role, seconds in watch.runs.items()}
    assert made == {"text_encoder": guided, "unet": guided * runner.recipe.steps, "vae_decoder": 1}
    assert min(second for seconds in watch.runs.values() for second in seconds) > 0
    assert set(watch.feeds["vae_decoder"]) == {"latent_sample"}


def test_few_steps_are_timed_and_all_are_told():
    steps = Pack.open(POCKET).manifest.defaults.steps
    assert steps > 2
    whole, reckoned = (measure_cost(POCKET, "a red apple", 1, timed) for timed in (0, 1))
    assert (whole.timed_steps, reckoned.timed_steps) == (steps, 2)
    assert whole.seconds > 0
    assert reckoned.seconds > 0
