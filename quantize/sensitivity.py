"""Which layers 8 bits hurt: how much of the noise in a graph's result comes of rounding each one alone.

What 8 bits do inside a layer follows from its weights and from what it was seen to be given
(`layerrounding`). What that does to the result is measured (`probe`). Noise of different layers is nearly
independent, so powers add: the sum over layers predicts the noise of all (`floatchoice` builds on that), and
neighbours whose noise together is small are all quiet: where judging is dear, groups of neighbours are
judged first, and only the layers of loud groups alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization.calibrate import TensorsData

from .calibrate import Records
from .int8 import Int8Format
from .layerrounding import LayerRounding, layer_roundings
from .metrics import ratio_db
from .observe import Observations
from .probe import Probe
from .runner import Feeds

CROP_LATENTS = 32
HINT = "controlnet_cond"
LOUD_SHARE = 0.005  # of all noise: a group with less holds no layer that is worth a look of its own
FEWEST_GROUPS = 16  # of fewer, most would be loud


@dataclass(frozen=True)
class LayerNoise:
    """What 8 bits in one layer alone do to the graph's first output.

    Attributes:
        noise: energy of the difference over energy of the float output.
        weight_bytes: of the float32 weight.
        macs: multiply-adds of one run, of inputs as they were cropped; only ratios count.
        is_shared: judged with its neighbours, and this is its share of their noise.
    """

    name: str
    noise: float
    weight_bytes: int
    macs: int
    is_shared: bool = False

    @property
    def sqnr_db(self) -> float:
        return ratio_db(1.0, self.noise)


def layer_noises(
    graph: Path,
    seen: Observations,
    ranges: TensorsData,
    records: Records,
    number_format: Int8Format,
    crop: int = CROP_LATENTS,
    group: int = 1,
) -> list[LayerNoise]:
    """Noise of every layer with weights, loudest first.

    Args:
        graph: float, with annotated types.
        records: inputs to judge by.
        crop: sides to cut pictures and latents to, in elements.
        group: neighbouring layers that are judged together first; 1: every layer is judged alone.
    """
    roundings = layer_roundings(graph, seen, ranges, number_format)
    probe = Probe(graph, roundings, [cropped(feed, crop) for feed in records])
    noises, is_shared = judge_layers(probe, roundings, group)
    judged = zip(roundings, noises, probe.sizes, is_shared, strict=True)
    found = [LayerNoise(r.name, e, r.weight_bytes, r.macs(size), shared) for r, e, size, shared in judged]
    return sorted(found, key=lambda layer: -layer.noise)


def judge_layers(
    probe: Probe, roundings: Sequence[LayerRounding], group: int
) -> tuple[list[float], list[bool]]:
    """Of each layer its noise, and whether that is its share of a quiet group's."""
    count = len(roundings)
    group = group if count >= FEWEST_GROUPS * group else 1
    groups = [range(start, min(start + group, count)) for start in range(0, count, group)]
    joint = probe.noises(groups)
    if group == 1:
        return joint.tolist(), [False] * count
    noises = [
        noise
        for members, together in zip(groups, joint, strict=True)
        for noise in _shared(together, [roundings[i] for i in members])
    ]
    is_loud = joint > LOUD_SHARE * joint.sum()
    alone = [i for members, loud in zip(groups, is_loud, strict=True) if loud for i in members]
    for i, noise in zip(alone, probe.noises([(i,) for i in alone]), strict=True):
        noises[i] = float(noise)
    return noises, [i not in set(alone) for i in range(count)]


def _shared(noise: float, members: Sequence[LayerRounding]) -> list[float]:
    """A group's noise, shared among its layers as the noise that arises in each says."""
    own = np.array([layer.own_noise for layer in members])
    shares = own / own.sum() if own.sum() > 0 else np.full(len(members), 1 / len(members))
    return (noise * shares).tolist()


def cropped(feeds: Feeds, side: int) -> Feeds:
    """The middle of every picture or latents, (batch, channels, side, side) at most; of a hint as much as
    belongs to that."""
    latents = feeds.get("sample")
    found = {}
    for name, value in feeds.items():
        scale = value.shape[2] // latents.shape[2] if name == HINT and latents is not None else 1
        found[name] = _middle(value, side * scale) if value.ndim == 4 else value
    return found


def _middle(value: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(0, (size - side) // 2) for size in value.shape[2:])
    return value[:, :, top : top + side, left : left + side]
