"""The page: every figure is in it, it stands alone, and words from outside stay words."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from reading import Page

from edgegen.errors import PackError
from edgegen.pack import Manifest, read_manifest
from quantize.report.data import CostPair, GraphCost, Machine, PictureRow, Report, Shown, read_report
from quantize.report.page import render

TINY = Path(__file__).parents[1] / "packs" / "tiny"
PIXEL = "data:image/webp;base64," + base64.b64encode(b"pixel").decode()
EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
LAYERS = {f"/unet/block.{i}/Conv": 30.0 + 1.5 * i for i in range(14)}
EVALUATION: dict[str, Any] = {
    "reference": "fp32 graphs",
    "settings": {"seed": 77, "sampler": "euler"},
    "graphs": {
        "unet": {
            "bytes": 1,
            "sqnr_db": 27.31,
            "relative_error": 0.0713,
            "calibration_records": 93,
            "ranges": "percentile",
            "calibration_sqnr_db": 28.42,
            "calibration_sqnr_db_all_int8": 14.53,
            "target_sqnr_db": 35.5,
            "float_layers": ["/unet/block.0/Conv", "/unet/block.2/Conv"],
            "layer_sqnr_db": LAYERS,
            "sqnr_db_by_timestep": [[961.0, 31.64], [481.0, 26.75], [41.0, 22.86]],
        },
        "vae_decoder": {"calibration_sqnr_db": 41.25, "target_sqnr_db": 36.0, "float_layers": []},
    },
    "pictures": {
        "pictures": 2,
        "psnr_db": 36.35,
        "psnr_db_worst": 29.16,
        "ssim": 0.9617,
        "ssim_worst": 0.9418,
    },
    "cost": {
        "seconds": 1.47,
        "load_s": 0.258,
        "peak_mb": 613,
        "timed_steps": 2,
        "machine": "riscv64, 3 CPUs",
    },
    "memory": {
        "full": {"anonymous_mb": 401, "total_mb": 602},
        "mapped": {"anonymous_mb": 303, "total_mb": 504},
        "low": {"anonymous_mb": 105, "total_mb": 206},
    },
}


def a_manifest(**changes: Any) -> Manifest:
    data = read_manifest(TINY).model_dump()
    data |= {"evaluation": EVALUATION, "ram_mb": {"full": 605, "mapped": 337, "low": 139}, **changes}
    for graph in data["graphs"].values():
        graph["precision"] = "int8"
    return Manifest.model_validate(data)


def a_report(**changes: Any) -> Report:
    machine = Machine(cpu="Fast CPU 9000", cores=3, onnxruntime="1.99.9")
    costs = CostPair(
        reference=GraphCost(seconds=4.19, load_s=2.72, peak_mb=5210, base_mb=61, runs=3, bytes=3_440_000_000),
        pack=GraphCost(seconds=1.53, load_s=1.84, peak_mb=1430, base_mb=61, runs=7, bytes=865_000_000),
    )
    rows = [
        PictureRow(prompt="a blue cat", seed=78, ssim=0.9418, psnr_db=29.16),
        PictureRow(prompt="a red apple", seed=77, ssim=0.9816, psnr_db=43.54),
    ]
    shown = [Shown(row=i, reference=PIXEL, pack=PIXEL, difference=PIXEL) for i in (0, 1)]
    report = Report(
        made_by="edgegen 9.9", machine=machine, export_errors={"unet": 2.3e-6}, costs={"unet": costs},
        pictures=rows, shown=shown,
    )  # fmt: skip
    return report.model_copy(update=changes)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(a_manifest(), a_report()))


FIGURES = {
    "evaluation": "27.31|0.0713|93|28.42|14.53|chosen by percentile|target 35.5, missed|2 of 14|"
    "0.9617|0.9418|36.35|29.16",
    "timesteps": "961 31.64 481 26.75 41 22.86",
    "a picture": "1.47 s|0.258 s|613 MB|reckoned from 2 of 3 steps|"
    "riscv64, 3 CPUs|seed 77|sampler euler|fp32 graphs",
    "memory": "401 602 303 504 105 206 605 337 139",
    "costs": "4,190 ms|1,530 ms|2.72 s|1.84 s|5,210 MB|1,430 MB|61 MB|3,440 MB|865 MB|unet 3 and 7",
    "machine": "Fast CPU 9000|3 cores|1.99.9|edgegen 9.9|2.3e-06",
    "pictures": "a blue cat|a red apple|seed 78|0.9418 below 0.95|29.2 dB below 30|0.9816|43.54",
    "layers": " ".join(f"{db:.1f}" for db in LAYERS.values()),
    "conclusions": "1 of 2 pictures reach SSIM 0.95|0.37× the time|0.27× the memory|"
    "largest at timestep 41 (22.9 dB), at the end|from 14.5 to 28.4 dB|unet misses its target of 35.5 dB|"
    "vae_decoder reaches its target of 36 dB|low 139 MB are enough",
}


@pytest.mark.parametrize("part", FIGURES)
def test_every_figure_is_on_the_page(page: Page, part: str):
    wanted = FIGURES[part].split("|" if "|" in FIGURES[part] else " ")
    assert [figure for figure in wanted if figure not in page.words] == []


def test_every_layer_is_named_loudest_first_and_float_ones_are_marked(page: Page):
    rows = [tag.words for tag in page.all("th") if "block." in tag.words]
    assert [row.split("/")[0] for row in rows] == [f"block.{i}" for i in range(14)]
    assert [i for i, row in enumerate(rows) if "float" in row] == [0, 2]
    assert sum(tag.attributes.get("class") == "track" for tag in page.all("rect")) >= 14


def test_bars_are_true_to_their_values(page: Page):
    meters = [tag for tag in page.all("rect") if tag.attributes.get("height") == "8.0"]
    bars = [float(tag.attributes["width"]) for tag in meters if tag.attributes["class"] != "track"]
    for part, whole in ((1.53, 4.19), (1.84, 2.72), (1430, 5210), (865, 3440), (139, 605)):
        assert min(abs(width - 100 * part / whole) for width in bars) < 0.06
    assert max(bars) == 100


def test_the_limits_are_drawn(page: Page):
    dashed = [tag for tag in page.all("line") if tag.attributes.get("class") == "limit"]
    assert len(dashed) == 3, "SSIM of the pictures, layers of the unet, its timesteps"
    drawn = " ".join(tag.words for tag in page.all("text"))
    assert "to reach: 0.95" in drawn
    assert "target of the graph: 35.5 dB" in drawn


def test_the_worst_picture_stands_first_and_all_have_words(page: Page):
    alts = [tag.attributes["alt"] for tag in page.all("img")]
    assert alts[:3] == [
        "FP32: a blue cat, seed 78",
        "INT8: a blue cat, seed 78",
        "difference × 8: a blue cat, seed 78",
    ]
    assert len(alts) == 6


def test_the_page_is_whole_and_a_reader_aloud_finds_the_way(page: Page):
    assert page.problems == []
    assert all(tag.attributes.get("scope") in ("row", "col") for tag in page.all("th"))
    assert all(
        tag.attributes.get("aria-label") or tag.attributes.get("aria-hidden") for tag in page.all("svg")
    )
    ids = [tag.attributes["id"] for tag in page.tags if "id" in tag.attributes]
    assert len(ids) == len(set(ids))
    linked = {tag.attributes["href"].removeprefix("#") for tag in page.all("a")}
    linked |= {tag.attributes["aria-labelledby"] for tag in page.all("section")}
    assert linked <= set(ids)
    assert page.all("html")[0].attributes["lang"] == "en"


def needs_nothing(page: Page) -> None:
    assert {tag.name for tag in page.tags} & {"script", "link", "iframe", "object", "form", "base"} == set()
    for tag in page.tags:
        for name, value in tag.attributes.items():
            assert not name.startswith("on"), (tag.name, name)
            assert "://" not in value, (tag.name, name, value)
            if name in ("src", "href"):
                assert value.startswith(("data:image/webp;base64,", "#"))
    style = "".join(tag.words for tag in page.all("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_it_needs_no_network_and_runs_nothing(page: Page):
    needs_nothing(page)
    policy = [tag.attributes.get("content", "") for tag in page.all("meta")]
    assert any("default-src 'none'" in content for content in policy)


def test_hostile_words_stay_words():
    graphs = {
        "unet": {
            **EVALUATION["graphs"]["unet"],
            "float_layers": [EVIL],
            "layer_sqnr_db": {EVIL: 20.0},
        }
    }
    evaluation = {**EVALUATION, "graphs": graphs, "reference": EVIL, "settings": {EVIL: EVIL}}
    evaluation["cost"] = {"seconds": 1, "machine": EVIL}
    manifest = a_manifest(
        title=EVIL,
        licence=EVIL,
        provenance={EVIL: [EVIL, {EVIL: EVIL}], "long": EVIL * 20},
        evaluation=evaluation,
    )
    machine = Machine(cpu=EVIL, cores=1, onnxruntime=EVIL)
    row = PictureRow(prompt=EVIL, seed=1, ssim=1, psnr_db=200)
    report = a_report(made_by=EVIL, machine=machine, pictures=[row, row])
    page = Page(render(manifest, report))
    needs_nothing(page)
    assert page.problems == []
    assert page.all("h1")[0].words == EVIL
    assert page.words.count(EVIL) > 15


def test_a_graph_that_shares_anothers_weights_counts_only_its_own_bytes():
    data = a_manifest().model_dump()
    whole = data["graphs"]["unet"]
    own = {"unet/tail.onnx": {"sha256": "0" * 64, "bytes": 1_234_567}}
    shared = {path: entry for path, entry in whole["files"].items() if path != whole["file"]}
    assert shared
    tail = {"file": "unet/tail.onnx", "precision": "int8", "files": {**own, **shared}}
    data["graphs"]["unet_tail"] = tail
    page = Page(render(Manifest.model_validate(data), a_report()))
    assert any(tag.words.split() == ["unet_tailINT8,", "part", "of", "unet"] for tag in page.all("th"))
    assert "part of unet 1.23 MB" in page.words
    assert "unet_tail" not in [tag.words for tag in page.all("h3")]


def test_what_was_not_measured_is_said():
    bare = Page(render(a_manifest(evaluation={}, ram_mb=None, min_ram_mb=0, provenance={}), None))
    for said in (
        "Pictures: not measured",
        "Drift by timestep: not measured",
        "Time and memory by graph: not measured",
        "Memory by mode: not measured",
        "Layers of unet: not measured one by one",
        "were not compared with float32",
        "Provenance: not stated",
    ):
        assert said in bare.words
    assert bare.problems == []


@pytest.mark.parametrize(
    "junk",
    [
        {"graphs": [], "pictures": 3, "cost": "x", "memory": {"full": 7}, "settings": []},
        {
            "graphs": {
                "unet": {"layer_sqnr_db": {"a": True, "b": "9"}, "sqnr_db_by_timestep": [1, [2], ["x", 3]]}
            }
        },
        {"graphs": {"unet": {"sqnr_db": "<b>", "float_layers": [1, None], "layer_sqnr_db": {"a": 1e300}}}},
        {
            "graphs": {"unet": {"target_sqnr_db": 5, "layer_sqnr_db": {"a": -1e9, "b": -1e9}}},
            "pictures": {"ssim": 1},
        },
        {"graphs": {"unet": {"sqnr_db_by_timestep": [[5, 5]], "calibration_sqnr_db_all_int8": 2}}},
    ],
)
def test_an_evaluation_of_another_shape_breaks_nothing(junk: dict[str, Any]):
    assert Page(render(a_manifest(evaluation=junk), None)).problems == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"made_by": "x"}', "machine: Field required"),
        (a_report(pictures=[]).model_dump_json(), "shown.row 0 is not below 0"),
        (a_report().model_dump_json().replace("data:image/webp", "https://x/"), "shown.0.reference"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_report_is_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(PackError, match=r"report\.json") as caught:
        read_report(tmp_path)
    assert said in str(caught.value)


def test_a_report_reads_back(tmp_path: Path):
    assert read_report(tmp_path) is None
    (tmp_path / "report.json").write_text(a_report().model_dump_json())
    assert read_report(tmp_path) == a_report()
