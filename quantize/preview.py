"""How a pack's latents look: the factors of its previews, fitted on pictures it draws itself.

`python -m quantize.preview PACK` writes them into the `pack.json` of a pack that has none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgegen.diffusion.preview import fit_factors
from edgegen.pack import LatentRgb, Pack, write_manifest

from .prompts import calibration_prompts
from .runner import DRAWING_ROLES, Feeds, Recipe, Runner, open_session

PICTURES = 24
SEED = 700_000


def fit_latent_rgb(decoder: Path, records: Iterable[Feeds], latent_scale: float) -> LatentRgb | None:
    """Factors from what a decoder was fed with; None when it was fed with nothing."""
    session = open_session(decoder)
    fed = [record["latent_sample"] for record in records]
    if not fed:
        return None
    pictures = [session.run(None, {"latent_sample": one})[0] for one in fed]
    found = fit_factors([one * np.float32(latent_scale) for one in fed], pictures)
    return LatentRgb.model_validate({"factors": found.factors, "bias": found.bias})


def measure_pack(pack: Pack, prompts: Iterable[str]) -> LatentRgb | None:
    """The factors of a finished pack: one picture a prompt is drawn with it."""
    fed: list[Feeds] = []
    runner = Runner(
        {role: pack.graph(role) for role in pack.manifest.graphs if role in DRAWING_ROLES},
        Recipe.of_pack(pack),
        observer=lambda role, feeds, _: fed.append(feeds) if role == "vae_decoder" else None,
    )
    for seed, prompt in enumerate(prompts, start=SEED):
        runner.picture(prompt, seed)
    return fit_latent_rgb(pack.graph("vae_decoder"), fed, pack.manifest.latent_scale)


def main(folder: Path) -> None:
    """Measure and write; all else in `pack.json` stays as it is."""
    pack = Pack.open(folder)
    found = measure_pack(pack, calibration_prompts(PICTURES))
    write_manifest(folder, pack.manifest.model_copy(update={"latent_rgb": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
