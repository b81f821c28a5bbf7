"""The benchmarks' plots: every figure is in them, true to scale, and hostile names stay words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from plot import lines, plot

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    {"runner": "edgegen INT8", "metric": "step", "value": 1.5, "ratio": 0.366},
    {"runner": "diffusers fp32", "metric": "step", "value": 4.1, "ratio": 1.0},
    {"runner": "not installed", "metric": "step", "value": None},
    {"runner": "edgegen INT8", "metric": "picture", "value": 9.25},
]


def words(path: Path) -> list[str]:
    return [node.text or "" for node in ElementTree.parse(path).iter(f"{SVG}text")]


def bars(path: Path) -> list[tuple[float, str]]:
    found = ElementTree.parse(path).iter(f"{SVG}rect")
    return [(float(r.get("width")), r.get("class")) for r in found if r.get("class") in ("bar", "accent")]


def test_bars_are_as_long_as_their_values_and_ours_are_marked(tmp_path: Path):
    plot(ROWS, "One step", "s", tmp_path / "p.svg")
    (ours, ours_css), (theirs, theirs_css), (picture, _) = bars(tmp_path / "p.svg")
    assert (ours_css, theirs_css) == ("accent", "bar")
    assert theirs / ours == pytest.approx(4.1 / 1.5, rel=0.01)
    assert picture / ours == pytest.approx(9.25 / 1.5, rel=0.01)


def test_every_figure_and_group_is_written_and_missing_rows_are_left_out(tmp_path: Path):
    plot(ROWS, "One step", "s", tmp_path / "p.svg", limit=1.52)
    text = words(tmp_path / "p.svg")
    for said in ("One step", "1.5 s (0.37×)", "4.1 s (1.00×)", "9.25 s", "step", "picture", "to reach: 1.52"):
        assert said in text
    assert not any("not installed" in line for line in text)


def test_names_from_outside_stay_words(tmp_path: Path):
    plot([{"runner": '<script>x</script>&"', "value": 1}], "<b>", "s", tmp_path / "p.svg")
    raw = (tmp_path / "p.svg").read_text("utf-8")
    assert "<script" not in raw
    assert "<b>" not in raw
    assert '<script>x</script>&"' in words(tmp_path / "p.svg")


def test_growth_by_a_power_is_a_straight_line(tmp_path: Path):
    series = {
        "them": [(s, s**3.0) for s in (256, 512, 1024)],
        "edgegen": [(s, s**2.0) for s in (256, 512, 1024)],
    }
    lines(series, "Growth", "side, pixels", "seconds", tmp_path / "g.svg")
    for curve in ElementTree.parse(tmp_path / "g.svg").iter(f"{SVG}polyline"):
        (x0, y0), (x1, y1), (x2, y2) = (map(float, at.split(",")) for at in curve.get("points").split())
        assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert {"them", "edgegen", "256", "512", "1,024", "side, pixels", "seconds"} <= set(
        words(tmp_path / "g.svg")
    )


def test_what_cannot_be_drawn_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none of 1 rows"):
        plot(ROWS[2:3], "t", "s", tmp_path / "p.svg")
    with pytest.raises(ValueError, match="above 0"):
        lines({"a": [(0, 1)]}, "t", "x", "y", tmp_path / "g.svg")
    with pytest.raises(ValueError, match="no points"):
        lines({"a": []}, "t", "x", "y", tmp_path / "g.svg")
    lines({"a": [(0, 0), (1, 1)]}, "t", "x", "y", tmp_path / "g.svg", log=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "g.svg"]


def test_the_command_draws_rows_and_series(tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "series.json").write_text(json.dumps({"a": [[1, 2], [2, 4]]}))
    for name in ("rows", "series"):
        command = [
            sys.executable,
            "bench/plot.py",
            str(tmp_path / f"{name}.json"),
            "-o",
            str(tmp_path / f"{name}.svg"),
        ]
        subprocess.run([*command, "--title", "Told"], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
        assert "Told" in words(tmp_path / f"{name}.svg")
