"""Reports of real packs: in every pack, hashed, made again from the pack alone, measured against float32."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reading import Page

from edgegen.errors import PackError
from edgegen.pack import Pack
from quantize.cli import cli
from quantize.report.cost import median_cost
from quantize.report.data import GraphCost, Report, read_report
from quantize.report.pictures import data_uri, difference, picture_rows, places


def command(*args: object) -> str:
    done = CliRunner().invoke(cli, ["report", *map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def report_of(pack: Pack) -> Report:
    found = read_report(pack.folder)
    assert found is not None
    return found


@pytest.fixture
def copy(packs: dict[str, Pack], tmp_path: Path) -> Pack:
    return Pack.open(shutil.copytree(packs["int8"].folder, tmp_path / "int8"))


def test_every_pack_carries_a_report_under_its_hashes(packs: dict[str, Pack]):
    for pack in packs.values():
        assert {"report.json", "report.html"} == set(pack.manifest.extras or ())
        assert {path for path, wrong in pack.check_files() if not wrong} >= {"report.json", "report.html"}
        assert (pack.folder / "report.html").stat().st_size < 3_000_000
        assert report_of(pack).export_errors.keys() == pack.manifest.graphs.keys()
        assert max(report_of(pack).export_errors.values()) < 1e-4


def test_graphs_cost_something_and_int8_is_smaller(packs: dict[str, Pack]):
    costs = report_of(packs["int8"]).costs
    assert {"text_encoder", "unet", "vae_decoder"} <= costs.keys()
    for pair in costs.values():
        for cost in (pair.reference, pair.pack):
            assert 0 < cost.seconds < 60
            assert 20 < cost.base_mb <= cost.peak_mb < 2000
    assert costs["unet"].pack.bytes < costs["unet"].reference.bytes


def test_pictures_are_the_ones_compared_worst_first(packs: dict[str, Pack]):
    report, said = report_of(packs["int8"]), packs["int8"].manifest.evaluation["pictures"]
    assert sorted(row.prompt for row in report.pictures) == ["a red apple", "blue cat on green"]
    assert report.pictures[0].ssim == said["ssim_worst"]
    assert np.mean([row.psnr_db for row in report.pictures]) == pytest.approx(said["psnr_db"], abs=0.02)
    first = Image.open(io.BytesIO(base64.b64decode(report.shown[0].reference.partition(",")[2])))
    assert (first.format, first.size) == ("WEBP", (32, 32))


def test_the_page_says_what_was_measured_and_what_was_not(packs: dict[str, Pack]):
    page = Page((packs["int8"].folder / "report.html").read_text("utf-8"))
    assert page.problems == []
    assert len(page.all("img")) == 6
    assert "Drift by timestep: not measured" not in page.words
    unet = packs["int8"].manifest.evaluation["graphs"]["unet"]
    for name, level in unet["layer_sqnr_db"].items():
        assert name.removeprefix("/unet/") in page.words
        assert f"{level:.1f}" in page.words
    bare = Page((packs["fp32"].folder / "report.html").read_text("utf-8"))
    assert "Pictures: not measured" in bare.words
    assert "Time and memory by graph: not measured" in bare.words
    assert "unet is FP32: no layer was put into 8 bits" in bare.words


def test_the_page_is_made_again_from_the_pack_alone(copy: Pack, tmp_path: Path):
    built = (copy.folder / "report.html").read_bytes()
    manifest = (copy.folder / "pack.json").read_bytes()
    command(copy.folder, "-o", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == built
    (copy.folder / "report.html").unlink()
    Pack.open(copy.folder).verify()
    assert "report.html" in command(copy.folder)
    assert (copy.folder / "report.html").read_bytes() == built
    assert (copy.folder / "pack.json").read_bytes() == manifest


def test_without_its_report_a_pack_still_runs_and_has_a_page(copy: Pack):
    for name in copy.manifest.extras or ():
        (copy.folder / name).unlink()
    Pack.open(copy.folder).verify()
    command(copy.folder)
    assert "Pictures: not measured" in (copy.folder / "report.html").read_text("utf-8")
    Pack.open(copy.folder).verify()


def test_a_pack_is_measured_against_float32_later(packs: dict[str, Pack], copy: Pack, prompts: Path):
    before = copy.manifest.evaluation
    (copy.folder / "report.json").unlink()
    command(copy.folder, "--against", packs["fp32"].folder, "--prompts", prompts)
    after = Pack.open(copy.folder)
    after.verify()
    assert after.manifest.evaluation["pictures"] == before["pictures"]
    assert after.manifest.evaluation["graphs"]["unet"] == before["graphs"]["unet"]
    assert report_of(after).export_errors == report_of(packs["fp32"]).export_errors
    assert "unet" in report_of(after).costs
    assert after.manifest.graphs == copy.manifest.graphs


def test_only_a_float32_pack_of_the_same_kind_is_a_reference(packs: dict[str, Pack], copy: Pack):
    from edgegen.pack import builtin_packs_dir

    for reference in (packs["fp16"].folder, builtin_packs_dir() / "pocket"):
        done = CliRunner().invoke(cli, ["report", str(copy.folder), "--against", str(reference)])
        assert isinstance(done.exception, PackError)
        assert "--precision fp32" in str(done.exception)
    tiny = Path(__file__).parents[1] / "packs" / "tiny"
    done = CliRunner().invoke(cli, ["report", str(copy.folder), "--against", str(tiny)])
    assert isinstance(done.exception, PackError)
    assert "not of the same checkpoint" in str(done.exception)


def test_the_worst_are_shown_and_some_of_the_rest_up_to_the_best():
    assert places(0) == []
    assert places(3) == [0, 1, 2]
    assert places(50) == [*range(8), 17, 28, 38, 49]
    assert len(set(places(9))) == 9


def test_pictures_are_ranked_and_differences_seen():
    rng = np.random.default_rng(1)
    reference = [rng.integers(0, 255, (24, 24, 3), np.uint8) for _ in range(3)]
    got = [reference[0], 255 - reference[1], np.clip(reference[2].astype(int) + 3, 0, 255).astype(np.uint8)]
    rows, shown = picture_rows(["a", "b", "c"], 5, reference, got)
    assert [(row.prompt, row.seed) for row in rows] == [("b", 6), ("c", 7), ("a", 5)]
    assert rows[2].ssim == 1
    assert [s.row for s in shown] == [0, 1, 2]
    assert not difference(reference[0], got[0]).any()
    assert set(np.unique(difference(np.full((2, 2, 3), 9, np.uint8), np.full((2, 2, 3), 4, np.uint8)))) == {
        40
    }


def test_large_pictures_are_made_moderate():
    uri = data_uri(np.random.default_rng(0).integers(0, 255, (512, 1024, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (320, 160)


def test_of_several_processes_the_median_times_and_the_largest_memory_count():
    costs = [
        GraphCost(seconds=s, load_s=10 * s, peak_mb=mb, base_mb=9, runs=2, bytes=7)
        for s, mb in ((3.0, 50), (1.0, 70), (2.0, 60))
    ]
    assert median_cost(costs) == GraphCost(seconds=2, load_s=20, peak_mb=70, base_mb=9, runs=6, bytes=7)
