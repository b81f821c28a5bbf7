from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.diffusion.beta_quantile import beta_quantile
from edgegen.diffusion.schedules import NoiseSchedule, alphas_cumprod, sigmas_of
from edgegen.diffusion.sigma_schedules import SIGMA_SCHEDULES, cut_sigmas, run_sigmas, tail_sigmas

SD15 = sigmas_of(alphas_cumprod(NoiseSchedule()))
GOLDEN = np.load(Path(__file__).parent / "golden.npz")
# Levels as ComfyUI's users know them for Stable Diffusion 1.x: 14.6146 down to 0.0292.
TOP, BOTTOM = 14.6146, 0.0292


@pytest.mark.parametrize("name", SIGMA_SCHEDULES)
@settings(deadline=None)  # a busy machine may take a second over one
@given(steps=st.integers(1, 60))
def test_levels_descend_to_zero_within_what_was_trained(name: str, steps: int) -> None:
    sigmas = run_sigmas(name, SD15, steps)
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)
    assert SD15[0] * 0.999999 <= sigmas[-2] <= sigmas[0] <= SD15[-1] * 1.000001
    if name != "ddim_uniform":
        assert sigmas[0] == pytest.approx(TOP, rel=1e-4)
        assert len(sigmas) == steps + 1


@pytest.mark.parametrize("name", ["normal", "karras", "exponential"])
def test_some_visit_the_cleanest_level(name: str) -> None:
    assert run_sigmas(name, SD15, 10)[-2] == pytest.approx(BOTTOM, rel=2e-3)


@pytest.mark.parametrize("name", ["karras", "exponential"])
@pytest.mark.parametrize("steps", [2, 10, 25])
def test_agrees_with_diffusers(name: str, steps: int) -> None:
    np.testing.assert_allclose(run_sigmas(name, SD15, steps), GOLDEN[f"levels/{name}/{steps}"], rtol=1e-4)


def test_karras_is_equation_5() -> None:
    high, low = SD15[-1] ** (1 / 7), SD15[0] ** (1 / 7)
    want = [(high + k / 9 * (low - high)) ** 7 for k in range(10)]
    np.testing.assert_allclose(run_sigmas("karras", SD15, 10)[:-1], want, rtol=1e-12)


def test_exponential_has_one_ratio() -> None:
    sigmas = run_sigmas("exponential", SD15, 10)[:-1]
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], (SD15[0] / SD15[-1]) ** (1 / 9), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "steps", "timesteps"),
    [
        ("normal", 4, [999, 666, 333, 0]),
        ("sgm_uniform", 3, [999, 666, 333]),
        ("simple", 4, [999, 749, 499, 249]),
        ("simple", 3, [999, 666, 333]),
        ("ddim_uniform", 4, [751, 501, 251, 1]),
        ("ddim_uniform", 7, [995, 853, 711, 569, 427, 285, 143, 1]),  # one more than asked
        ("ddim_uniform", 1, [1]),
    ],
)
def test_which_timesteps_are_visited(name: str, steps: int, timesteps: list[int]) -> None:
    np.testing.assert_allclose(run_sigmas(name, SD15, steps)[:-1], SD15[timesteps], rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 20, 21, 25, 30, 50, 100, 333, 1000])
def test_beta_visits_what_scipy_says(steps: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    asked = 1 - np.linspace(0, 1, steps, endpoint=False)
    indexes = np.rint(stats.beta.ppf(asked, 0.6, 0.6) * 999).astype(int)
    want = SD15[np.unique(indexes)[::-1]]
    np.testing.assert_array_equal(run_sigmas("beta", SD15, steps)[:-1], want)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2, 5), (0.3, 4), (1, 1), (10, 0.5)])
def test_quantiles_are_scipys(a: float, b: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    p = np.linspace(0, 1, 201)
    np.testing.assert_allclose(beta_quantile(p, a, b), stats.beta.ppf(p, a, b), atol=1e-12)


def test_quantiles_of_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="a and b are 0 and 1; both must be above 0"):
        beta_quantile(np.array([0.5]), 0, 1)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        beta_quantile(np.array([1.5]), 1, 1)


def test_some_samplers_skip_the_last_level_before_zero() -> None:
    full, skipping = run_sigmas("karras", SD15, 11), run_sigmas("karras", SD15, 10, drops_penultimate=True)
    np.testing.assert_array_equal(skipping, [*full[:10], 0])
    np.testing.assert_allclose(run_sigmas("normal", SD15, 1, drops_penultimate=True), [SD15[-1], 0])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="schedule is 'carras'; known are normal, karras"):
        run_sigmas("carras", SD15, 4)
    with pytest.raises(ValueError, match="steps is 1001; allowed are 1 to 1000"):
        run_sigmas("karras", SD15, 1001)


def test_the_tail_of_a_longer_run() -> None:
    whole = run_sigmas("karras", SD15, 5)
    assert np.array_equal(tail_sigmas("karras", SD15, 5, 1.0), whole)
    assert np.array_equal(tail_sigmas("karras", SD15, 5, 0.5), run_sigmas("karras", SD15, 10)[-6:])
    assert np.array_equal(tail_sigmas("simple", SD15, 20, 0.87), run_sigmas("simple", SD15, 22)[-21:])
    assert len(tail_sigmas("karras", SD15, 5, 0.0)) == 0
    with pytest.raises(ValueError, match="allowed are 1 to 1000"):
        tail_sigmas("karras", SD15, 20, 0.01)


def test_a_run_is_cut_at_both_ends() -> None:
    whole = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
    assert cut_sigmas(whole, 0, 10_000, True).tolist() == whole.tolist()
    assert cut_sigmas(whole, 1, 3, False).tolist() == [4, 2, 1]
    assert cut_sigmas(whole, 1, 3, True).tolist() == [4, 2, 0]
    assert len(cut_sigmas(whole, 4, 10_000, True)) == 0
    assert len(cut_sigmas(whole, 0, 0, False)) == 0
    assert whole[3] == 1
