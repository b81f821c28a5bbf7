"""Which layers stay float: what is bought, and at what price."""

from __future__ import annotations

import random

from quantize.floatchoice import cheapest_to_keep
from quantize.sensitivity import LayerNoise


def layer(name: str, noise: float, weight_bytes: int = 100, macs: int = 100) -> LayerNoise:
    return LayerNoise(name, noise, weight_bytes, macs)


def test_of_equal_layers_the_loudest_stay_float():
    noises = [layer("a", 0.6), layer("b", 0.3), layer("c", 0.1)]
    assert cheapest_to_keep(noises, 1.0, 0.5, 5000) == ["a"]
    assert cheapest_to_keep(noises, 1.0, 0.2, 5000) == ["a", "b"]
    assert cheapest_to_keep(noises, 0.1, 0.5, 5000) == []


def test_a_layer_larger_than_the_budget_is_passed_over():
    noises = [layer("a", 0.6), layer("b", 0.3, weight_bytes=1000), layer("c", 0.1)]
    assert cheapest_to_keep(noises, 1.0, 0.2, 500) == ["a", "c"]


def test_two_cheap_layers_stay_float_instead_of_one_that_costs_more():
    noises = [layer("wide", 0.5, macs=10_000), layer("a", 0.3), layer("b", 0.25)]
    assert cheapest_to_keep(noises, 1.05, 0.6, 5000) == ["a", "b"]


def test_what_a_later_layer_makes_needless_is_given_back():
    noises = [layer("big", 0.9, macs=200), layer("small", 0.1, macs=1), layer("rest", 0.05, macs=9999)]
    assert cheapest_to_keep(noises, 1.05, 0.2, 5000) == ["big"]


def test_the_prediction_reaches_the_target_wherever_the_budget_allows():
    draw = random.Random(3)
    for _ in range(200):
        noises = [layer(f"n{i}", draw.random() ** 4, 100, draw.randint(1, 9999)) for i in range(20)]
        total = sum(n.noise for n in noises)
        measured, target = total * 1.5, total * draw.uniform(0.05, 1.5)
        kept = set(cheapest_to_keep(noises, measured, target, 1e9))
        left = 1.5 * sum(n.noise for n in noises if n.name not in kept)
        assert left <= target * (1 + 1e-9)
        for name in kept:  # not one of them is needless
            noise = next(n.noise for n in noises if n.name == name)
            assert left + 1.5 * noise > target
