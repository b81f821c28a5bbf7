"""What a picture costs, told from few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgegen.errors import EngineError
from edgegen.pack import Pack
from quantize.calibrate import Recorder, Records
from quantize.evaluate import draw_with, graph_drift
from quantize.measure import Stopwatch, reckoned_seconds
from quantize.report.cost import measure_costs
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


def test_of_several_pictures_all_runs_count() -> None:
    unet = [9.0, 8.0, *[2.0] * 6]
    runs = {"text_encoder": [3.0, 0.2, 0.1, 0.3], "unet": unet, "vae_decoder": [5.0, 1.5]}
    found = reckoned_seconds(runs, steps=20, timed_steps=2, pictures=2)
    assert found == pytest.approx(2 * 0.1 + 20 * 2 * 2.0 + 1.5)


def test_pictures_of_another_process_are_the_same_and_a_warm_one_is_timed() -> None:
    words, told = ["a red apple", "blue cat"], list[int]()
    pictures, cost = draw_with(POCKET, words, 7, threads=1, advance=lambda: told.append(1))
    runner = Runner.of_pack(Pack.open(POCKET), 1)
    for i, (prompt, picture) in enumerate(zip(words, pictures, strict=True)):
        np.testing.assert_array_equal(picture, runner.picture(prompt, 7 + i))
    assert len(told) == 2
    assert cost.timed_steps == Pack.open(POCKET).manifest.defaults.steps
    assert 0 < cost.seconds < 600
    assert 50 < cost.peak_mb < 2000


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_are_timed_and_all_are_told(steps: int) -> None:
    assert Pack.open(POCKET).manifest.defaults.steps > 2
    (picture,), cost = draw_with(POCKET, ["a red apple"], 1, steps, threads=1)
    runner = Runner.of_pack(Pack.open(POCKET), 1)
    runner.recipe = replace(runner.recipe, steps=steps)
    np.testing.assert_array_equal(picture, runner.picture("a red apple", 1))
    assert cost.timed_steps == steps
    assert cost.seconds > 0


def test_a_pack_that_is_none_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)measuring .* failed: .*has no file pack\.json"):
        draw_with(tmp_path / "nothing", ["a red apple"], 1)


def test_a_graph_is_as_far_from_float_in_the_process_that_tells_its_cost(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 4, hold_out=False)
    runner = Runner.of_pack(Pack.open(POCKET), 1, recorder)
    runner.recipe = replace(runner.recipe, steps=3)
    runner.picture("a red apple", 1)
    records = {"unet": Records.of(tmp_path, "unet")}
    graph = {"unet": Pack.open(POCKET).graph("unet")}
    assert len(records["unet"]) >= 3
    found = measure_costs(graph, graph, records, rounds=2, threads=1)["unet"]
    assert found.drift.sqnr_db == 200, "the very graph that gave the references"
    assert len(found.drift.sqnr_db_by_timestep) == 3
    assert found.drift == graph_drift(graph["unet"], records["unet"])
    assert found.costs.pack.runs >= 2
