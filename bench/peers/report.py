"""From what was measured to a table, plots and JSON."""

from __future__ import annotations

import json
import math
import platform
import statistics
from pathlib import Path

import numpy as np

BASE = "diffusers-fp32"
PAGE = Path(__file__).resolve().parent.parent.parent / "docs/BENCHMARKS.md"
BEGIN, END = "<!-- bench.peers: begin -->", "<!-- bench.peers: end -->"
FIGURES = (  # numerator, denominator, at most, stretch: what the project asks of itself
    ("edgegen-int8", "diffusers-fp32", 0.37, 0.25),
    ("edgegen-int8", "ort-exported", 0.36, 0.25),
    ("edgegen-int8-openvino", "openvino-nncf-int8", 1.10, 0.95),
    ("edgegen-int8-openvino@nuc", "openvino-fp16@nuc", 0.50, 0.40),
    ("edgegen-int8-openvino@vnni", "openvino-fp16@vnni", 0.50, 0.40),
)


def median(values: list[float]) -> float:
    return statistics.median(values)


def sqnr_db(work: Path, runner: str, size: int = 512) -> float | None:
    """How far one step's output is from diffusers' float32, in dB; None when either is not there."""
    paths = [work / f"output-{name}-{size}.npy" for name in (BASE, runner)]
    if runner == BASE or not all(path.exists() for path in paths):
        return None
    wanted, got = (np.load(path).astype(np.float64) for path in paths)
    noise = float(((wanted - got) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(float((wanted**2).sum()) / noise)


def write(folder: Path, measured: dict) -> None:
    """`peers.json` and two plots in a folder of docs/; the table goes into the page and is printed, too."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {**measured, "machine": machine()}
    rows = [summary(row, measured["sqnr_db"]) for row in measured["rows"]]
    (folder / "peers.json").write_text(json.dumps({**measured, "summary": rows}, indent=1) + "\n", "utf-8")
    draw(folder, rows, measured["growth"])
    told = f"{measured['machine']}, {measured['threads']} threads."
    text = "\n".join([told, "", *table(rows), "", *figures(rows), "", *pictures(folder)])
    into_page(PAGE, text)
    print(text)


def pictures(folder: Path) -> list[str]:
    """The plots, as the page beside the folder shows them."""
    shown = {"peers-step.svg": "Seconds a step, by runner", "peers-growth.svg": "Seconds a step, by size"}
    return [f"![{alt}]({folder.name}/{name})" for name, alt in shown.items() if (folder / name).exists()]


def into_page(page: Path, text: str) -> None:
    """Replace what stands between the markers. Raises ValueError when the page has none."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def summary(row: dict, drift: dict[str, float | None]) -> dict:
    """Medians of one runner; `failed` or `missing` says why there are none."""
    runs = row.get("runs", [])
    good = [run for run in runs if "failed" not in run]
    if not good:
        why = row.get("missing") or (runs[0]["failed"] if runs else "not run")
        return {"runner": row["runner"], "why": why}
    pictures = [run["picture_s"] for run in good if run.get("picture_s")]
    return {
        "runner": row["runner"],
        "step_s": median([s for run in good for s in run["step_s"]]),
        "picture_s": median(pictures) if pictures else None,
        "load_s": median([run["load_s"] for run in good]),
        "peak_mb": median([run["peak_mb"] for run in good]),
        "sqnr_db": drift.get(row["runner"]),
    }


def table(rows: list[dict]) -> list[str]:
    base = next((row["step_s"] for row in rows if row["runner"] == BASE and "step_s" in row), None)
    head = [
        "| runner | s a step | to diffusers fp32 | s a picture | loading the UNet, s | peak MB | SQNR dB |"
    ]
    return [*head, "|---|" + "---:|" * 6, *(_line(row, base) for row in rows)]


def _line(row: dict, base: float | None) -> str:
    if "why" in row:
        return f"| {row['runner']} | {row['why']} | | | | | |"
    cells = [
        f"{row['step_s']:.2f}",
        f"{row['step_s'] / base:.2f}" if base else "-",
        f"{row['picture_s']:.1f}" if row["picture_s"] else "-",
        f"{row['load_s']:.1f}",
        f"{row['peak_mb']:.0f}",
        "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
    ]
    return f"| {row['runner']} | {' | '.join(cells)} |"


def figures(rows: list[dict]) -> list[str]:
    """The ratios we ask of ourselves, measured."""
    steps = {row["runner"]: row["step_s"] for row in rows if "step_s" in row}
    lines = ["| a step of | to | measured | at most | stretch |", "|---|---|---:|---:|---:|"]
    for ours, peer, most, stretch in FIGURES:
        measured = f"{steps[ours] / steps[peer]:.2f}" if ours in steps and peer in steps else "not measured"
        lines.append(f"| {ours} | {peer} | {measured} | {most:.2f} | {stretch:.2f} |")
    return lines


def draw(folder: Path, rows: list[dict], growth: dict[str, list[tuple[int, float]]]) -> None:
    from bench.plot import lines, plot

    base = next((row["step_s"] for row in rows if row["runner"] == BASE and "step_s" in row), None)
    bars = [
        {"runner": row["runner"], "value": row.get("step_s"), "ratio": row["step_s"] / base if base else None}
        for row in rows
        if "step_s" in row
    ]
    if bars:
        plot(bars, "One step of Stable Diffusion 1.5's UNet, 512x512", "s", folder / "peers-step.svg")
    if any(growth.values()):
        lines(growth, "Growth with size", "side, pixels", "seconds a step", folder / "peers-growth.svg")


def machine() -> str:
    """CPU, cores and libraries, for the reader."""
    from importlib.metadata import version

    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (row.split(":", 1)[1].strip() for row in info if row.startswith("model name")), platform.machine()
    )
    libraries = ", ".join(f"{lib} {version(lib)}" for lib in ("onnxruntime", "torch", "diffusers"))
    return f"{name}, Linux, Python {platform.python_version()}, {libraries}"
