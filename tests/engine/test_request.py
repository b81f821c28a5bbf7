from __future__ import annotations

from dataclasses import replace

import pytest

from edgegen.engine.request import GenerationSettings, random_seed, resolve_settings
from edgegen.errors import BadRequest
from edgegen.jobs.job import JobRequest
from edgegen.pack import Pack
from edgegen.settings import LimitSettings

PLAIN = JobRequest(id="1", prompt="  a red\n apple ")
LIMITS = LimitSettings()


def test_defaults_are_the_packs(tiny: Pack) -> None:
    got = resolve_settings(tiny, PLAIN, LIMITS, new_seed=lambda: 7)
    assert got == GenerationSettings("a red apple", "", 7, 3, 3.0, 64, 64, "euler")


def test_what_is_asked_for_wins(tiny: Pack) -> None:
    asked = replace(
        PLAIN, negative_prompt="blue", seed=0, steps=5, guidance=1, width=32, height=96, sampler="lcm"
    )
    got = resolve_settings(tiny, asked, LIMITS)
    assert got == GenerationSettings("a red apple", "blue", 0, 5, 1.0, 32, 96, "lcm")
    got = resolve_settings(tiny, replace(asked, steps=60, schedule="karras"), LIMITS)
    assert (got.schedule, got.steps) == ("karras", 60)  # beyond the 50 timesteps lcm has of its own


def test_a_seed_of_ones_own_can_be_typed_again() -> None:
    assert len({random_seed() for _ in range(20)}) == 20
    assert all(0 <= random_seed() < 2**32 for _ in range(20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " \n "}, "prompt: is empty"),
        ({"prompt": "a" * 1001}, "prompt: has 1001 characters; at most 1000"),
        ({"negative_prompt": "a" * 1001}, "negative_prompt: has 1001 characters"),
        ({"seed": -1}, "seed: -1 is not allowed: 0 to"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is not allowed"),
        ({"steps": 0}, "steps: 0 is not allowed: 1 to 100 with sampler euler"),
        ({"steps": 101}, "steps: 101 is not allowed: 1 to 100"),
        ({"steps": 51, "sampler": "lcm"}, "steps: 51 is not allowed: 1 to 50 with sampler lcm"),
        ({"guidance": 0.5}, "guidance: 0.5 is not allowed: 1 to 30"),
        ({"guidance": float("nan")}, "guidance: nan is not allowed"),
        ({"guidance": float("inf")}, "guidance: inf is not allowed"),
        ({"width": 40}, "width: 40 is not allowed: 32 to 128 in steps of 16 with pack tiny"),
        ({"height": 144}, "height: 144 is not allowed: 32 to 128"),
        ({"schedule": "carras"}, "schedule: 'carras' is not known: normal, karras,"),
        ({"sampler": "magic"}, "sampler: 'magic' is not known: euler,"),
    ],
)
def test_each_problem_names_value_and_range(tiny: Pack, changes: dict, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        resolve_settings(tiny, replace(PLAIN, **changes), LIMITS)
    assert message in str(caught.value)


def test_all_problems_at_once(tiny: Pack) -> None:
    asked = replace(PLAIN, prompt="", steps=0, width=1, height=1, guidance=99)
    with pytest.raises(BadRequest) as caught:
        resolve_settings(tiny, asked, LIMITS)
    assert [p.field for p in caught.value.problems] == ["prompt", "guidance", "steps", "width", "height"]


def test_the_devices_own_limit_on_sides_counts_too(tiny: Pack) -> None:
    with pytest.raises(BadRequest, match="128 is not allowed: 32 to 64"):
        resolve_settings(tiny, replace(PLAIN, width=128), LimitSettings(side=64))
