"""Sampling with noise and guidance from nodes of their own, levels cut in two, words for a part of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.diffusion.schedulers import part_of_run
from edgegen.diffusion.schedules import alphas_cumprod, sigmas_of
from edgegen.engine.conditioning import Encoding, speaking
from edgegen.engine.estimate import graph_runs
from edgegen.engine.executor import Executor, NodePictures, NodeProgress
from edgegen.engine.nodes import NODES, check_for
from edgegen.engine.request import noise_schedule
from edgegen.engine.workbench import Workbench
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow, CheckedWorkflow
from edgegen.workflow.parse import workflow_from
from tests.engine.test_estimate import real_runs
from tests.support import text_to_image_graph

PACKS = Path(__file__).parent.parent / "packs"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    bench = Workbench([PACKS], {}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def checked(bench: Workbench, data: dict[str, Any]) -> CheckedWorkflow:
    return check_for(bench, workflow_from(data))


def shown(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    (found,) = [item for item in Executor(bench).run(checked(bench, data)) if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def foretold(bench: Workbench, data: dict[str, Any]) -> dict[Any, int]:
    runs = graph_runs(bench, checked(bench, data))
    assert runs is not None
    return {(run.role, run.size): times for run, times in runs.items()}


def apart(sampler: str = "euler", guider: dict[str, Any] | None = None) -> dict[str, Any]:
    """The graph of `text_to_image_graph` with its sampler taken apart into all nodes there are."""
    data = text_to_image_graph()
    links = {name: data["3"]["inputs"][name] for name in ("model", "positive", "negative")}
    return data | {
        "3": node(
            "SamplerCustomAdvanced",
            noise=["20", 0],
            guider=["21", 0],
            sampler=["22", 0],
            sigmas=["23", 0],
            latent_image=["5", 0],
        ),
        "20": node("RandomNoise", noise_seed=7),
        "21": guider or node("CFGGuider", **links, cfg=3.0),
        "22": node("KSamplerSelect", sampler_name=sampler),
        "23": node("BasicScheduler", model=["4", 0], scheduler="normal", steps=3, denoise=1.0),
    }


BASIC = node("BasicGuider", model=["4", 0], conditioning=["6", 0])


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "euler_cfg_pp"])
def test_all_apart_it_is_what_ksampler_makes(bench: Workbench, sampler: str) -> None:
    whole = shown(bench, text_to_image_graph(sampler_name=sampler))
    np.testing.assert_array_equal(shown(bench, apart(sampler)), whole)


def test_a_basic_guider_is_one_pass(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    data = apart(guider=BASIC)
    assert foretold(bench, data) == real_runs(bench, checked(bench, data), monkeypatch)
    np.testing.assert_array_equal(shown(bench, data), shown(bench, text_to_image_graph(cfg=1)))
    assert foretold(bench, data)["unet", "8x8"] == 3
    assert foretold(bench, apart())["unet", "8x8"] == 6
    with pytest.raises(BadWorkflow, match="euler_cfg_pp looks at what not to draw, too: take a CFGGuider"):
        shown(bench, apart("euler_cfg_pp", BASIC))


def test_disable_noise_starts_from_the_latents_as_they_are(bench: Workbench) -> None:
    silent = apart() | {"20": node("DisableNoise")}
    data = text_to_image_graph()
    how = {"noise_seed": 5, "add_noise": "disable", "start_at_step": 0, "end_at_step": 9}
    inputs = {name: value for name, value in data["3"]["inputs"].items() if name not in ("seed", "denoise")}
    data["3"] = node("KSamplerAdvanced", **inputs, **how, return_with_leftover_noise="disable")
    np.testing.assert_array_equal(shown(bench, silent), shown(bench, data))
    assert not np.array_equal(shown(bench, silent), shown(bench, apart()))


def test_what_a_guider_leads_to_is_checked_by_node(bench: Workbench) -> None:
    data = apart()
    data["5"]["inputs"]["width"] = 512
    with pytest.raises(BadWorkflow, match=r"node 5 \(EmptyLatentImage\) width: 512 is not allowed"):
        checked(bench, data)
    data = apart()
    data["3"]["inputs"]["guider"] = ["20", 0]
    with pytest.raises(BadWorkflow, match="guider: takes GUIDER, but is linked to NOISE"):
        checked(bench, data)


def test_a_guiders_sampler_shows_previews(bench: Workbench) -> None:
    steps = [
        p for p in Executor(bench).run(checked(bench, apart())) if isinstance(p, NodeProgress) and p.step
    ]
    assert [(p.step, p.steps) for p in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(p.manifest is not None and p.manifest.name == "tiny" for p in steps)


@pytest.mark.parametrize("split", ["SplitSigmas", "SplitSigmasDenoise"])
def test_levels_cut_in_two_make_the_whole_picture(bench: Workbench, split: str) -> None:
    whole = apart()
    cut = {"step": 1} if split == "SplitSigmas" else {"denoise": 0.7}  # two of three steps
    data = apart() | {
        "24": node(split, sigmas=["23", 0], **cut),
        "25": node("DisableNoise"),
        "26": node(
            "SamplerCustomAdvanced",
            noise=["25", 0],
            guider=["21", 0],
            sampler=["22", 0],
            sigmas=["24", 1],
            latent_image=["3", 0],
        ),
    }
    data["3"]["inputs"]["sigmas"] = ["24", 0]
    data["8"]["inputs"]["samples"] = ["26", 0]
    np.testing.assert_allclose(shown(bench, data).astype(int), shown(bench, whole), atol=1)
    assert foretold(bench, data) == foretold(bench, whole)


def test_split_sigmas_at_their_ends() -> None:
    sigmas = np.array([4.0, 3.0, 2.0, 0.0])

    def halves(name: str, **how: Any) -> list[list[float]]:
        return [part.tolist() for part in NODES[name].run(None, sigmas=sigmas, **how)]

    assert halves("SplitSigmas", step=0) == [[4], [4, 3, 2, 0]]
    assert halves("SplitSigmas", step=9) == [[4, 3, 2, 0], []]
    assert halves("SplitSigmasDenoise", denoise=0.0) == [[], [0]]
    assert halves("SplitSigmasDenoise", denoise=1.0) == [[4], [4, 3, 2, 0]]
    assert halves("SplitSigmasDenoise", denoise=0.4) == [[4, 3, 2], [2, 0]]


def test_levels_by_formula(bench: Workbench) -> None:
    how = {"steps": 5, "sigma_max": 16.0, "sigma_min": 1.0}
    (even,) = NODES["PolyexponentialScheduler"].run(None, **how, rho=1.0)
    np.testing.assert_allclose(even, [16, 8, 4, 2, 1, 0])
    (crowded,) = NODES["PolyexponentialScheduler"].run(None, **how, rho=2.0)
    np.testing.assert_allclose(crowded, [*(2.0 ** (4 * np.array([1, 0.75, 0.5, 0.25, 0]) ** 2)), 0])
    (vp,) = NODES["VPScheduler"].run(None, steps=3, beta_d=19.9, beta_min=0.1, eps_s=0.001)
    t = np.array([1, 0.5005, 0.001])
    np.testing.assert_allclose(vp, [*np.sqrt(np.exp(19.9 * t**2 / 2 + 0.1 * t) - 1), 0])
    stages = bench.stages(bench.pack_for("tiny"))
    manifest = stages.pack.manifest
    (beta,) = NODES["BetaSamplingScheduler"].run(bench, model=stages, steps=6, alpha=0.6, beta=0.6)
    run = part_of_run("euler", noise_schedule(manifest), manifest.prediction_type, 6, "beta")
    assert run is not None
    np.testing.assert_array_equal(beta, run.sigmas)
    (clean,) = NODES["BetaSamplingScheduler"].run(bench, model=stages, steps=6, alpha=0.6, beta=3.0)
    trained = sigmas_of(alphas_cumprod(noise_schedule(manifest)))
    assert set(clean[:-1]) <= set(trained)
    assert np.median(clean) < np.median(beta)


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (node("PolyexponentialScheduler", steps=3, sigma_max=14.0, sigma_min=0.1, rho=0), "rho: 0 is not"),
        (node("PolyexponentialScheduler", steps=3, sigma_max=0.1, sigma_min=14.0, rho=1), "must be above"),
        (node("BetaSamplingScheduler", model=["4", 0], steps=3, alpha=0, beta=0.6), "alpha: 0 is not"),
        (node("VPScheduler", steps=101, beta_d=19.9, beta_min=0.1, eps_s=0.001), "steps: 101 is not"),
        (node("VPScheduler", steps=3, beta_d=0, beta_min=0, eps_s=0.001), "beta_min: 0 is not"),
        (node("VPScheduler", steps=3, beta_d=1, beta_min=1, eps_s=1), "eps_s: 1 is not"),
    ],
)
def test_levels_that_do_not_fall_are_refused(bench: Workbench, levels: dict[str, Any], said: str) -> None:
    with pytest.raises(BadWorkflow, match=said):
        checked(bench, apart() | {"23": levels})


def ranged(first: tuple[float, float], second: tuple[float, float], **how: Any) -> dict[str, Any]:
    """Two texts, each in a part of the run."""
    data = text_to_image_graph(steps=6, **how)
    return data | {
        "10": node("CLIPTextEncode", text="the sea", clip=["4", 1]),
        "11": node("ConditioningSetTimestepRange", conditioning=["6", 0], start=first[0], end=first[1]),
        "12": node("ConditioningSetTimestepRange", conditioning=["10", 0], start=second[0], end=second[1]),
        "13": node("ConditioningCombine", conditioning_1=["11", 0], conditioning_2=["12", 0]),
        "3": node("KSampler", **data["3"]["inputs"] | {"positive": ["13", 0]}),
    }


def test_words_count_in_their_part_of_the_run(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ranged((0.0, 0.5), (0.5, 1.0))
    assert foretold(bench, data) == real_runs(bench, checked(bench, data), monkeypatch)
    both = shown(bench, data)
    only_first = shown(bench, text_to_image_graph(steps=6))
    only_second = shown(bench, text_to_image_graph("the sea", steps=6))
    assert not np.array_equal(both, only_first)
    assert not np.array_equal(both, only_second)
    np.testing.assert_array_equal(shown(bench, ranged((0.0, 1.0), (1.0, 1.0))), only_first)
    np.testing.assert_array_equal(shown(bench, ranged((0.0, 0.0), (0.0, 1.0))), only_second)
    assert foretold(bench, data)["unet", "8x8"] == 12  # one text at a time on each side
    assert foretold(bench, ranged((0.0, 1.0), (0.5, 1.0)))["unet", "8x8"] == 15


def test_a_part_of_the_run_without_words_is_refused(bench: Workbench) -> None:
    with pytest.raises(BadWorkflow, match=r"node 3 \(KSampler\) positive: nothing is said at 0\.4"):
        shown(bench, ranged((0.0, 0.4), (0.6, 1.0)))
    # a run that never gets there does not need it
    assert shown(bench, ranged((0.0, 0.1), (0.3, 1.0), denoise=0.5)).shape == (1, 64, 64, 3)
    data = ranged((0.0, 1.0), (0.0, 1.0), cfg=1) | {
        "14": node("ConditioningSetTimestepRange", conditioning=["7", 0], start=0.9, end=1.0)
    }
    data["3"]["inputs"]["negative"] = ["14", 0]
    shown(bench, data)  # not asked without guidance
    data["3"]["inputs"]["cfg"] = 2.0
    with pytest.raises(BadWorkflow, match=r"node 3 \(KSampler\) negative: nothing is said at 0\.000"):
        shown(bench, data)


def test_who_speaks_at_the_bounds_of_a_part() -> None:
    one = Encoding(np.zeros((1, 1, 1), np.float32), start=0.25, end=0.5)
    heard = [timestep for timestep in range(101) if speaking([one], timestep, 101)]
    assert heard == list(range(50, 76))
    never = Encoding(one.hidden, start=1.0)
    assert not any(speaking([never], timestep, 101) for timestep in range(101))
