from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegen.cli.request import SAMPLERS as SHOWN_SAMPLERS
from edgegen.cli.request import SCHEDULES as SHOWN_SCHEDULES
from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.diffusion.sigma_schedules import SIGMA_SCHEDULES
from edgegen.engine.metadata import SAMPLER_NAMES, SCHEDULE_NAMES
from edgegen.errors import PackError, StorageError, UnknownPack
from edgegen.pack import (
    MANIFEST_MAX_BYTES,
    FileEntry,
    Pack,
    PackFinder,
    Sampler,
    SecondTokenizer,
    Sizes,
    builtin_packs_dir,
    file_entry,
    find_pack,
    list_packs,
    scan_packs,
    write_manifest,
)
from edgegen.settings import SAMPLERS, SCHEDULES

PACKS = Path(__file__).parent / "packs"
TINY = PACKS / "tiny"
ENTRY = {"sha256": "0" * 64, "bytes": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "pack.json"
    data = json.loads(path.read_text("utf-8"))
    edit(data)
    path.write_text(json.dumps(data), "utf-8")


def test_open_and_verify() -> None:
    pack = Pack.open(TINY)
    pack.verify()
    assert pack.name == "tiny"
    assert pack.graph("unet").name == "model.onnx"
    assert pack.tokenizer_path.is_file()
    assert pack.size_bytes == sum(
        p.stat().st_size for p in TINY.rglob("*") if p.name != "pack.json" and p.is_file()
    )
    assert pack.verify_graph("unet") == pack.graph("unet")
    assert pack.verify_tokenizer() == pack.tokenizer_path


def test_unknown_role_lists_the_roles() -> None:
    with pytest.raises(PackError, match="no graph 'vae_encoder'; it has text_encoder, unet, vae_decoder"):
        Pack.open(TINY).graph("vae_encoder")


def test_one_changed_byte_opens_but_does_not_verify(folder: Path) -> None:
    weights = folder / "unet" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    expected = file_entry(weights).sha256
    weights.write_bytes(data)
    pack = Pack.open(folder)
    with pytest.raises(PackError) as caught:
        pack.verify()
    for part in ("unet/weights.bin", expected, file_entry(weights).sha256):
        assert part in str(caught.value)
    with pytest.raises(PackError, match=r"unet/weights\.bin"):
        pack.verify_graph("unet")
    pack.verify_graph("vae_decoder")
    assert [path for path, problem in pack.check_files() if problem] == ["unet/weights.bin"]


def test_wrong_size_and_missing_file_show_on_opening(folder: Path) -> None:
    with (folder / "unet" / "weights.bin").open("ab") as file:
        file.write(b"x")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PackError) as caught:
        Pack.open(folder)
    assert "unet/weights.bin: 4" in str(caught.value)
    assert "tokenizer.json: cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "", ".", "a\\b", "c:x", "a\nb", "a" * 300]
)
def test_paths_that_could_leave_the_pack(folder: Path, path: str) -> None:
    change(folder, lambda data: data["tokenizer"].update(file=path))
    with pytest.raises(PackError, match="plain relative path"):
        Pack.open(folder)


