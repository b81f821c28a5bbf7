"""`edgegen lora`: list and show on files written by hand, beside a pack with a table of layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgegen.errors import BadRequest, LoraError
from edgegen.pack import Pack, file_entry, write_manifest
from tests.loras import write_raw, write_tensors

LAYER = "down_blocks.0.attentions.0.proj_in"
STEM = f"lora_unet_{LAYER.replace('.', '_')}"
INK = {
    "modelspec.title": "Ink\x1b[2J\u202ewash",
    "modelspec.trigger_phrase": "inkwash, brush",
    "ss_base_model_version": "sd_v1",
    "modelspec.architecture": "",
    "modelspec.description": "x" * 5000,
}
TAGS = {"10_a": {"red apple": 5, "1girl": 3, "": 9, "bad": "5"}, "2_b": {"1girl": 4}, "3_c": 7}


def parts(inputs: int = 4, rank: int = 2, stem: str = STEM) -> dict[str, np.ndarray]:
    ones = {"lora_down.weight": (rank, inputs), "lora_up.weight": (8, rank)}
    return {f"{stem}.{part}": np.ones(shape, np.float32) for part, shape in ones.items()}


def write(path: Path, tensors: dict[str, np.ndarray], notes: dict[str, object] | None = None) -> Path:
    """A file with its maker's notes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = write_tensors(path, tensors).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return write_raw(path, {"__metadata__": notes or {}, **json.loads(raw[8:end])}, raw[end:])


@pytest.fixture
def folder(device) -> Path:
    loras = device.home / "data/loras"
    write(loras / "ink.safetensors", parts() | {f"{STEM}.alpha": np.float32(1)}, INK)
    more = parts(stem="lora_te_text_model_encoder_layers_7_mlp_fc1", rank=8)
    write(loras / "styles/wax.safetensors", parts(rank=4) | more, {"ss_tag_frequency": json.dumps(TAGS)})
    return loras


