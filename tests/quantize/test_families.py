"""Each family at its true layout: what is read of it, the graphs' contract, and parity with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest

from quantize import export as ex
from quantize.defaults import default_settings, default_sizes, read_defaults
from quantize.graphs import load_graph, op_counts
from quantize.source import SourceError, open_source
from quantize.vocabulary import second_padding


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: families.write_family(folder / family, family) for family in families.FAMILIES}


@pytest.mark.parametrize(
    ("name", "family", "prediction", "settings"),
    [
        ("sd1", "sd1", "epsilon", ("dpmpp_2m", 20, 7.5)),
        ("sd2", "sd2", "v_prediction", ("ddim", 20, 7.5)),
        ("sd_turbo", "sd2", "epsilon", ("euler", 4, 1.0)),
        ("lcm", "lcm", "epsilon", ("lcm", 4, 8.0)),
        ("sdxl", "sdxl", "epsilon", ("euler", 20, 7.5)),
        ("sdxl_turbo", "sdxl", "epsilon", ("euler_ancestral", 4, 1.0)),
    ],
)
def test_what_is_read_of_each_family(
    sources: dict[str, Path], name: str, family: str, prediction: str, settings: tuple[str, int, float]
):
    source = open_source(sources[name])
    assert (source.family, source.prediction_type) == (family, prediction)
    assert source.guidance_embedding_dim == (families.GUIDANCE_DIM if name == "lcm" else None)
    assert ("text_encoder_2" in source.roles) == (family == "sdxl")
    assert source.latent_scale == (0.13025 if family == "sdxl" else 0.18215)
    given = read_defaults(sources[name])
    found = default_settings(source, given)
    assert (found.sampler, found.steps, found.guidance) == settings
    assert default_sizes(source, given).multiple == (32 if family == "sdxl" else 64)


GRAPHS = {
    ("sd2", "text_encoder"): (["input_ids"], ["last_hidden_state", "pooler_output"]),
    ("sdxl", "text_encoder"): (["input_ids"], ["hidden_states"]),
    ("sdxl", "text_encoder_2"): (["input_ids"], ["hidden_states", "text_embeds"]),
    ("sd2", "unet"): (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
    ("lcm", "unet"): (["sample", "timestep", "encoder_hidden_states", "timestep_cond"], ["out_sample"]),
    ("sdxl", "unet"): (
        ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"],
        ["out_sample"],
    ),
}
ATTENTIONS = {  # self and cross in every block; in text encoders the layers that count
    ("sd2", "text_encoder"): 3,
    ("sdxl", "text_encoder"): 2,  # the last layer is not read
    ("sdxl", "text_encoder_2"): 3,
    ("sd2", "unet"): 2 * (3 + 1 + 6),
    ("lcm", "unet"): 2 * (3 + 1 + 6),
    ("sdxl", "unet"): 2 * (2 + 3 + 3 + 2 * (3 + 2)),
}


@pytest.mark.parametrize("which", GRAPHS)
def test_graphs_keep_the_contract_and_compute_what_torch_does(
    sources: dict[str, Path], which: tuple[str, str], tmp_path: Path
):
    path = tmp_path / which[1] / "model.onnx"
    assert ex.export(open_source(sources[which[0]]), which[1], path) <= ex.PARITY
    graph = load_graph(path, weights=False)
    names = [t.name for t in graph.graph.input], [t.name for t in graph.graph.output]
    assert names == GRAPHS[which]
    assert {t.type.tensor_type.shape.dim[0].dim_param for t in graph.graph.input} <= {"batch", ""}
    assert op_counts(graph)["MultiHeadAttention"] == ATTENTIONS[which]


@pytest.mark.parametrize("role", ["vae_decoder", "vae_encoder"])
@pytest.mark.parametrize("vae", ["autoencoder_kl", "autoencoder_tiny"])
def test_both_autoencoders_both_ways(tmp_path: Path, role: str, vae: str):
    folder = families.write_family(tmp_path / "source", "sd1", vae=getattr(families, vae)())
    source = open_source(folder)
    assert source.latent_downscale == 8
    assert ex.export(source, role, tmp_path / role / "model.onnx") <= ex.PARITY


def test_the_second_tokenizer_differs_in_its_padding_alone(sources: dict[str, Path], tmp_path: Path):
    first, second = (sources["sdxl"] / name for name in ("tokenizer", "tokenizer_2"))
    assert second_padding(first, second) == second_padding(first, None) == 0
    assert second_padding(first, first) is None
    text = (second / "tokenizer.json").read_text("utf-8").replace('"merges": []', '"merges": ["a b</w>"]')
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(SourceError, match="other merges"):
        second_padding(first, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projection_class_embeddings_input_dim": 128 + 5 * 256}, "sizes give 1664"),
        ({"cross_attention_dim": 64}, "words are 192 wide"),
    ],
)
def test_parts_of_different_checkpoints_are_told_apart(
    sources: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
):
    folder = families.write_family(tmp_path / "sdxl", "sdxl")
    families.unet("sdxl", **changes).save_pretrained(folder / "unet")
    with pytest.raises(SourceError, match=said):
        open_source(folder)
