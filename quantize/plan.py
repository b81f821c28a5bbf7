"""How much recording and judging a build can afford: reckoned from sizes, so that it is the same everywhere.

The clock is never asked: a build that was cut off and went on must make the same pack, and so must a build
on another machine. What a graph costs is reckoned in multiply-adds on two x86 cores with AVX-512; a slower
PC takes longer, and does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .runner import Recipe

MACS_A_SECOND = 60e9  # float32, ONNX Runtime, two cores with AVX-512 and no matrix unit
UNET_MACS = 0.114  # of every parameter, a place in the latents: 400e9 at 64 x 64 in Stable Diffusion 1.5
DECODER_MACS = 6.2  # the same for its decoder, whose later layers see up to 64 pixels a place
OBSERVED, EVALUATED = 1.15, 1.5  # an observed run, and a float run with its INT8 run, in float runs
RECORDING, JUDGING, DRAWING = 0.22, 0.13, 0.25  # shares of the budget
FEWEST_STEPS = 4
LARGE_CROP, SMALL_CROP = 32, 16
MOST_PROBES = 6
JUDGED_TOGETHER = 8  # layers of a large graph
LARGE_S = 30.0  # a picture


@dataclass(frozen=True)
class Plan:
    """What is done of what was asked for.

    Attributes:
        recording_pictures, recording_steps: pictures that are made to see what graphs are given.
        drawing_pictures, drawing_steps: pictures by which the pack is compared with float32.
        probes: held-out runs by which layers are judged.
        crop: side their latents are cut to.
        rounds: how often a graph may be written anew to reach its target.
        group: neighbouring layers that are judged together first.
    """

    recording_pictures: int
    recording_steps: int
    drawing_pictures: int
    drawing_steps: int
    probes: int
    crop: int
    rounds: int = 3
    group: int = 1


@dataclass(frozen=True)
class Costs:
    """Seconds, reckoned: one run of the float denoiser and decoder at the recipe's size."""

    unet_s: float
    decoder_s: float

    def picture_s(self, steps: int, passes: int) -> float:
        return steps * passes * self.unet_s + self.decoder_s


def reckon(weight_bytes: Mapping[str, int], recipe: Recipe) -> Costs:
    """Costs of float32 graphs from the sizes of their weights."""
    places = (recipe.height // recipe.latent_downscale) * (recipe.width // recipe.latent_downscale)

    def seconds(role: str, macs: float) -> float:
        return weight_bytes.get(role, 0) / 4 * places * macs / MACS_A_SECOND

    return Costs(seconds("unet", UNET_MACS), seconds("vae_decoder", DECODER_MACS))


def make_plan(
    weight_bytes: Mapping[str, int],
    recipe: Recipe,
    unet_layers: int,
    recording_pictures: int,
    drawing_pictures: int,
    budget_s: float,
) -> Plan:
    """As many pictures as asked for where they fit into the budget, else fewer, of fewer steps."""
    costs, passes = reckon(weight_bytes, recipe), 1 if recipe.guidance == 1 else 2
    recorded = _fit(
        _times(costs, OBSERVED), recipe.steps, passes, recording_pictures, 2, budget_s * RECORDING
    )
    drawn = _fit(_times(costs, EVALUATED), recipe.steps, passes, drawing_pictures, 1, budget_s * DRAWING)
    latents = min(recipe.height, recipe.width) // recipe.latent_downscale
    probes = 0.0
    for crop in (LARGE_CROP, SMALL_CROP):
        share = min(1.0, (crop / latents) ** 2)
        probes = budget_s * JUDGING / max(1e-9, unet_layers * costs.unet_s * share)
        if probes >= 2:
            break
    whole_s = costs.picture_s(recipe.steps, passes)
    judged = max(1, min(MOST_PROBES, int(probes)))
    if whole_s <= LARGE_S:
        return Plan(*recorded, *drawn, judged, crop)
    return Plan(*recorded, *drawn, judged, crop, rounds=1, group=JUDGED_TOGETHER)


def _times(costs: Costs, factor: float) -> Costs:
    return replace(costs, unet_s=costs.unet_s * factor, decoder_s=costs.decoder_s * factor)


def _fit(costs: Costs, steps: int, passes: int, wanted: int, fewest: int, budget_s: float) -> tuple[int, int]:
    """(pictures, steps): fewer pictures first, then fewer steps."""
    fewest = min(fewest, wanted)
    pictures = int(budget_s / max(1e-9, costs.picture_s(steps, passes)))
    if pictures >= fewest:
        return min(pictures, wanted), steps
    left = budget_s / max(1, fewest) - costs.decoder_s
    affordable = int(left / max(1e-9, passes * costs.unet_s))
    return fewest, max(min(FEWEST_STEPS, steps), min(affordable, steps))
