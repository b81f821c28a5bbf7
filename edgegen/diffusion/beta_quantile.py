"""The quantiles of the beta distribution, for the `beta` schedule: SciPy is too large for a device."""

from __future__ import annotations

from math import lgamma

import numpy as np

_HALVINGS = 60  # leaves an interval below 1e-18
_TERMS = 200
_TINY = 1e-300


def beta_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """x with I_x(a, b) = p, I being the regularized incomplete beta function, by bisection.

    Args:
        p: probabilities in [0, 1].
        a, b: the distribution's parameters, > 0.
    Returns:
        float64 of p's shape, within 1e-12.
    Raises:
        ValueError: a or b is not positive, or a p outside [0, 1].
    """
    wanted = np.asarray(p, np.float64)
    if not (a > 0 and b > 0):
        raise ValueError(f"a and b are {a} and {b}; both must be above 0")
    if not np.all((wanted >= 0) & (wanted <= 1)):
        raise ValueError("p holds values outside 0 to 1")
    low, high = np.zeros_like(wanted), np.ones_like(wanted)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = regularized_beta(middle, a, b) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(wanted == 0, 0.0, np.where(wanted == 1, 1.0, (low + high) / 2))


def regularized_beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """I_x(a, b) for x in (0, 1): by the continued fraction on the side where it converges fast.

    Source: Abramowitz & Stegun 1964, 26.5.8, evaluated as Lentz 1976 does; 26.5.2 for the other side.
    """
    x = np.asarray(x, np.float64)
    swapped = x > (a + 1) / (a + b + 2)
    left = _by_fraction(np.where(swapped, 0.5, x), a, b)
    right = _by_fraction(np.where(swapped, 1 - x, 0.5), b, a)
    return np.where(swapped, 1 - right, left)


def _by_fraction(x: np.ndarray, a: float, b: float) -> np.ndarray:
    log_front = a * np.log(np.maximum(x, _TINY)) + b * np.log1p(-x)
    front = np.exp(log_front + lgamma(a + b) - lgamma(a) - lgamma(b)) / a
    c = np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction = fraction * c * d
        if np.all(np.abs(c * d - 1) < 1e-15):
            break
    return front * fraction


def _away_from_zero(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < _TINY, _TINY, values)
