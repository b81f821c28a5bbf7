"""Checkpoints that cannot be read say what is wrong and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.errors import PackError
from quantize.configs import latent_downscale
from quantize.defaults import default_settings, default_sizes, pack_name, read_defaults
from quantize.original import Hints
from quantize.source import SourceError, open_source
from quantize.vocabulary import write_tokenizer


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(folder)
    return str(caught.value)


def test_a_checkpoint_tells_its_latents_schedule_and_size(checkpoint: Path):
    source = open_source(checkpoint)
    assert (source.latent_channels, source.latent_downscale, source.latent_scale) == (4, 4, 0.5)
    assert source.schedule.rescale_zero_terminal_snr
    assert (source.prediction_type, source.family, source.native_size) == ("v_prediction", "sd1", 32)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}, 8),
        ({"_class_name": "AutoencoderTiny", "decoder_block_out_channels": [64] * 4}, 8),
        ({"_class_name": "AutoencoderDC", "encoder_block_out_channels": [32, 32, 64, 128, 128]}, 16),
    ],
)
def test_downscale_of_each_autoencoder(config: dict[str, Any], wanted: int):
    assert latent_downscale(config) == wanted


def test_everything_missing_is_named_at_once(copy: Path):
    shutil.rmtree(copy / "unet")
    (copy / "scheduler" / "scheduler_config.json").unlink()
    (copy / "tokenizer" / "tokenizer.json").unlink()
    message = refusal(copy)
    assert "unet/ is missing" in message
    assert "scheduler/scheduler_config.json is missing" in message
    assert "tokenizer.json nor vocab.json" in message


def test_pickles_are_refused_with_the_way_out(copy: Path, tmp_path: Path):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "which run code when opened" in refusal(copy)
    assert "save_pretrained" in refusal(copy)
    single = tmp_path / "model.ckpt"
    single.write_bytes(b"pickle")
    assert "save_pretrained" in refusal(single)


def test_an_empty_file_and_a_missing_folder_are_refused(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "no sound safetensors file" in refusal(file)
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "does not exist" in refusal(tmp_path / "nowhere.ckpt")


def test_what_only_a_file_needs_is_refused_for_a_folder(checkpoint: Path):
    with pytest.raises(SourceError, match="--prediction and --turbo are for files"):
        open_source(checkpoint, Hints(turbo=True))


def test_no_weights_and_broken_json(copy: Path):
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "text_encoder" / "config.json").write_text("{")
    message = refusal(copy)
    assert "vae/ has no weights" in message
    assert "text_encoder/config.json" in message


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "there are one, unet wants two"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet/config.json", {"cross_attention_dim": 768}, "16 wide, unet takes 768"),
        ("unet/config.json", {"in_channels": 9}, "9"),
        ("vae/config.json", {"_class_name": "VQModel"}, "VQModel"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "flow"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "sigmoid"),
    ],
)
def test_what_is_not_read_is_named(copy: Path, part: str, values: dict[str, Any], said: str):
    change(copy / part, **values)
    assert said in refusal(copy)


def test_a_second_text_encoder_must_be_whole_and_wanted(copy: Path):
    (copy / "text_encoder_2").mkdir()
    assert "text_encoder_2/ has no weights" in refusal(copy)
    shutil.copytree(copy / "text_encoder", copy / "text_encoder_2", dirs_exist_ok=True)
    assert "there are two, unet wants one" in refusal(copy)


def test_defaults_come_from_the_file_then_from_the_checkpoint(copy: Path):
    source = open_source(copy)
    assert default_settings(source, read_defaults(copy)).steps == 3
    (copy / "pack_defaults.json").unlink()
    given = read_defaults(copy)
    settings = default_settings(source, given)
    assert (settings.sampler, settings.steps, settings.guidance, settings.width) == ("ddim", 20, 7.5, 32)
    sizes = default_sizes(source, given)
    assert (sizes.min, sizes.max, sizes.multiple) == (16, 64, 8)
    assert pack_name(source, given) == "copy"


def test_wrong_defaults_are_named(copy: Path):
    change(copy / "pack_defaults.json", colour="red", defaults={"steps": "many"})
    with pytest.raises(SourceError, match="colour"):
        read_defaults(copy)
    with pytest.raises(SourceError, match=r"defaults\.steps"):
        read_defaults(copy)
    (copy / "pack_defaults.json").write_text("[")
    with pytest.raises(SourceError, match="cannot be read"):
        read_defaults(copy)


def test_out_of_range_defaults_are_named(copy: Path):
    change(copy / "pack_defaults.json", defaults={"guidance": 500.0})
    with pytest.raises(SourceError, match="guidance"):
        default_settings(open_source(copy), read_defaults(copy))


def test_older_tokenizer_files_are_converted(copy: Path, tmp_path: Path):
    folder = copy / "tokenizer"
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    vocabulary = {**vocabulary, "ab</w>": len(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n\n")
    open_source(copy)
    write_tokenizer(folder, tmp_path / "tokenizer.json")
    ids = ClipTokenizer.from_file(tmp_path / "tokenizer.json", 16).encode("ab b")
    assert ids[0].tolist() == [512, 514, vocabulary["b</w>"], *[513] * 13]


def test_a_padding_token_of_its_own_is_kept(copy: Path, tmp_path: Path):
    (copy / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    write_tokenizer(copy / "tokenizer", tmp_path / "tokenizer.json")
    tokenizer = ClipTokenizer.from_file(tmp_path / "tokenizer.json", 16)
    pad = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]["!"]
    assert tokenizer.encode("a")[0, 3:].tolist() == [pad] * 13


def test_a_tokenizer_that_needs_nothing_is_copied_as_it_is(copy: Path, tmp_path: Path):
    write_tokenizer(copy / "tokenizer", tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (copy / "tokenizer" / "tokenizer.json").read_bytes()
    (copy / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(PackError, match="not of CLIP type"):
        write_tokenizer(copy / "tokenizer", tmp_path / "tokenizer.json")
