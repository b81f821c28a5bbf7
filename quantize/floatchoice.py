"""Which layers stay float: those that take the most noise out of a graph for the time and memory they cost.

A float layer takes about three times the time and four times the memory of an 8-bit one. The loudest layers
of a denoiser see all of its places; a narrow one beside them often buys as much for a tenth of the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .sensitivity import LayerNoise


def cheapest_to_keep(
    noises: Sequence[LayerNoise], measured: float, target: float, budget_bytes: float
) -> list[str]:
    """Layers that must stay float for the noise to reach a target, at little cost; loudest first.

    Greedy by noise over cost, then what turned out not to be needed is given back (the usual approximation
    of a knapsack, Dantzig 1957).

    Args:
        noises: of all layers.
        measured: noise ratio with all of them quantized; predictions are scaled to it.
        target: the largest noise ratio allowed.
        budget_bytes: float32 weight bytes that may stay float; larger layers are passed over.
    """
    total = sum(layer.noise for layer in noises)
    scale = measured / total if total > 0 else 0.0
    costs = _costs(noises)
    kept: list[LayerNoise] = []
    left = measured
    for layer in sorted(noises, key=lambda n: -n.noise / costs[n.name]):
        if left <= target:
            break
        if layer.weight_bytes <= budget_bytes:
            kept.append(layer)
            budget_bytes -= layer.weight_bytes
            left -= layer.noise * scale
    needed = _without_spare(kept, costs, (target - left) / scale if scale > 0 else 0.0)
    return [layer.name for layer in sorted(needed, key=lambda n: -n.noise)]


def _costs(noises: Sequence[LayerNoise]) -> dict[str, float]:
    """By name: a layer's share of the graph's multiply-adds plus its share of the weights."""
    macs = max(1, sum(layer.macs for layer in noises))
    weights = max(1, sum(layer.weight_bytes for layer in noises))
    return {n.name: max(1e-9, n.macs / macs + n.weight_bytes / weights) for n in noises}


def _without_spare(kept: Sequence[LayerNoise], costs: Mapping[str, float], spare: float) -> list[LayerNoise]:
    """Give back the costliest layers whose noise still fits into what is left of the target."""
    needed = []
    for layer in sorted(kept, key=lambda n: -costs[n.name]):
        if layer.noise <= spare:
            spare -= layer.noise
        else:
            needed.append(layer)
    return needed
