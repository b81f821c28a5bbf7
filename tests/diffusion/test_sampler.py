from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.sampler import sample
from edgegen.diffusion.schedulers import SCHEDULERS, make_scheduler
from edgegen.diffusion.schedules import NoiseSchedule

SHAPE = (1, 4, 4, 4)


def run(guidance: float, name: str = "ddim", steps: int = 5, **kwargs):
    calls: list[tuple[float, object]] = []

    def denoiser(latents, timestep, conditioning):
        calls.append((timestep, conditioning))
        return np.full_like(latents, conditioning)

    scheduler = make_scheduler(name, NoiseSchedule(), "sample", steps)
    start = NoiseSource(1).normal(SHAPE) * np.float32(scheduler.init_noise_sigma)
    done = list(sample(denoiser, scheduler, start, 2.0, 1.0, guidance, **kwargs))
    return done, calls


def test_guidance_1_never_runs_the_second_pass() -> None:
    done, calls = run(1)
    assert [c for _, c in calls] == [2.0] * 5
    assert [(s.index, s.total) for s in done] == [(i, 5) for i in range(1, 6)]
    np.testing.assert_allclose(done[-1].latents, 2.0)


def test_guidance_reaches_past_the_conditioning() -> None:
    done, calls = run(3)
    assert [c for _, c in calls] == [2.0, 1.0] * 5
    np.testing.assert_allclose(done[-1].latents, 1 + 3 * (2 - 1))


def test_a_pair_denoiser_takes_over_both_passes() -> None:
    seen = []

    def pair(latents, timestep, conditioning, unconditional):
        seen.append(timestep)
        return np.full_like(latents, conditioning), np.full_like(latents, unconditional)

    done, calls = run(3, pair=pair)
    assert calls == []
    assert len(seen) == 5
    np.testing.assert_allclose(done[-1].latents, 4)


def test_a_stochastic_scheduler_needs_a_source() -> None:
    with pytest.raises(ValueError, match="NoiseSource"):
        run(1, name="lcm")


def test_noise_goes_on_where_the_source_stands() -> None:
    first, _ = run(1, name="lcm", rng=NoiseSource(4))
    again, _ = run(1, name="lcm", rng=NoiseSource(4))
    other, _ = run(1, name="lcm", rng=NoiseSource(5))
    assert np.array_equal(first[0].latents, again[0].latents)
    assert not np.array_equal(first[0].latents, other[0].latents)


@pytest.mark.parametrize("levels", [None, "karras"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_cut_off_anywhere_goes_on_to_the_identical_picture(name: str, levels: str | None) -> None:
    def start():
        scheduler = make_scheduler(name, NoiseSchedule(), "epsilon", 6, levels)
        rng = NoiseSource(3)
        latents = rng.normal(SHAPE) * np.float32(scheduler.init_noise_sigma)
        return sample(curved, scheduler, latents, None, None, 1, rng)

    whole = list(start())
    for step in whole[:-1]:
        scheduler = make_scheduler(name, NoiseSchedule(), "epsilon", 6, levels)
        rest = list(
            sample(curved, scheduler, step.latents, None, None, 1, NoiseSource(99), resume=step.state)
        )
        assert [s.index for s in rest] == list(range(step.index + 1, 7))
        assert np.array_equal(rest[-1].latents, whole[-1].latents)


def curved(latents: np.ndarray, timestep: float, conditioning: object) -> np.ndarray:
    """A denoiser whose answer depends on all it is told."""
    return np.tanh(latents * (1 + timestep / 1000)).astype(np.float32)


def test_nothing_runs_until_asked_and_closing_stops() -> None:
    calls = []

    def denoiser(latents, timestep, conditioning):
        calls.append(timestep)
        return latents

    scheduler = make_scheduler("euler", NoiseSchedule(), "epsilon", 10)
    steps = sample(denoiser, scheduler, np.ones(SHAPE, np.float32), None, None, 1)
    assert calls == []
    next(steps)
    steps.close()
    assert len(calls) == 1
    assert list(steps) == []
