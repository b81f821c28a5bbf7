"""Stable Diffusion XL and guidance-distilled models, through real sessions on packs of their layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.errors import EngineError
from edgegen.jobs.job import JobRequest
from edgegen.pack import Pack, file_entry
from edgegen.settings import LimitSettings

FAMILIES = Path(__file__).parent.parent / "packs" / "families"
SETTINGS = GenerationSettings("a red apple", "a dog", 7, 2, 3.0, 64, 64, "euler")


@pytest.fixture
def xl() -> Iterator[TextToImage]:
    with TextToImage(Pack.open(FAMILIES / "tiny-xl"), "cpu", 1) as engine:
        yield engine


@pytest.fixture
def lcm() -> Iterator[TextToImage]:
    with TextToImage(Pack.open(FAMILIES / "tiny-lcm"), "cpu", 1) as engine:
        yield engine


@pytest.fixture
def changed_xl(tmp_path: Path) -> Callable[..., Pack]:
    """A copy whose first text encoder's graph went through a function."""

    def make(change: Callable[[onnx.ModelProto], None]) -> Pack:
        folder = Path(shutil.copytree(FAMILIES / "tiny-xl", tmp_path / "xl"))
        name = "text_encoder/model.onnx"
        model = onnx.load(folder / name)
        change(model)
        onnx.save(model, folder / name)
        data = json.loads((folder / "pack.json").read_text("utf-8"))
        data["graphs"]["text_encoder"]["files"][name] = file_entry(folder / name).model_dump()
        (folder / "pack.json").write_text(json.dumps(data), "utf-8")
        return Pack.open(folder)

    return make


def draw(engine: TextToImage, **changes: Any) -> np.ndarray:
    *_, picture = engine.generate(replace(SETTINGS, **changes))
    assert isinstance(picture, Picture)
    return picture.pixels


def runs(engine: TextToImage, *roles: str) -> list[int]:
    return [engine.sessions.get(role).runs for role in roles]


def test_both_encoders_read_every_prompt_once(xl: TextToImage) -> None:
    draw(xl)
    draw(xl, seed=8)
    assert runs(xl, "text_encoder", "text_encoder_2", "unet") == [2, 2, 8]
    encoding = xl.stages.encode("a red apple")
    assert encoding.hidden.shape == (1, 77, 20)
    assert encoding.pooled is not None
    assert encoding.pooled.shape == (1, 12)


def test_an_empty_negative_prompt_is_zeros_and_is_not_read(xl: TextToImage) -> None:
    plain = draw(xl, negative_prompt="")
    assert runs(xl, "text_encoder", "text_encoder_2") == [1, 1]
    wanted, unwanted = xl.stages.encode_prompts("a red apple", "", both_passes=True)
    assert unwanted is not None
    assert unwanted[0].pooled is not None
    assert not unwanted[0].hidden.any()
    assert not unwanted[0].pooled.any()
    assert wanted[0].hidden.any()
    assert not np.array_equal(plain, draw(xl))


def test_summary_and_sizes_reach_the_denoiser(xl: TextToImage) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    encoding = xl.stages.encode("a red apple")
    sizes = np.array([[64, 64, 0, 0, 64, 64]], np.float32)
    plain, same, cropped, blank = (
        xl.stages.unet(latents, 500.0, told)
        for told in (
            encoding,
            replace(encoding, time_ids=sizes),
            replace(encoding, time_ids=sizes + 32),
            replace(encoding, pooled=encoding.zeroed().pooled),
        )
    )
    assert np.array_equal(plain, same)
    assert not np.allclose(plain, cropped, atol=1e-3)
    assert not np.allclose(plain, blank, atol=1e-3)


def test_weights_move_the_rows_of_both_encoders_and_not_the_summary(xl: TextToImage) -> None:
    plain, more = xl.stages.words.encode(["a red apple", "a (red:1.5) apple"])
    moved = ~np.isclose(plain.hidden, more.hidden, atol=1e-4)[0]
    first, second = (rows.any(axis=1).nonzero()[0].tolist() for rows in (moved[:, :8], moved[:, 8:]))
    assert first == second
    assert first
    assert 1 not in first  # the word before
    assert np.array_equal(plain.pooled, more.pooled)


@pytest.mark.parametrize("how", [{"memory": "low"}, {"memory": "mapped"}, {"batch_guidance": True}])
def test_other_ways_to_the_same_picture(xl: TextToImage, how: dict[str, Any]) -> None:
    with TextToImage(xl.pack, "cpu", 1, **how) as other:
        assert np.abs(draw(other).astype(int) - draw(xl)).max() <= 1


def test_low_memory_loads_each_encoder_once_for_both_prompts(xl: TextToImage) -> None:
    with TextToImage(xl.pack, "cpu", 1, memory="low") as engine:
        engine.stages.words.encode(["a (red:1.2) apple", "a dog"])
        assert engine.sessions.loaded == ["text_encoder_2"]
        assert runs(engine, "text_encoder_2") == [3]  # the empty text for the weights


def test_optimums_names_of_the_layers_are_known(xl: TextToImage, changed_xl: Callable[..., Pack]) -> None:
    def rename(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = [f"{n}.1" if n == "hidden_states" else n for n in node.output]
        graph.output[0].name = "hidden_states.1"
        for other in ("hidden_states.0", "hidden_states.2"):
            graph.node.append(onnx.helper.make_node("Neg", ["hidden_states.1"], [other]))
            graph.output.append(onnx.helper.make_tensor_value_info(other, 1, None))

    with TextToImage(changed_xl(rename), "cpu", 1) as engine:
        assert np.array_equal(draw(engine), draw(xl))


def test_a_graph_without_the_layer_before_the_last_is_named(changed_xl: Callable[..., Pack]) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["last" if n == "hidden_states" else n for n in node.output]
        model.graph.output[0].name = "last"

    with (
        TextToImage(changed_xl(rename), "cpu", 1) as engine,
        pytest.raises(EngineError, match="text_encoder has no output hidden_states; it has last"),
    ):
        draw(engine)


def test_embedded_guidance_runs_one_pass_at_any_guidance(lcm: TextToImage) -> None:
    plain = draw(lcm, sampler="lcm", guidance=8.5)
    assert runs(lcm, "text_encoder", "unet") == [1, 2]
    assert np.array_equal(plain, draw(lcm, sampler="lcm", guidance=8.5, negative_prompt=""))
    assert not np.array_equal(plain, draw(lcm, sampler="lcm", guidance=1.0))
    with TextToImage(lcm.pack, "cpu", 1, batch_guidance=True) as other:
        assert np.array_equal(plain, draw(other, sampler="lcm", guidance=8.5))


def test_guidance_0_is_none_as_1(xl: TextToImage) -> None:
    request = JobRequest(id="t", prompt="a dog", seed=1, guidance=0.0)
    assert resolve_settings(xl.pack, request, LimitSettings()).guidance == 1.0
