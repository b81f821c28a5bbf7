from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.schedulers import GPU_NAMES, SCHEDULERS, make_scheduler, most_steps
from edgegen.diffusion.schedules import NoiseSchedule, alphas_cumprod, betas, sigmas_of, spaced_timesteps
from edgegen.diffusion.sigma_schedules import SIGMA_SCHEDULES

GOLDEN = np.load(Path(__file__).parent / "golden.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if key.endswith("/latents")})
UNEVEN_DDIM = "ddim-v_prediction-trailing-True-linear-7"  # there diffusers leaves noise in the picture
IN_UNITS = ("ipndm", "ddpm", "pndm")  # whose latents diffusers keeps at unit variance
OTHER_ENDS = ("uni_pc", "ipndm")  # diffusers': infinity times 0 with bh1, and a slope beyond the picture
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def scheduler_of(case: str):
    name, prediction, spacing, zero_snr, beta_schedule, steps = case.split("-")
    schedule = NoiseSchedule(
        beta_schedule=beta_schedule,
        rescale_zero_terminal_snr=zero_snr == "True",
        timestep_spacing=spacing,
        steps_offset=1 if spacing == "leading" else 0,
    )
    return make_scheduler(name, schedule, prediction, int(steps))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_diffusers(case: str) -> None:
    scheduler = scheduler_of(case)
    recorded = Recorded(case)
    noises, want = GOLDEN["noises"], GOLDEN[f"{case}/latents"]
    drawn = iter(noises)
    latents = (noises[-1] * start_scale(scheduler, case)).astype(np.float32)
    ends = recorded.calls_at_step_ends(len(scheduler.timesteps))
    for i, end in enumerate(ends):
        latents = scheduler.advance(recorded.predict, latents, i, lambda: next(drawn)).latents
        assert latents.dtype == np.float32
        assert np.isfinite(latents).all()
        if i == len(ends) - 1 and (case == UNEVEN_DDIM or case.split("-")[0] in OTHER_ENDS):
            break
        close(latents / in_diffusers_frame(scheduler, case, i), want[end])
    assert recorded.calls == ends[-1] + 1


def in_diffusers_frame(scheduler, case: str, i: int) -> float:
    """diffusers keeps the latents of its dpm family at unit variance."""
    name = case.split("-")[0]
    unit_variance = SCHEDULERS[name].spaced_as_dpm or name in IN_UNITS
    return float(np.hypot(scheduler.sigmas[i + 1], 1)) if unit_variance else 1.0


def start_scale(scheduler, case: str) -> float:
    return float(np.hypot(scheduler.sigmas[0], 1)) if case[:5] == "ipndm" else scheduler.init_noise_sigma


class Recorded:
    """A denoiser that says what diffusers' scheduler was told, and checks that it is asked the same."""

    def __init__(self, case: str):
        self.case, self.calls = case, 0

    def predict(self, model_input: np.ndarray, timestep: float) -> np.ndarray:
        k, self.calls = self.calls, self.calls + 1
        np.testing.assert_allclose(timestep, GOLDEN[f"{self.case}/timesteps"][k], atol=2e-3)
        close(model_input, GOLDEN[f"{self.case}/inputs"][k])
        return GOLDEN["outputs"][k]

    def calls_at_step_ends(self, steps: int) -> list[int]:
        """Index of the last call of each step; a second-order solver calls twice but in its last step."""
        calls = len(GOLDEN[f"{self.case}/timesteps"])
        if calls == steps + 1 and self.case.startswith("pndm"):
            return list(range(1, steps + 1))  # twice in its first
        return list(range(steps)) if calls == steps else [2 * i + (i < steps - 1) for i in range(steps)]


def test_every_sampler_diffusers_has_is_in_the_golden_file() -> None:
    elsewhere = {"dpmpp_2s_ancestral", *GPU_NAMES}  # test_solvers compares the one without its noise
    elsewhere |= {name for name, sampler in SCHEDULERS.items() if sampler.sees_unguided}  # test_cfg_pp
    elsewhere |= {"heunpp2", "ipndm_v", "deis", "gradient_estimation"}  # test_published
    elsewhere |= {"res_multistep", "res_multistep_ancestral"}
    assert {case.split("-")[0] for case in CASES} == set(SCHEDULERS) - elsewhere


def exact_output(prediction: str, x_vp: np.ndarray, point: np.ndarray, a: float) -> np.ndarray:
    """What a perfect denoiser says when all pictures are one point."""
    if prediction == "sample":
        return point
    alpha, sigma = np.sqrt(a), np.sqrt(1 - a)
    noise = (x_vp - alpha * point) / sigma
    return noise if prediction == "epsilon" else alpha * noise - sigma * point


def run(scheduler, prediction: str, point: np.ndarray, a: np.ndarray, seed: int = 5) -> np.ndarray:
    """A whole run with the perfect denoiser of one point; its levels lie where their sigmas are."""
    trained, by_sigma = sigmas_of(a), hasattr(scheduler, "sigmas")
    rng = NoiseSource(seed)

    def predict(x_vp: np.ndarray, t: float) -> np.ndarray:
        log_sigma = np.interp(t, np.arange(len(a)), np.log(trained))
        near = scheduler.sigmas[np.abs(scheduler.timesteps - t).argmin()] if by_sigma else 0
        exact = near if by_sigma and abs(scheduler.timesteps - t).min() < 1e-9 else np.exp(log_sigma)
        at_t = 1 / (1 + exact**2) if by_sigma else a[int(t)]
        return exact_output(prediction, x_vp, point, at_t).astype(np.float32)

    latents = rng.normal(point.shape) * np.float32(scheduler.init_noise_sigma)
    for i in range(len(scheduler.timesteps)):
        latents = scheduler.advance(predict, latents, i, lambda: rng.normal(point.shape)).latents
    return latents


POINT = np.linspace(-2, 2, 32, dtype=np.float32).reshape(1, 2, 4, 4)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("prediction", "zero_snr"),  # from pure noise an epsilon prediction cannot tell the picture
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("v_prediction", True),
        ("sample", False),
        ("sample", True),
    ],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_exact_denoiser_lands_on_the_point(name, prediction, spacing, zero_snr, steps) -> None:
    schedule = NoiseSchedule(timestep_spacing=spacing, rescale_zero_terminal_snr=zero_snr)
    scheduler = make_scheduler(name, schedule, prediction, steps)
    a = np.maximum(alphas_cumprod(schedule), 0 if name in ("ddim", "lcm") else 2.0**-24)
    latents = run(scheduler, prediction, POINT, a)
    mixed = name == "lcm" and scheduler.timesteps[-1] < 20  # lcm mixes in c_skip of its input near t = 0
    np.testing.assert_allclose(latents, POINT, atol=0.02 if mixed else 2e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("levels", SIGMA_SCHEDULES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_exact_denoiser_lands_on_the_point_from_any_schedule(name, levels, zero_snr) -> None:
    schedule = NoiseSchedule(rescale_zero_terminal_snr=zero_snr)
    for steps in (1, 9):
        scheduler = make_scheduler(name, schedule, "sample", steps, levels)
        latents = run(scheduler, "sample", POINT, alphas_cumprod(schedule))
        np.testing.assert_allclose(latents, POINT, atol=2e-3)


def test_zero_terminal_snr_ends_at_exactly_zero() -> None:
    schedule = NoiseSchedule(rescale_zero_terminal_snr=True)
    a = alphas_cumprod(schedule)
    assert a[-1] == 0
    assert a[0] == pytest.approx(alphas_cumprod(NoiseSchedule())[0], rel=1e-12)
    assert np.all(np.diff(a) < 0)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_betas_lie_between_0_and_1(kind: str) -> None:
    b = betas(NoiseSchedule(beta_schedule=kind))
    assert b.shape == (1000,)
    assert np.all((b > 0) & (b < 1))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 3, 7, 50, 999, 1000])
