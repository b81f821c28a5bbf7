"""A picture in, a picture out: the tiny pack with a small real encoder graph beside its others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgegen.engine.estimate import graph_runs
from edgegen.engine.executor import Executor, NodePictures, NodeProgress
from edgegen.engine.nodes import Latents, check_for
from edgegen.engine.workbench import Workbench
from edgegen.workflow import parse_workflow

TINY = Path(__file__).parent.parent / "packs" / "tiny"
EXAMPLE = Path(__file__).parent.parent / "workflow" / "examples" / "sd15_img2img.json"


def test_the_example_runs_as_it_is(painting_bench: Workbench) -> None:
    checked = check_for(painting_bench, parse_workflow(EXAMPLE.read_bytes()))
    items = list(Executor(painting_bench).run(checked))
    assert isinstance(items[-1], NodePictures)
    assert items[-1].shown.pixels[0].shape == (64, 64, 3)
    steps = [item.steps for item in items if isinstance(item, NodeProgress) and item.step]
    assert steps == [20] * 20


def test_the_examples_cost_is_foretold_by_its_pictures_header(painting_bench: Workbench) -> None:
    runs = graph_runs(painting_bench, check_for(painting_bench, parse_workflow(EXAMPLE.read_bytes())))
    assert runs is not None
    sizes = {run.role: run.size for run in runs if run.size}
    assert sizes == {"vae_encoder": "64x64", "unet": "8x8", "vae_decoder": "8x8"}


def test_pictures_are_cut_in_the_middle_and_encoded_unscaled(painting_bench: Workbench) -> None:
    from edgegen.engine.nodes import NODES

    image, _ = NODES["LoadImage"].run(painting_bench, image="example.png")
    stages = painting_bench.stages(painting_bench.pack_for("anything"))
    (latents,) = NODES["VAEEncode"].run(painting_bench, pixels=image, vae=stages)
    assert isinstance(latents, Latents)
    assert (latents.samples.shape, latents.size) == ((1, 4, 8, 8), (64, 64))
    assert np.allclose(latents.samples[0, 2, 0, 0], image[0, 2, 0:8, 3:11].mean(), atol=1e-6)
