"""`edgegen pack`: list, show and verify on the real tiny pack."""

import json

import pytest

from edgegen.component import ComponentManifest
from edgegen.errors import PackError
from edgegen.pack import GraphEntry, file_entry, write_manifest


def test_list_marks_the_default_and_aligns(device):
    lines = device.run("pack", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "FAMILY", "PRECISION", "MB", "STEPS", "SIZE", "LICENCE"]
    row = next(line for line in lines if line.startswith("tiny *"))
    assert "sd1" in row
    assert "fp32" in row


def test_list_json(device):
    packs = json.loads(device.run("pack", "list", "--json").stdout)["packs"]
    tiny = next(pack for pack in packs if pack["name"] == "tiny")
    assert tiny["default"] is True
    assert tiny["bytes"] > 1000
    assert tiny["defaults"]["steps"] >= 1


def test_list_tells_of_broken_packs_and_shows_the_others(device):
    broken = device.home / "data/packs/broken"
    broken.mkdir(parents=True)
    (broken / "pack.json").write_text("{")
    result = device.run("pack", "list")
    assert result.exit_code == 0
    assert "tiny *" in result.stdout
    assert str(broken) in result.stderr


@pytest.mark.parametrize("args", [[], ["tiny"]])
def test_show(device, args):
    told = device.run("pack", "show", *args).stdout
    assert all(word in told for word in ("tiny", "licence", "unet/model.onnx", "in steps of"))


def test_show_json_is_the_manifest(device):
    assert json.loads(device.run("pack", "show", "--json").stdout)["graphs"]["unet"]["precision"] == "fp32"


def test_unknown_pack(device):
    result = device.run("pack", "show", "tinny")
    assert result.exit_code == PackError.exit_code
    assert "tiny" in result.stderr


def test_verify_names_every_file(device, own_pack):
    result = device.run("pack", "verify")
    assert result.exit_code == 0
    files = [path for path in own_pack.rglob("*") if path.is_file() and path.name != "pack.json"]
    assert len(result.stdout.splitlines()) == len(files)
    assert all(line.startswith("OK") for line in result.stdout.splitlines())


def damage_content(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [damage_content, lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes() + b"x")]
)
@pytest.mark.parametrize("by_path", [False, True])
def test_verify_finds_the_damaged_file_and_checks_the_others(device, own_pack, damage, by_path):
    damage(own_pack / "unet/weights.bin")
    name = str(own_pack) if by_path else "tiny"
    result = device.run("pack", "verify", name)
    assert result.exit_code == PackError.exit_code
    bad = [line for line in result.stdout.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1
    assert "unet/weights.bin" in bad[0]
    assert len(result.stdout.splitlines()) > 3
    assert "1 of" in result.stderr
    told = json.loads(device.run("pack", "verify", name, "--json").stdout)
    assert [f["file"] for f in told["files"] if not f["ok"]] == ["unet/weights.bin"]


def test_verify_of_a_folder_that_is_no_pack(device):
    result = device.run("pack", "verify", "./nowhere")
    assert result.exit_code == PackError.exit_code
    assert len(result.stderr.splitlines()) == 1


def test_a_pack_that_only_helps_others_is_listed_and_checked_but_draws_nothing(device):
    folder = device.home / "data/packs/thrice"
    (folder / "upscaler").mkdir(parents=True)
    (folder / "upscaler/model.onnx").write_bytes(b"graph")
    files = {"upscaler/model.onnx": file_entry(folder / "upscaler/model.onnx")}
    graph = GraphEntry(file="upscaler/model.onnx", precision="fp16", files=files)
    told = {"name": "thrice", "title": "Thrice", "licence": "CC0", "kind": "upscaler", "scale": 3}
    write_manifest(folder, ComponentManifest(**told, graphs={"upscaler": graph}))
    row = next(x for x in device.run("pack", "list").stdout.splitlines() if x.startswith("thrice"))
    assert row.split()[:3] == ["thrice", "upscaler", "fp16"]
    listed = json.loads(device.run("pack", "list", "--json").stdout)
    assert [(c["name"], c["kind"], c["scale"]) for c in listed["components"]] == [("thrice", "upscaler", 3)]
    assert "upscaler, 3x larger" in device.run("pack", "show", "thrice").stdout
    assert device.run("pack", "verify", "thrice").exit_code == 0
    for name in ("thrice", str(folder)):
        refused = device.run("generate", "a red apple", "--pack", name, "-o", str(device.home / "a.png"))
        assert refused.exit_code == PackError.exit_code
        assert "it is an 'upscaler', for workflows" in refused.stderr
    (folder / "upscaler/model.onnx").write_bytes(b"GRAPH")
    assert device.run("pack", "verify", "thrice").exit_code == PackError.exit_code
