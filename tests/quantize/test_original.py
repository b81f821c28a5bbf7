"""Single files in the original layout are read back as the very weights they were written of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import originals
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file

from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.pack import Pack
from quantize import original, weights
from quantize.cli import cli
from quantize.defaults import default_settings, pack_name, read_defaults
from quantize.original import Hints
from quantize.source import Source, SourceError, open_source
from quantize.vocabulary import second_padding, write_tokenizer

FAMILIES = {"sd1": Hints(), "sd2": Hints(prediction="v_prediction"), "sdxl": Hints()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("diffusers")
    return {family: families.write_family(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {f: originals.write_original(folders[f], f, folder / f"{f}.safetensors") for f in FAMILIES}


def hints(folders: dict[str, Path], **given: Any) -> Hints:
    return Hints(tokenizer=folders["sd1"] / "tokenizer", **given)


def opened(folders: dict[str, Path], files: dict[str, Path], family: str) -> Source:
    return open_source(files[family], hints(folders, prediction=FAMILIES[family].prediction))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_the_same_and_so_is_what_they_compute(
    folders: dict[str, Path], files: dict[str, Path], family: str
):
    single, folder = opened(folders, files, family), open_source(folders[family])
    assert (single.family, single.roles) == (folder.family, folder.roles)
    assert (single.latent_scale, single.latent_channels) == (folder.latent_scale, 4)
    assert (single.sampler, single.prediction_type) == (folder.sampler, folder.prediction_type)
    assert single.schedule == folder.schedule
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        if part in folder.configs:
            wanted, got = (getattr(weights, f"load_{part}")(source) for source in (folder, single))
            theirs, ours = wanted.state_dict(), got.state_dict()
            assert list(theirs) == list(ours)
            assert all(torch.equal(theirs[name], ours[name]) for name in theirs), part
            assert_same_output(part, wanted, got, folder)


def assert_same_output(part: str, wanted: Any, got: Any, source: Source) -> None:
    """Heads, activations and the like are in no weight: what the two compute tells."""
    torch.manual_seed(0)
    latents, ids = torch.randn(1, 4, 8, 8), torch.randint(0, families.VOCABULARY, (1, 9))
    words = torch.randn(1, 5, source.words_width)
    more = {"text_embeds": torch.randn(1, 128), "time_ids": torch.rand(1, 6)} if source.is_sdxl else None
    with torch.no_grad():
        if part == "unet":
            pair = [m(latents, 10, words, added_cond_kwargs=more).sample for m in (wanted, got)]
        elif part == "vae":
            pair = [m.decode(latents).sample for m in (wanted, got)]
        else:
            pair = [m(ids).last_hidden_state for m in (wanted, got)]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def test_half_precision_is_read_in_float32(folders: dict[str, Path], tmp_path: Path):
    file = originals.write_original(folders["sd1"], "sd1", tmp_path / "half.safetensors", torch.float16)
    model = weights.load_unet(open_source(file, hints(folders)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_file_names_its_pack_and_may_have_defaults_beside_it(
    folders: dict[str, Path], files: dict[str, Path]
):
    source = opened(folders, files, "sdxl")
    assert pack_name(source, read_defaults(source.folder)) == "sdxl"
    beside = source.folder.with_suffix(".pack_defaults.json")
    beside.write_text('{"defaults": {"steps": 7}}')
    assert default_settings(source, read_defaults(source.folder)).steps == 7
    beside.unlink()


def test_a_file_becomes_a_pack(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert opened(folders, files, "sd1").native_size == 512
    monkeypatch.setattr(Source, "native_size", 128)  # export compares with torch at this side: seconds
    args = [str(files["sd1"]), "-o", str(tmp_path / "pack"), "--precision", "fp16", "--no-evaluate"]
    cli.main([*args, "--tokenizer", str(folders["sdxl"] / "tokenizer")], standalone_mode=False)
    pack = Pack.open(tmp_path / "pack")
    pack.verify()
    assert (pack.name, pack.manifest.family, pack.manifest.defaults.width) == ("sd1", "sd1", 128)


def test_a_turbo_is_told_by_hand(folders: dict[str, Path], files: dict[str, Path]):
    source = open_source(files["sdxl"], hints(folders, turbo=True))
    settings = default_settings(source, read_defaults(source.folder))
    assert (settings.sampler, settings.steps, settings.guidance) == ("euler_ancestral", 4, 1.0)
    assert source.schedule.timestep_spacing == "trailing"


def test_markers_of_velocity_and_zero_terminal_snr(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
):
    marked = {**load_file(files["sdxl"]), "v_pred": torch.ones(()), "ztsnr": torch.ones(())}
    save_file(marked, tmp_path / "v.safetensors")
    source = open_source(tmp_path / "v.safetensors", hints(folders))
    assert source.prediction_type == "v_prediction"
    assert (source.schedule.rescale_zero_terminal_snr, source.schedule.timestep_spacing) == (True, "trailing")


def test_padding_is_the_familys_whatever_the_given_tokenizer_pads_with(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
):
    ends = {"sd1": 513, "sd2": 0, "sdxl": 513}
    for family, pad in ends.items():
        source = opened(folders, files, family)
        write_tokenizer(source.tokenizer, tmp_path / "tokenizer.json", source.pad_token)
        assert ClipTokenizer.from_file(tmp_path / "tokenizer.json").encode("")[0, -1] == pad
    source = opened(folders, files, "sdxl")
    assert second_padding(source.tokenizer, source.tokenizer_2, source.pad_token) == 0


def refusal(file: Path, given: Hints) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(file, given)
    return str(caught.value)


def test_what_a_file_cannot_say_is_asked_for(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
):
    assert "--tokenizer FOLDER" in refusal(files["sd1"], Hints())
    assert "--prediction" in refusal(files["sd2"], hints(folders))
    (tmp_path / "empty").mkdir()
    assert "neither tokenizer.json nor" in refusal(files["sd1"], Hints(tokenizer=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        ("first_stage_model.", "holds no autoencoder"),
        ("model.diffusion_model.", "holds no denoiser"),
        ("cond_stage_model.", "no Stable Diffusion 1, 2 or XL"),
        ("model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight' is missing"),
    ],
)
def test_parts_that_are_missing_are_named(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path, drop: str, said: str
):
    kept = {name: t for name, t in load_file(files["sd1"]).items() if not name.startswith(drop)}
    save_file(kept, tmp_path / "part.safetensors")
    assert said in refusal(tmp_path / "part.safetensors", hints(folders))


def test_weights_of_no_known_use_or_missing_ones_are_not_passed_over(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path
):
    whole = load_file(files["sd1"])
    save_file({**whole, "model.diffusion_model.extra.weight": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(SourceError, match=r"1 tensors of .* are of no known use"):
        weights.load_unet(open_source(tmp_path / "more.safetensors", hints(folders)))
    lost = "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias"
    save_file({name: t for name, t in whole.items() if name != lost}, tmp_path / "less.safetensors")
    with pytest.raises(SourceError, match=r"layers\.1\.mlp\.fc2\.bias"):
        weights.load_text_encoder(open_source(tmp_path / "less.safetensors", hints(folders)))


def test_the_refiner_is_refused(files: dict[str, Path], folders: dict[str, Path], tmp_path: Path):
    save_file({"conditioner.embedders.0.model.ln_final.weight": torch.ones(4)}, tmp_path / "r.safetensors")
    assert "refiner" in refusal(tmp_path / "r.safetensors", hints(folders))


_SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
TRUE_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_SD, "attention_head_dim": 8, "cross_attention_dim": 768},
    "sd2": {
        **_SD,
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.mark.parametrize("family", TRUE_UNETS)
def test_denoisers_of_full_width_are_recognised_by_their_shapes(family: str):
    """Full size, but on torch's `meta` device: shapes without weights."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**TRUE_UNETS[family])
        named = originals.unet_names(model.state_dict(), layers=2)
        shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
        config = original.unet_config(family, shapes, "epsilon")
        for name, value in TRUE_UNETS[family].items():
            assert (tuple(config[name]) if isinstance(config[name], list) else config[name]) == value, name
        again = UNet2DConditionModel.from_config({k: v for k, v in config.items() if k != "_class_name"})
    tensors = {original.UNET + name: tensor for name, tensor in named.items()}
    back = convert_ldm_unet_checkpoint(tensors, again.config)
    assert {name: t.shape for name, t in back.items()} == {n: t.shape for n, t in again.state_dict().items()}


def test_stable_diffusion_2_reads_the_last_layer_but_one():
    blocks = [f"transformer.resblocks.{i}.mlp.c_fc.weight" for i in range(24)]
    part = {"token_embedding.weight": (49408, 1024), "positional_embedding": (77, 1024)}
    part |= dict.fromkeys(blocks, (4096, 1024))
    config = original.open_clip_config(part, whole=False)
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (23, 16)
    part.pop(blocks[-1])
    assert original.open_clip_config(part, whole=False)["num_hidden_layers"] == 23, "already left out"