def test_links_out_of_the_pack(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    (folder / "tokenizer.json").rename(outside)
    (folder / "tokenizer.json").symlink_to(outside)
    with pytest.raises(PackError, match=r"tokenizer\.json: a link that leads out"):
        Pack.open(folder)


def test_a_loop_of_links_and_a_folder_for_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")
    (folder / "unet" / "weights.bin").unlink()
    (folder / "unet" / "weights.bin").mkdir()
    with pytest.raises(PackError) as caught:
        Pack.open(folder)
    assert "tokenizer.json: cannot be read" in str(caught.value)
    assert "unet/weights.bin: not a regular file" in str(caught.value)


def test_a_link_of_the_whole_pack_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    Pack.open(tmp_path / "link").verify()


def test_every_problem_at_once(folder: Path) -> None:
    def spoil(data: dict) -> None:
        data["latent_scale"] = "big"
        data["prediction_type"] = "guess"
        data["defaults"]["steps"] = 0
        data["colour"] = "red"
        del data["licence"]

    change(folder, spoil)
    with pytest.raises(PackError) as caught:
        Pack.open(folder)
    for part in ("latent_scale", "prediction_type", "defaults.steps", "colour", "licence"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["graphs"].pop("unet"), "graphs: missing unet"),
        (lambda d: d["graphs"]["unet"].update(file="other.onnx"), "files does not list other.onnx"),
        (lambda d: d.update(beta_start=0.9), "beta_start 0.9 is above beta_end"),
        (lambda d: d["sizes"].update(min=256), "min 256 is above max 128"),
        (
            lambda d: d["defaults"].update(width=72),
            "defaults.width: 72 is not allowed: 32 to 128 in steps of 16",
        ),
        (lambda d: d["sizes"].update(multiple=12), "no multiple of latent_downscale"),
        (lambda d: d.update(tokenizer_2={"pad_token_id": 0}), "no graph text_encoder_2"),
        (lambda d: d.update(guidance_embedding_dim=1), "guidance_embedding_dim"),
        (lambda d: d.update(extras={"pack.json": ENTRY}), "extras: pack.json is no extra"),
        (lambda d: d.update(extras={d["tokenizer"]["file"]: ENTRY}), "is no extra"),
        (lambda d: d.update(extras={"../report.html": ENTRY}), "inside the pack"),
        (lambda d: d.update(num_train_timesteps=2), "defaults.steps 3 is above num_train_timesteps"),
        (lambda d: d.update(format_version=2), "format version 2; this edgegen reads 1"),
        (lambda d: d.update(format_version="1"), "format_version"),
        (lambda d: d.update(name="../tiny"), "name"),
        (lambda d: d.update(latent_channels=True), "latent_channels"),
        (lambda d: d.update(latent_channels=10**30), "latent_channels"),
    ],
)
def test_contradictions_and_ranges(folder: Path, edit: Callable, message: str) -> None:
    change(folder, edit)
    with pytest.raises(PackError, match=message.replace("(", r"\(")):
        Pack.open(folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "one JSON object, not list"),
        (b'{"latent_scale": NaN}', "NaN is not a number"),
        (b'{"latent_scale": -Infinity}', "-Infinity"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b" " * (MANIFEST_MAX_BYTES + 1), "larger than"),
    ],
)
def test_hostile_json(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "pack.json").write_bytes(raw)
    with pytest.raises(PackError, match=message):
        Pack.open(tmp_path)


