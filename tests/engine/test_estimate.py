"""What is foretold of a workflow is what its run then does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.engine.estimate import (
    GraphRuns,
    estimate_seconds,
    graph_runs,
    measure,
    peak_memory,
)
from edgegen.engine.executor import Executor
from edgegen.engine.graphtimes import GraphTimes
from edgegen.engine.memorychoice import memory_needs
from edgegen.engine.nodes import check_for, packs_of, remarks_on
from edgegen.engine.session import GraphSession
from edgegen.engine.workbench import Workbench
from edgegen.settings import LimitSettings
from edgegen.workflow import CheckedWorkflow
from edgegen.workflow.parse import workflow_from
from tests.support import text_to_image_graph

PACKS = Path(__file__).parent.parent / "packs"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    (tmp_path / "input").mkdir()
    bench = Workbench([PACKS], {}, tmp_path / "input", LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def check(bench: Workbench, nodes: dict[str, Any]) -> CheckedWorkflow:
    return check_for(bench, workflow_from(nodes))


def real_runs(bench: Workbench, checked: CheckedWorkflow, monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """(role, HEIGHTxWIDTH) of every run of every graph."""
    found: Counter[Any] = Counter()
    original = GraphSession.run

    def run(self: GraphSession, feeds: Any) -> Any:
        shapes = [value.shape[2:] for value in feeds.values() if np.ndim(value) == 4]
        found[self.name, "x".join(map(str, shapes[0])) if shapes else ""] += 1
        return original(self, feeds)

    with monkeypatch.context() as patched:
        patched.setattr(GraphSession, "run", run)
        list(Executor(bench).run(checked))
    return found


def foretold(bench: Workbench, checked: CheckedWorkflow) -> Counter[Any]:
    runs = graph_runs(bench, checked)
    assert runs is not None
    assert {run.pack for run in runs} == {"tiny"}
    return Counter({(run.role, run.size): times for run, times in runs.items()})


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_samplers_looks_are_counted(bench, monkeypatch, sampler) -> None:
    checked = check(bench, text_to_image_graph(sampler_name=sampler, steps=4))
    assert foretold(bench, checked) == real_runs(bench, checked, monkeypatch)


@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp", "res_multistep_ancestral_cfg_pp"])
def test_without_guidance_looks_are_counted_as_they_are(bench, monkeypatch, sampler) -> None:
    checked = check(bench, text_to_image_graph(sampler_name=sampler, steps=4, cfg=1))
    found = foretold(bench, checked)
    assert found == real_runs(bench, checked, monkeypatch)
    assert found["unet", "8x8"] == (4 if sampler == "euler" else 8)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("dpmpp_2m_sde_gpu", "node 3 (KSampler): dpmpp_2m_sde_gpu draws its noise on the processor here"),
        ("dpmpp_3m_sde", "node 3 (KSampler): dpmpp_3m_sde draws its noise from another stream"),
        ("euler_ancestral", None),
    ],
)
def test_a_verdict_says_whose_noise_it_is(bench, sampler: str, said: str | None) -> None:
    found = remarks_on(check(bench, text_to_image_graph(sampler_name=sampler)))
    assert [text[: len(said or "")] for text in found] == ([said] if said else [])


def test_sizes_batches_guidance_and_combined_words_are_followed(bench, monkeypatch) -> None:
    nodes = text_to_image_graph(cfg=1)
    nodes["5"]["inputs"] |= {"height": 32, "batch_size": 2}
    both = {"conditioning_1": ["6", 0], "conditioning_2": ["12", 0]}
    scale = {"samples": ["3", 0], "upscale_method": "bilinear", "scale_by": 2.0}
    again = {"latent_image": ["20", 0], "denoise": 0.5, "cfg": 3.0, "positive": ["13", 0]}
    nodes |= {
        "12": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "13": {"class_type": "ConditioningCombine", "inputs": both},
        "20": {"class_type": "LatentUpscaleBy", "inputs": scale},
        "21": {"class_type": "KSampler", "inputs": {**nodes["3"]["inputs"], **again}},
    }
    nodes["8"]["inputs"]["samples"] = ["21", 0]
    checked = check(bench, nodes)
    assert foretold(bench, checked) == real_runs(bench, checked, monkeypatch)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_sampler_taken_apart_is_followed(bench, monkeypatch, sampler: str) -> None:
    nodes = text_to_image_graph()
    names = ("model", "cfg", "positive", "negative", "latent_image")
    kept = {name: nodes["3"]["inputs"][name] for name in names}
    parts = {"sampler": ["12", 0], "sigmas": ["13", 0], "add_noise": True, "noise_seed": 1}
    levels = {"steps": 3, "sigma_max": 14.0, "sigma_min": 0.1, "rho": 7.0}
    nodes |= {
        "3": {"class_type": "SamplerCustom", "inputs": kept | parts},
        "12": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": sampler}},
        "13": {"class_type": "KarrasScheduler", "inputs": levels},
    }
    checked = check(bench, nodes)
    assert foretold(bench, checked) == real_runs(bench, checked, monkeypatch)


def test_areas_and_tiles_are_of_sizes_that_nobody_foretells(bench) -> None:
    area = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0, "conditioning": ["6", 0]}
    both = {"conditioning_1": ["12", 0], "conditioning_2": ["7", 0]}
    nodes = text_to_image_graph()
    nodes |= {
        "12": {"class_type": "ConditioningSetArea", "inputs": area},
        "13": {"class_type": "ConditioningCombine", "inputs": both},
    }
    nodes["3"]["inputs"]["positive"] = ["13", 0]
    assert graph_runs(bench, check(bench, nodes)) is None
    tiled = text_to_image_graph()
    tiled["8"] = {"class_type": "VAEDecodeTiled", "inputs": {**tiled["8"]["inputs"], "tile_size": 64}}
    assert graph_runs(bench, check(bench, tiled)) is None


def test_sizes_that_words_speak_of_are_not_the_pictures(bench, monkeypatch) -> None:
    xl = Workbench([PACKS / "families"], {"*": "tiny-xl"}, bench.input_dir, LimitSettings(), "cpu", 1)
    nodes = text_to_image_graph()
    sizes = dict.fromkeys(("width", "height", "target_width", "target_height"), 128)
    words = {"crop_w": 0, "crop_h": 0, "text_g": "a cat", "text_l": "the sea", "clip": ["4", 1]}
    nodes["6"] = {"class_type": "CLIPTextEncodeSDXL", "inputs": sizes | words}
    nodes["4"]["inputs"]["ckpt_name"] = "sd_xl_base_1.0.safetensors"
    checked = check(xl, nodes)
    runs = graph_runs(xl, checked)
    assert runs is not None
    found = Counter({(run.role, run.size): times for run, times in runs.items()})
    assert found == real_runs(xl, checked, monkeypatch)
    xl.close()


RUNS = {GraphRuns("tiny", "text_encoder", ""): 2, GraphRuns("tiny", "unet", "64x64"): 10}
PACE = {"tiny/cpu/text_encoder/": 0.5, "tiny/cpu/unet/32x32": 1.0, "tiny/cpu/unet/128x128": 20.0}


def test_seconds_come_from_the_same_size_else_from_the_nearest_else_they_are_unknown() -> None:
    near = estimate_seconds(RUNS, "cpu", PACE)
    assert near.seconds == 2 * 0.5 + 10 * 4.0
    assert near.note.startswith("from other sizes")
    exact = estimate_seconds(RUNS, "cpu", {**PACE, "tiny/cpu/unet/64x64": 3.0})
    assert (exact.seconds, exact.note.split(";")[0]) == (31.0, "as measured on this device")
    unknown = estimate_seconds(RUNS, "openvino", PACE)
    assert unknown.seconds is None
    assert "has not run text_encoder of pack tiny on provider openvino yet" in unknown.note
    assert estimate_seconds(None, "cpu", PACE).seconds is None


def test_measuring_makes_everything_known(bench) -> None:
    checked = check(bench, text_to_image_graph())
    runs = graph_runs(bench, checked)
    told = estimate_seconds(runs, "cpu", measure(bench, runs))
    assert told.seconds is not None
    assert told.seconds > 0
    assert told.note.startswith("as measured")


def test_memory_is_that_of_the_mode_the_pack_would_get(bench) -> None:
    checked = check(bench, text_to_image_graph())
    packs = packs_of(bench, checked)
    need = memory_needs(packs["tiny"].manifest, (64, 64)).mb["full"]
    assert peak_memory(bench, packs, graph_runs(bench, checked)) == (need, "in memory mode full")
    own = packs["tiny"].manifest.min_ram_mb
    assert peak_memory(bench, packs, None) == (own, "in memory mode full")


def test_a_first_run_counts_only_while_it_is_the_only_one() -> None:
    times = GraphTimes()
    feeds = {"sample": np.zeros((2, 4, 8, 16)), "timestep": np.zeros(1)}
    times.note("unet", feeds, 9.0)
    assert times.pace("p", "cpu") == {"p/cpu/unet/8x16": 4.5}
    times.note("unet", feeds, 2.0)
    times.note("unet", feeds, 4.0)
    times.note("text_encoder", {"input_ids": np.zeros((1, 77))}, 0.5)
    assert times.pace("p", "cpu") == {"p/cpu/unet/8x16": 1.5, "p/cpu/text_encoder/": 0.5}
