"""Workflow jobs on the real tiny pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.metadata import read_metadata
from edgegen.errors import BadRequest
from edgegen.jobs.job import JobRequest
from edgegen.jobs.renderer import Drawing, Step
from edgegen.jobs.workflowrenderer import JobRenderer
from edgegen.settings import Settings
from tests.support import text_to_image_graph

PACKS = Path(__file__).parent.parent / "packs"


@pytest.fixture(scope="module")
def renderer():
    engine = {"pack": "tiny", "pack_dirs": [PACKS], "provider": "cpu", "threads": 1}
    renderer = JobRenderer(Settings.model_validate({"engine": engine}))
    yield renderer
    renderer.unload()


def two_samplers() -> dict[str, Any]:
    """A first pass, a bigger second one; both are saved."""
    nodes = text_to_image_graph(sampler_name="dpmpp_sde", steps=3)
    again = {"denoise": 0.6, "seed": 11, "latent_image": ["20", 0], "sampler_name": "dpmpp_2m_sde"}
    scale = {"samples": ["3", 0], "upscale_method": "bilinear", "width": 96, "height": 96, "crop": "disabled"}
    return {
        **nodes,
        "20": {"class_type": "LatentUpscale", "inputs": scale},
        "21": {"class_type": "KSampler", "inputs": {**nodes["3"]["inputs"], **again}},
        "22": {"class_type": "VAEDecode", "inputs": {"samples": ["21", 0], "vae": ["4", 2]}},
        "23": {"class_type": "SaveImage", "inputs": {"filename_prefix": "big", "images": ["22", 0]}},
    }


def asked(nodes: dict[str, Any], job_id: str = "a") -> JobRequest:
    return JobRequest(job_id, "", workflow=json.dumps(nodes), workflow_name="inline")


def saved(drawing: Drawing, folder: Path) -> list[Path]:
    paths = []
    for number, save in enumerate((*drawing.others, drawing.save)):
        paths.append(folder / f"{number}.png")
        save(paths[-1])
    return paths


def test_steps_count_over_all_samplers_and_the_last_saved_picture_is_the_jobs(renderer, tmp_path):
    *steps, drawing = renderer.draw(asked(two_samplers()))
    told = [(step.step, step.steps) for step in steps]
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, 6), (6, 6))
    paths = saved(drawing, tmp_path)
    assert [Image.open(path).size for path in paths] == [(64, 64), (96, 96)]
    assert json.loads(Image.open(paths[1]).info["prompt"]) == two_samplers()
    told = read_metadata(paths[1])
    assert (told["packs"], told["seed"], told["title"]) == (["tiny"], 11, "workflow inline")
    assert drawing.seed == 11


@pytest.mark.parametrize("cut", [2, 4])
def test_a_job_cut_off_in_either_sampler_goes_on_to_the_identical_pictures(renderer, tmp_path, cut):
    *_, whole = renderer.draw(asked(two_samplers()))
    renderer.unload()
    parts = renderer.draw(asked(two_samplers()))
    state = next(part for part in parts if part.step == cut and part.checkpoint).checkpoint()
    parts.close()
    renderer.unload()
    *steps, rest = renderer.draw(asked(two_samplers()), state)
    assert {part.step for part in steps} == set(range(cut, 7))
    (tmp_path / "rest").mkdir()
    pairs = zip(saved(whole, tmp_path), saved(rest, tmp_path / "rest"), strict=True)
    assert all(np.array_equal(Image.open(one), Image.open(other)) for one, other in pairs)


def test_a_checkpoint_of_another_job_or_workflow_counts_for_nothing(renderer, caplog):
    parts = renderer.draw(asked(text_to_image_graph()))
    state = next(part for part in parts if part.step == 2).checkpoint()
    parts.close()
    renderer.unload()
    assert next(renderer.draw(asked(text_to_image_graph(), "b"), state)) == Step(0, 3)
    assert "job b starts anew: its checkpoint is of another provider, version or request" in caplog.text
    changed = list(renderer.draw(asked(text_to_image_graph(seed=8)), state))
    assert changed[0].step == 0, "the node's key is another"


def test_only_previews_are_kept_when_nothing_is_saved(renderer, tmp_path):
    nodes = text_to_image_graph()
    nodes["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    *_, drawing = renderer.draw(asked(nodes))
    assert [Image.open(path).size for path in saved(drawing, tmp_path)] == [(64, 64)]


def test_what_only_the_engine_knows_is_refused_there(renderer):
    nodes = text_to_image_graph()
    nodes["4"]["inputs"]["ckpt_name"] = "tinny"
    with pytest.raises(BadRequest, match=r"node 4 .*did you mean 'tiny'") as caught:
        list(renderer.draw(asked(nodes)))
    assert caught.value.code == "bad_workflow"


def test_prompts_and_workflows_take_turns(renderer):
    for _ in range(2):
        assert isinstance([*renderer.draw(JobRequest("p", "a red apple", steps=2))][-1], Drawing)
        assert isinstance([*renderer.draw(asked(text_to_image_graph()))][-1], Drawing)