def test_timesteps_descend_inside_the_schedule(spacing: str, steps: int) -> None:
    t = spaced_timesteps(NoiseSchedule(timestep_spacing=spacing, steps_offset=1), steps)
    assert t.shape == (steps,)
    assert t.min() >= 0
    assert t.max() <= 999
    assert np.all(np.diff(t) < 0)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("levels", "spacing"),
    [
        (None, "leading"),
        (None, "trailing"),
        (None, "linspace"),
        *((name, "leading") for name in SIGMA_SCHEDULES),
    ],
)
@pytest.mark.parametrize("count", [2, 10, 200])
def test_most_steps_stay_finite(name: str, levels: str | None, spacing: str, count: int) -> None:
    schedule = NoiseSchedule(timestep_spacing=spacing, num_train_timesteps=count, steps_offset=1)
    steps = most_steps(name, schedule, levels)
    scheduler = make_scheduler(name, schedule, "epsilon", steps, levels)
    x = np.ones((1, 1, 4, 4), np.float32) * np.float32(scheduler.init_noise_sigma)
    for i in range(len(scheduler.timesteps)):
        x = scheduler.advance(lambda x, _: np.zeros_like(x), x, i, lambda: np.zeros((1, 1, 4, 4))).latents
    assert np.isfinite(x).all()
    with pytest.raises(ValueError, match=rf"steps is {steps + 1}; allowed are 1 to {steps}"):
        make_scheduler(name, schedule, "epsilon", steps + 1, levels)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("eular", NoiseSchedule(), "epsilon", 4), "sampler is 'eular'; known are euler,"),
        (("euler", NoiseSchedule(), "noise", 4), "prediction_type is 'noise'"),
        (("euler", NoiseSchedule(), "epsilon", 0), "steps is 0; allowed are 1 to 1000"),
        (("euler", NoiseSchedule(timestep_spacing="even"), "epsilon", 4), "timestep_spacing is 'even'"),
        (("euler", NoiseSchedule(), "epsilon", 4, "carras"), "schedule is 'carras'; known are normal,"),
        (("euler", NoiseSchedule(beta_schedule="cosy"), "epsilon", 4), "beta_schedule is 'cosy'"),
    ],
)
def test_wrong_arguments_are_named(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scheduler(*args)
