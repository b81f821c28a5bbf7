"""CFG++: guidance moves the picture, while the noise goes back on as seen without guidance.

So each solver needs both pictures: the guided one and the one that guidance starts from, `unguided` (Chung et
al. 2024, arXiv:2406.08070, alg. 2; guidance scales around 1 are to it what 7.5 is to others). Where both are
one, each is the solver of the same name without `_cfg_pp`.
"""

from __future__ import annotations

import numpy as np

from .multistep import res_bend, slope_by_step
from .solvers import Levels, Moved, Step, ancestral_levels, noisy, straight_levels, toward


def euler_cfg_pp(step: Step) -> Moved:
    """First order (alg. 2 of the paper, in sigmas)."""
    return _euler(step, straight_levels)


def euler_ancestral_cfg_pp(step: Step) -> Moved:
    """First order, with fresh noise."""
    return _euler(step, ancestral_levels)


def _euler(step: Step, levels: Levels) -> Moved:
    denoised, unguided = step.look_both()
    down, up = levels(step.here, step.there)
    return Moved(noisy(_renoised(step, denoised, unguided, down), up, step), denoised)


def dpmpp_2s_ancestral_cfg_pp(step: Step) -> Moved:
    """DPM-Solver++(2S) from where guidance has moved the latents to, as ComfyUI has it."""
    denoised, unguided = step.look_both()
    down, up = ancestral_levels(step.here, step.there)
    if step.there == 0:
        return Moved(denoised, denoised)
    start, middle = step.x + (denoised - unguided), float(np.sqrt(step.here * down))
    seen_midway = step.denoise(toward(start, denoised, step.here, middle), middle)
    return Moved(noisy(toward(start, seen_midway, step.here, down), up, step), denoised)


def dpmpp_2m_cfg_pp(step: Step) -> Moved:
    """DPM-Solver++(2M) with the guided picture's change since the last unguided one (the paper's appendix, as
    its code and ComfyUI have it)."""
    denoised, unguided = step.look_both()
    x = _renoised(step, denoised, unguided, step.there)
    if step.history and step.there > 0:
        x = x + (1 - step.there / step.here) * 0.5 * slope_by_step(step, denoised)
    return Moved(x, denoised, (unguided,))


def res_multistep_cfg_pp(step: Step) -> Moved:
    """The refined exponential solver by unguided pictures, from where guidance has moved the latents to."""
    return _res_multistep(step, straight_levels)


def res_multistep_ancestral_cfg_pp(step: Step) -> Moved:
    """The same to a level below the next one, then fresh noise."""
    return _res_multistep(step, ancestral_levels)


def _res_multistep(step: Step, levels: Levels) -> Moved:
    denoised, unguided = step.look_both()
    down, up = levels(step.here, step.there)
    if step.history and down > 0:
        x = toward(step.x + (denoised - unguided), unguided, step.here, down)
        x = x + res_bend(step, levels) * (unguided - step.history[0])
    else:
        x = _renoised(step, denoised, unguided, down)
    return Moved(noisy(x, up, step), denoised, (unguided,))


def gradient_estimation_cfg_pp(step: Step) -> Moved:
    """Euler steps whose unguided slope overshoots its last change twice over."""
    denoised, unguided = step.look_both()
    slope = (step.x - unguided) / step.here
    x = _renoised(step, denoised, unguided, step.there)
    if step.history and step.there > 0:
        x = x + (step.there - step.here) * (slope - step.history[0])
    return Moved(x, denoised, (slope,))


def _renoised(step: Step, denoised: np.ndarray, unguided: np.ndarray, level: float) -> np.ndarray:
    """The guided picture with the noise, as seen without guidance, of that level."""
    return denoised + (step.x - unguided) * (level / step.here)