def test_no_pack_and_a_folder_named_pack_json(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is no pack"):
        Pack.open(tmp_path)
    (tmp_path / "pack.json").mkdir()
    with pytest.raises(PackError, match="is no pack"):
        Pack.open(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted(json.loads((TINY / "pack.json").read_text("utf-8")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_anywhere_gives_a_pack_or_a_pack_error(folder: Path, field: str, value: object) -> None:
    shutil.copyfile(TINY / "pack.json", folder / "pack.json")
    change(folder, lambda data: data.update({field: value}))
    with contextlib.suppress(PackError):
        Pack.open(folder)


def test_what_is_written_reads_back(folder: Path) -> None:
    manifest = Pack.open(folder).manifest
    changed = manifest.model_copy(update={"title": "Größer", "evaluation": {"psnr_db": 33.5}})
    write_manifest(folder, changed)
    assert Pack.open(folder).manifest == changed
    assert {p.name for p in folder.iterdir()} == {p.name for p in TINY.iterdir()}


def test_what_families_add_reads_back(folder: Path) -> None:
    manifest = Pack.open(folder).manifest
    write_manifest(folder, manifest)
    written = json.loads((folder / "pack.json").read_text("utf-8"))
    assert not {"tokenizer_2", "guidance_embedding_dim"} & set(written), (
        "older edgegens read a pack without them"
    )
    graphs = {**manifest.graphs, "text_encoder_2": manifest.graphs["text_encoder"]}
    found = {"graphs": graphs, "tokenizer_2": SecondTokenizer(pad_token_id=0), "guidance_embedding_dim": 256}
    write_manifest(folder, manifest.model_copy(update=found))
    again = Pack.open(folder).manifest
    assert again.tokenizer_2 is not None
    assert (again.tokenizer_2.pad_token_id, again.guidance_embedding_dim) == (0, 256)


def test_extras_may_be_missing_but_not_changed(folder: Path) -> None:
    page = folder / "report.html"
    page.write_text("about the pack")
    manifest = Pack.open(folder).manifest
    write_manifest(folder, manifest.model_copy(update={"extras": {"report.html": file_entry(page)}}))
    assert "report.html" in dict(Pack.open(folder).check_files())
    Pack.open(folder).verify()
    page.write_text("about the Pack")
    with pytest.raises(PackError, match=r"report\.html: SHA-256"):
        Pack.open(folder).verify()
    page.unlink()
    Pack.open(folder).verify()
    page.symlink_to("/etc/hostname")
    with pytest.raises(PackError, match=r"report\.html: a link that leads out"):
        Pack.open(folder).verify()
    page.unlink()
    page.symlink_to("nowhere")
    with pytest.raises(PackError, match=r"report\.html: cannot be read"):
        Pack.open(folder).verify()


def test_writing_into_nowhere_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_manifest(tmp_path / "none", Pack.open(TINY).manifest)


def test_find_by_name_and_by_path(folder: Path, tmp_path: Path) -> None:
    assert find_pack("tiny", [tmp_path / "none", PACKS]).folder == TINY
    assert find_pack(str(folder), []).folder == folder
    assert find_pack("tiny", [tmp_path, PACKS]).folder == folder
    with pytest.raises(UnknownPack):
        find_pack(str(folder), [PACKS], allow_path=False)


def test_a_finder_reads_again_only_what_has_changed(folder: Path, tmp_path: Path) -> None:
    finder = PackFinder([tmp_path])
    pack = finder.find("tiny")
    assert finder.find("tiny") is pack
    assert finder.find(str(folder)).folder == folder
    with pytest.raises(UnknownPack):
        finder.find(str(folder), allow_path=False)
    write_manifest(folder, pack.manifest.model_copy(update={"name": "other"}))
    assert finder.find("other").name == "other"
    with pytest.raises(UnknownPack):
        finder.find("tiny")
    shutil.copytree(TINY, tmp_path / "a-later-one")
    assert finder.find("tiny").folder == tmp_path / "a-later-one"
    (tmp_path / "a-later-one/tokenizer.json").unlink()
    with pytest.raises(PackError, match=r"tokenizer\.json"):
        finder.find("tiny")


def test_unknown_pack_says_what_is_there() -> None:
    with pytest.raises(UnknownPack, match=r"'tinny'. Did you mean 'tiny'\? Installed: tiny"):
        find_pack("tinny", [PACKS])
    with pytest.raises(UnknownPack, match="Installed: none"):
        find_pack("tiny", [])


def test_a_broken_pack_is_not_just_unknown(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PackError, match=r"tokenizer\.json") as caught:
        find_pack("tiny", [tmp_path])
    assert not isinstance(caught.value, UnknownPack)
    assert list_packs([tmp_path]) == []
    assert list(scan_packs([tmp_path, PACKS])[1]) == [folder]
    assert [p.name for p in list_packs([tmp_path, PACKS])] == ["tiny"]


def test_samplers_and_schedules_are_the_same_everywhere() -> None:
    assert set(get_args(Sampler)) == set(SCHEDULERS) == set(SAMPLERS)
    assert set(SHOWN_SCHEDULES.split(", ")) == set(SCHEDULES) == set(SIGMA_SCHEDULES) == set(SCHEDULE_NAMES)
    assert set(SHOWN_SAMPLERS.split(", ")) == set(SAMPLERS) == set(SAMPLER_NAMES)


def test_builtin_packs_lie_inside_the_package() -> None:
    assert builtin_packs_dir().parent.name == "edgegen"


def test_a_single_size_is_told_as_one() -> None:
    sizes = Sizes(min=256, max=256, multiple=64)
    assert sizes.problem_with(256) is None
    assert sizes.problem_with(300) == "300 is not allowed: only 256"


def test_a_whole_file_is_hashed_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its size and times are as before: the time of the inode's change cannot be set."""
    pack = Pack.open(shutil.copytree(TINY, tmp_path / "tiny"))
    hashed: list[str] = []

    def entry_of(path: Path) -> FileEntry:
        hashed.append(path.name)
        return file_entry(path)

    monkeypatch.setattr("edgegen.pack.hashing.file_entry", entry_of)
    pack.verify_graph("unet")
    assert len(hashed) == len(pack.manifest.graphs["unet"].files)
    pack.verify_graph("unet")
    assert len(hashed) == len(pack.manifest.graphs["unet"].files)
    path = pack.folder / "unet/weights.bin"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(PackError, match=r"unet/weights\.bin: SHA-256 is"):
            pack.verify_graph("unet")