@pytest.fixture
def pack(own_pack: Path) -> str:
    """The tiny pack with one layer of the denoiser told."""
    weights = {"name": "w", "dtype": "float32", "shape": [8, 4], "offset": 0}
    layers = [{"module": LAYER, "outputs_first": True, "weight": weights}]
    (own_pack / "unet/layers.json").write_text(json.dumps({"data": "weights.bin", "layers": layers}))
    manifest = Pack.open(own_pack).manifest
    files = manifest.graphs["unet"].files | {"unet/layers.json": file_entry(own_pack / "unet/layers.json")}
    unet = manifest.graphs["unet"].model_copy(update={"files": files})
    write_manifest(own_pack, manifest.model_copy(update={"graphs": {**manifest.graphs, "unet": unet}}))
    return "tiny"


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def test_list_tells_name_kind_rank_layers_and_words(device, folder):
    result = device.run("lora", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    table = rows(result.stdout)
    assert table["NAME"] == ["KIND", "RANK", "LAYERS", "MB", "WORDS"]
    assert table["ink"] == ["LoRA", "2", "1", "0.0", "inkwash,", "brush"]
    assert table["styles/wax"] == ["LoRA", "4-8", "2", "0.0", "~1girl,", "red", "apple"]


def test_list_with_a_pack_counts_what_matches(device, folder, pack):
    write(folder / "wide.safetensors", parts(inputs=5))
    write(folder / "other.safetensors", parts(stem="lora_unet_x"))
    result = device.run("lora", "list", "--pack", pack)
    assert result.exit_code == 0
    table = rows(result.stdout)
    assert table["ink"][2:5] == ["1", "of", "1"]
    assert table["wide"][2:6] == ["0", "of", "1", "!"]
    told = {
        row["name"]: row
        for row in json.loads(device.run("lora", "list", "--pack", pack, "--json").stdout)["loras"]
    }
    assert told["ink"]["pack"] == {"name": "tiny", "layers": 1, "of": 1, "problem": None}
    assert "[8, 2] x [2, 5], but the pack's layer has [8, 4]" in told["wide"]["pack"]["problem"]
    assert "the pack has no unet layer x" in told["other"]["pack"]["problem"]
    assert "text_encoder has no layers.json" in told["styles/wax"]["pack"]["problem"]


def test_what_cannot_be_merged_is_told_and_the_rest_is_listed(device, folder):
    write(folder / "oft.safetensors", {"lora_unet_x.oft_blocks": np.ones((2, 2), np.float32)})
    (folder / "cut.safetensors").write_bytes(b"12345")
    (folder / ".hidden.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    (folder / "out.safetensors").symlink_to(write(folder.parent / "away.safetensors", parts()))
    result = device.run("lora", "list")
    assert result.exit_code == 0
    assert set(rows(result.stdout)) == {"NAME", "ink", "styles/wax"}
    assert len(result.stderr.splitlines()) == 3
    assert "out.safetensors is a link that leads out" in result.stderr
    assert "oft.safetensors holds OFT, not supported" in result.stderr
    told = json.loads(device.run("lora", "list", "--json").stdout)
    assert [bad["name"] for bad in told["unsupported"]] == ["cut", "oft", "out"]
    assert told["folder"] == str(folder)


def test_no_folder_is_no_failure(device):
    result = device.run("lora", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no LoRA files in {device.home}/data/loras" in result.stderr
    assert json.loads(device.run("lora", "list", "--json").stdout)["loras"] == []


@pytest.mark.parametrize("by_path", [False, True])
def test_show_tells_the_makers_notes_without_obeying_them(device, folder, by_path):
    result = device.run("lora", "show", str(folder / "ink.safetensors") if by_path else "ink")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    lines = {line[:13].strip(): line[13:] for line in result.stdout.splitlines()}
    assert lines["title"] == "Ink\\x1b[2J\\u202ewash"
    assert lines["kind"] == "LoRA, rank 2, alpha 1"
    assert lines["changes"] == "denoiser: 1 layers"
    assert lines["made for"] == "sd_v1"
    assert lines["words"] == "inkwash, brush"
    assert len(lines["description"]) == 500


def test_show_json(device, folder):
    told = json.loads(device.run("lora", "show", "styles/wax", "--json").stdout)
    assert told["kinds"] == ["LoRA"]
    assert (told["ranks"], told["alphas"]) == ([4, 8], [])
    assert told["changes"] == {"unet": 1, "text_encoder": 1}
    assert (told["words"], told["words_told"]) == (["1girl", "red apple"], False)
    assert told["pack"] is None


def test_show_says_whether_a_pack_takes_it(device, folder, pack):
    taken = device.run("lora", "show", "ink", "--pack", pack)
    assert taken.exit_code == 0
    assert "tiny: 1 of 1 layers match; taken" in taken.stdout
    path = write(folder / "wide.safetensors", parts(inputs=5))
    refused = device.run("lora", "show", str(path), "--pack", pack)
    assert refused.exit_code == LoraError.exit_code
    assert "0 of 1 layers match; refused" in refused.stdout
    assert "wide.safetensors does not fit pack tiny: it changes unet" in refused.stderr


@pytest.mark.parametrize("name", ["pencil", "../ink", "/etc/hostname.safetensors", ""])
def test_a_name_that_is_none(device, folder, name):
    write(folder.parent / "ink.safetensors", parts())
    result = device.run("lora", "show", name)
    assert result.exit_code == BadRequest.exit_code
    assert "edgegen lora list tells the names" in result.stderr


@pytest.mark.parametrize("notes", ["[" * 100_000, "5", '{"a": 5}', "{", '{"a": {"b": null}}'])
def test_odd_notes_are_no_words(device, folder, notes):
    write(folder / "odd.safetensors", parts(), {"ss_tag_frequency": notes, "modelspec.title": "None"})
    told = json.loads(device.run("lora", "show", "odd", "--json").stdout)
    assert (told["words"], told["title"]) == ([], "")
