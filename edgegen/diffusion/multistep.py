"""Solvers that look back: of higher order with one look a step, by what earlier steps saw.

Latents, `Step` and `Moved` as in `solvers`. `history` holds the newest first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .adams import weighted
from .solvers import Levels, Moved, Step, ancestral_levels, noisy, straight_levels, toward

Scale = Callable[[float], float]

UNI_PC_ORDER = 3


def dpmpp_2m(step: Step) -> Moved:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2); the first and last step are of order 1."""
    denoised = step.look()
    target = denoised
    if step.history and step.there > 0:
        target = denoised + 0.5 * slope_by_step(step, denoised)
    return Moved(toward(step.x, target, step.here, step.there), denoised, (denoised,))


def dpmpp_2m_sde(step: Step) -> Moved:
    """SDE-DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv:2211.01095, sample_dpmpp_2m_sde)."""
    denoised = step.look()
    if step.there == 0:
        return Moved(denoised, denoised, (denoised,))
    ratio = step.there / step.here
    target = denoised + (0.5 * slope_by_step(step, denoised) if step.history else 0.0)
    x = target + (step.x - target) * ratio**2
    return Moved(x + step.there * np.sqrt(1 - ratio**2) * step.draw(), denoised, (denoised,))


def dpmpp_3m_sde(step: Step) -> Moved:
    """SDE-DPM-Solver++ of order 3 (as k-diffusion's sample_dpmpp_3m_sde, after Lu et al. 2022,
    arXiv:2211.01095); the first steps are of order 1 and 2, that to 0 is the picture seen."""
    denoised = step.look()
    seen = (denoised, *step.history)[:3]
    if step.there == 0:
        return Moved(denoised, denoised, seen)
    ratio = (step.there / step.here) ** 2
    x = denoised + (step.x - denoised) * ratio + _bend(step, seen)
    return Moved(x + step.there * np.sqrt(1 - ratio) * step.draw(), denoised, seen[:2])


def _bend(step: Step, seen: tuple[np.ndarray, ...]) -> np.ndarray | float:
    """What first and second differences of the pictures seen add to a step of order 1."""
    if len(seen) < 2:
        return 0.0
    h, *before = (
        float(np.log(step.sigmas[i] / step.sigmas[i + 1])) for i in range(step.i, step.i - len(seen), -1)
    )
    phi_2 = np.expm1(-2 * h) / (2 * h) + 1
    first = (seen[0] - seen[1]) * (h / before[0])
    if len(seen) < 3:
        return phi_2 * first
    second = first - (seen[1] - seen[2]) * (h / before[1])
    whole = before[0] + before[1]
    phi_3 = phi_2 / (2 * h) - 0.5
    return phi_2 * (first + second * (before[0] / whole)) - phi_3 * second * (h / whole)


def res_multistep(step: Step) -> Moved:
    """Refined exponential solver of order 2, by the picture seen before (Zhang et al. 2023, arXiv:2308.02157,
    eqs. 11 and 13 with c_2 below 0); the first and last step are of order 1."""
    return _res_multistep(step, straight_levels)


def res_multistep_ancestral(step: Step) -> Moved:
    """The same to a level below the next one, then fresh noise."""
    return _res_multistep(step, ancestral_levels)


def _res_multistep(step: Step, levels: Levels) -> Moved:
    denoised = step.look()
    down, up = levels(step.here, step.there)
    x = toward(step.x, denoised, step.here, down)
    if step.history and down > 0:
        x = x + res_bend(step, levels) * (denoised - step.history[0])
    return Moved(noisy(x, up, step), denoised, (denoised,))


def res_bend(step: Step, levels: Levels) -> float:
    """How much of the last change of the picture seen a step of order 2 adds to one of order 1.

    The picture before was seen from above; to where the step from there went counts as how far back it lies.
    """
    h = np.log(step.here / levels(step.here, step.there)[0])
    above = float(step.sigmas[step.i - 1])
    h_before = np.log(above / levels(above, step.here)[0])
    return float((1 + np.expm1(-h) / h) * h / h_before)


