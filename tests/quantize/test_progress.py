"""One overall progress, and what a build can afford."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgegen.diffusion.schedules import NoiseSchedule
from quantize.plan import make_plan, reckon
from quantize.progress import Progress, minutes
from quantize.runner import Recipe


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_left_follows_from_the_speed_so_far(clock: Clock):
    progress = Progress("quiet", clock=clock)
    progress.expect([("a", 10), ("b", 30)])
    assert progress.remaining_s is None
    progress.begin("a")
    clock.now = 20
    progress.finish()
    assert progress.fraction == 0.25
    assert progress.remaining_s == 60
    progress.begin("b")
    progress.advance(0.5)
    clock.now = 50
    assert progress.remaining_s == pytest.approx(50 * 15 / 25)


def test_reused_stages_say_nothing_of_speed(clock: Clock):
    progress = Progress("quiet", clock=clock)
    progress.expect([("a", 10), ("b", 10), ("c", 10)])
    progress.begin("a", is_reused=True)
    assert progress.remaining_s is None
    clock.now = 5
    progress.begin("b")
    progress.begin("c")
    assert progress.remaining_s == 5


def test_json_is_one_object_a_line(clock: Clock):
    stream = io.StringIO()
    progress = Progress("json", stream, clock)
    progress.expect([("a", 1), ("b", 1)])
    progress.begin("a", is_reused=True)
    progress.begin("b")
    clock.now = 3
    progress.say("a word")
    progress.finish()
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["event"], r.get("stage"), r.get("state")) for r in rows] == [
        ("stage", "a", "reused"),
        ("stage", "b", "begun"),
        ("note", None, None),
        ("stage", "b", "done"),
    ]
    assert (rows[-1]["fraction"], rows[-1]["stage_s"], rows[-1]["remaining_s"]) == (1, 3, 0)


def test_json_tells_the_cpu_seconds_of_a_stage_its_children_included(clock: Clock):
    stream = io.StringIO()
    progress = Progress("json", stream, clock)
    work = "import time\nwhile time.process_time() < 0.3: pass"
    for name, code in (("idle", "pass"), ("busy", work)):
        progress.begin(name)
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
        progress.finish()
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    spent = {row["stage"]: row["stage_cpu_s"] for row in rows if row["state"] == "done"}
    assert spent["idle"] < 0.3 <= spent["busy"] < 2


def test_lines_tell_each_stage_once_and_what_was_taken_over(clock: Clock):
    stream = io.StringIO()
    progress = Progress("lines", stream, clock)
    progress.expect([("export unet", 1), ("record", 3)])
    progress.begin("export unet", is_reused=True)
    progress.begin("record")
    progress.advance(0.5)
    clock.now = 65
    progress.finish()
    first, second = stream.getvalue().splitlines()
    assert "export unet" in first
    assert first.endswith("from before")
    assert second == "100%  record  1:05 gone"


def test_quiet_says_nothing_and_live_writes_over_itself(clock: Clock):
    for style, said in (("quiet", False), ("live", True)):
        stream = io.StringIO()
        progress = Progress(style, stream, clock)  # type: ignore[arg-type]
        progress.begin("a")
        progress.say("a word")
        progress.finish()
        assert bool(stream.getvalue()) == said
        assert stream.getvalue().count("\n") == said  # only the word stays


def test_minutes():
    assert [minutes(s) for s in (0, 59.6, 185)] == ["0:00", "1:00", "3:05"]


RECIPE = Recipe(
    tokenizer=Path("tokenizer.json"),
    max_length=77,
    pad_id_2=None,
    guidance_dim=None,
    schedule=NoiseSchedule("scaled_linear", 0.00085, 0.012, 1000, False, "leading", 1),
    prediction_type="epsilon",
    latent_channels=4,
    latent_downscale=8,
    latent_scale=0.18215,
    sampler="ddim",
    steps=20,
    guidance=7.5,
    width=512,
    height=512,
)
SD15 = {"unet": 3_438_000_000, "vae_decoder": 198_000_000}


def test_a_full_size_model_gets_fewer_pictures_and_steps():
    plan = make_plan(SD15, RECIPE, 280, 24, 50, budget_s=480)
    assert reckon(SD15, RECIPE).unet_s == pytest.approx(6.7, abs=0.2)
    assert (plan.recording_pictures, plan.drawing_pictures) == (2, 1)
    assert 4 <= plan.recording_steps < 20
    assert 4 <= plan.drawing_steps < 20
    assert (plan.crop, plan.probes) == (16, 1)
    assert (plan.rounds, plan.group) == (1, 8)


def test_more_budget_buys_more_until_all_is_done_that_was_asked_for():
    plans = [make_plan(SD15, RECIPE, 280, 24, 50, budget_s=60 * m) for m in (8, 30, 120, 2000)]
    for less, more in itertools.pairwise(plans):
        assert more.recording_pictures * more.recording_steps > less.recording_pictures * less.recording_steps
        assert more.drawing_pictures * more.drawing_steps > less.drawing_pictures * less.drawing_steps
    last = plans[-1]
    assert (last.recording_pictures, last.recording_steps) == (24, 20)
    assert (last.drawing_pictures, last.drawing_steps) == (50, 20)


def test_a_small_model_is_not_bounded():
    pocket = replace(RECIPE, steps=8, guidance=1.0, width=256, height=256)
    plan = make_plan({"unet": 70_000_000, "vae_decoder": 8_000_000}, pocket, 137, 24, 50, budget_s=480)
    assert (plan.recording_pictures, plan.recording_steps) == (24, 8)
    assert (plan.drawing_pictures, plan.drawing_steps) == (50, 8)
    assert (plan.crop, plan.probes, plan.rounds, plan.group) == (32, 6, 3, 1)
