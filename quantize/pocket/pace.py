"""The learning rate of a run that ends with its time budget."""

from __future__ import annotations

import torch
from numpy import cos, pi


def set_pace(optimizer: torch.optim.Optimizer, peak: float, step: int, spent: float, warm_up: int) -> None:
    """Rise over `warm_up` steps, then fall along a half cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        peak: highest learning rate.
        step: steps done so far.
        spent: the part of the budget that is gone, 0 to 1.
    """
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + cos(pi * spent)) + 1e-6
