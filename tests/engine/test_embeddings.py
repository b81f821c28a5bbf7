"""Embeddings in workflows, in `generate` and in jobs; files that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.engine.embeddings import EmbeddingFolder
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.nodes import check_for
from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
from edgegen.engine.textgraph import TextEdit, TextGraph
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest, EngineError
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from tests.loras import write_tensors
from tests.support import assert_cut_of

TINY = Path(__file__).parent.parent / "packs" / "tiny"
WIDTH = 8


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float16)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    write_tensors(folder / "ink.safetensors", {"emb_params": vectors(2, 1)})
    bench = Workbench([TINY.parent], {}, tmp_path / "input", LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def graph(text: str, stop: int = -1) -> dict[str, Any]:
    how = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["0", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "0": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
        "1": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": stop, "clip": ["0", 1]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["0", 1]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "KSampler", "inputs": {**how, **links}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["0", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}},
    }


def pixels(executor: Executor, bench: Workbench, text: str) -> np.ndarray:
    items = executor.run(check_for(bench, workflow_from(graph(text))))
    (found,) = [item for item in items if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def generated(folder: Path | None, text: str, syntax: str = "comfyui") -> np.ndarray:
    settings = GenerationSettings(text, "a dog", 7, 2, 3.0, 64, 64, "euler", "normal", prompt_syntax=syntax)
    with TextToImage(Pack.open(TINY), "cpu", 1, embeddings=folder) as engine:
        *_, picture = engine.generate(settings)
    assert isinstance(picture, Picture)
    return picture.pixels


def test_a_workflow_draws_what_generate_draws_and_sees_a_file_that_changed(bench: Workbench) -> None:
    folder, executor = bench.embeddings.folder, Executor(bench)
    assert folder is not None
    text = "a embedding:ink apple"
    drawn = pixels(executor, bench, text)
    wanted = generated(folder, text)
    assert_cut_of(drawn[0], wanted)
    assert np.array_equal(generated(folder, "a INK apple", "a1111"), wanted)
    assert not np.array_equal(generated(folder, "a apple"), wanted)
    write_tensors(folder / "new", {"emb_params": vectors(2, 2)}).replace(folder / "ink.safetensors")
    assert not np.array_equal(pixels(executor, bench, text), drawn)


def test_what_is_not_there_is_said_before_anything_loads(bench: Workbench) -> None:
    with pytest.raises(BadWorkflow, match=r"node 6 \(CLIPTextEncode\) text: .*did you mean embedding:ink"):
        check_for(bench, workflow_from(graph("embedding:inc")))
    with pytest.raises(BadRequest, match="prompt: asks for embedding:ink, but no embedding of that name"):
        generated(None, "embedding:ink")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"emb_params": np.zeros((2, 5), np.float32)},
            "vectors have 5 numbers, the pack's text_encoder reads 8",
        ),
        (
            {"clip_g": np.zeros((2, 8), np.float32)},
            "take one tensor of vectors, the file holds vectors 8 wide",
        ),
        ({"a": np.zeros(8, np.float32), "b": np.zeros(8, np.float32)}, "holds a, b; known are emb_params"),
        ({"emb_params": np.zeros((76, 8), np.float32)}, r"has the shape \[76, 8\]; taken are 1 to 75"),
        ({"emb_params": np.zeros((1, 1, 8), np.float32)}, r"has the shape \[1, 1, 8\]"),
        ({"emb_params": np.full((1, 8), np.nan, np.float32)}, "holds numbers that are no numbers"),
        ({}, "holds nothing"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(bench: Workbench, tensors, said: str) -> None:
    folder = bench.embeddings.folder
    assert folder is not None
    write_tensors(folder / "bad.safetensors", tensors)
    with pytest.raises(BadRequest, match=f"embedding bad.*{said}"):
        generated(folder, "embedding:bad")


def test_pickles_and_files_outside_are_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / "old.pt").write_bytes(b"\x80\x02.")
    write_tensors(tmp_path / "secret.safetensors", {"emb_params": vectors(1, 1)})
    found = EmbeddingFolder(folder)
    for name in ("old", "old.pt"):
        with pytest.raises(BadRequest, match=r"as a pickle only.*docs/WORKFLOWS\.md"):
            found.get(name)
    for name in ("../secret", "/etc/passwd", "a\0b"):
        with pytest.raises(BadRequest, match="no embedding of that name"):
            found.get(name)


@pytest.mark.parametrize("data", [b"", b"\x0a\xff\xff", b"\x3a\x03\x0a\x05a", b"\xff" * 12, b"\x0f\x00"])
def test_what_is_no_graph_is_said(data: bytes) -> None:
    with pytest.raises(EngineError, match="graph t cannot be read"):
        TextGraph(data, "t")


def test_what_has_no_layers_or_adds_no_positions_is_said() -> None:
    unet = TINY / "vae_decoder" / "model.onnx"
    with pytest.raises(EngineError, match="shows no layers"):
        TextGraph.read(unet, "t")
    graph = TextGraph.read(TINY / "text_encoder" / "model.onnx", "t")
    again = TextGraph(graph.edited(TextEdit(vectors=True)), "t")
    assert (again.layers, again.normalizes, again.width) == (graph.layers, graph.normalizes, graph.width)