def uni_pc(step: Step) -> Moved:
    """UniPC of order 3, predicting the picture, B(h) = h (Zhao et al. 2023, arXiv:2302.04867, alg. 1, 2)."""
    return _uni_pc(step, lambda h: -h)


def uni_pc_bh2(step: Step) -> Moved:
    """The same with B(h) = e^h - 1."""
    return _uni_pc(step, lambda h: float(np.expm1(-h)))


def _uni_pc(step: Step, scale: Scale) -> Moved:
    """UniPC with B(h) as a function of the step in log SNR, which counts the other way around here.

    What is seen from a level first corrects the step that led there, then predicts the next. History:
    the latents the last step started from, then the pictures seen, newest first.
    """
    denoised = step.look()
    x, seen = step.x, step.history[1:]
    if seen:
        x = _uni_c(step, denoised, _uni_pc_order(step, step.i - 1, len(seen)), scale)
    seen = (denoised, *seen)[:UNI_PC_ORDER]
    order = _uni_pc_order(step, step.i, len(seen))
    return Moved(_uni_p(step, x, seen, order, scale), denoised, (x, *seen))


def _uni_pc_order(step: Step, i: int, seen: int) -> int:
    """Few were seen at the start, and the last steps are kept steady by a lower order."""
    return min(UNI_PC_ORDER, len(step.sigmas) - 1 - i, seen)


def _uni_p(step: Step, x: np.ndarray, seen: tuple[np.ndarray, ...], order: int, scale: Scale) -> np.ndarray:
    """The predictor (alg. 2), from `here` to `there`."""
    moved = toward(x, seen[0], step.here, step.there)
    if order == 1:
        return moved
    h = np.log(step.here / step.there)
    ratios, differences = _uni_pc_differences(step.sigmas, step.i, h, seen, order)
    matrix, right = _uni_pc_system([*ratios, 1.0], h, scale(h))
    weights = [0.5] if order == 2 else np.linalg.solve(matrix[:-1, :-1], right[:-1])
    return moved - scale(h) * weighted(weights, differences)


def _uni_c(step: Step, denoised: np.ndarray, order: int, scale: Scale) -> np.ndarray:
    """The corrector (alg. 1): the step to `here` again, now that the picture was seen from here."""
    start, seen = step.history[0], step.history[1:]
    before = float(step.sigmas[step.i - 1])
    h = np.log(before / step.here)
    ratios, differences = _uni_pc_differences(step.sigmas, step.i - 1, h, seen, order)
    weights = [0.5] if order == 1 else np.linalg.solve(*_uni_pc_system([*ratios, 1.0], h, scale(h)))
    differences = (*differences, denoised - seen[0])
    return toward(start, seen[0], before, step.here) - scale(h) * weighted(weights, differences)


def _uni_pc_differences(
    sigmas: np.ndarray, i: int, h: float, seen: tuple[np.ndarray, ...], order: int
) -> tuple[list[float], tuple[np.ndarray, ...]]:
    """How far back, in steps of h, the pictures seen before level i lie, and their divided differences."""
    ratios = [float(np.log(sigmas[i] / sigmas[i - k]) / h) for k in range(1, order)]
    return ratios, tuple((seen[k + 1] - seen[0]) / ratio for k, ratio in enumerate(ratios))


def _uni_pc_system(ratios: list[float], h: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The linear system for the weights (theorem 3.1); `scale` is B(h)."""
    phi = np.expm1(-h) / -h - 1
    rows, right, factorial = [], [], 1
    for k in range(1, len(ratios) + 1):
        rows.append(np.array(ratios) ** (k - 1))
        right.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    return np.array(rows), np.array(right)


def slope_by_step(step: Step, denoised: np.ndarray) -> np.ndarray:
    """How much the picture would change over this step in log SNR, judged by what the last step saw."""
    h, h_before = np.log(step.here / step.there), np.log(step.sigmas[step.i - 1] / step.here)
    return (h / h_before) * (denoised - step.history[0])
