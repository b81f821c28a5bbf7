"""The page: one file with everything in it, readable without a network, a script or edgegen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgegen.pack import Manifest

from . import conclusions, figures
from .data import Report
from .facts import EXPORT_BAR, PSNR_BAR_DB, SSIM_BAR, read_facts
from .scales import short
from .svg import MARKS, PALETTE

HERE = Path(__file__).parent
LOUDEST = 10  # layers named at once; the others fold away
FIRST_LARGE = 2  # the worst pictures, over the page's full width
MEMORY_MODES = {
    "full": "everything stays in memory: fastest",
    "mapped": "weights stay in their files, and are read as they are needed",
    "low": "one graph at a time, and every buffer is given back at once",
    "tiled": "as low, and the picture is decoded piece by piece",
}


def render(manifest: Manifest, report: Report | None) -> str:
    """The whole page. Everything from outside is escaped by the template; drawings escape their own words."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "mb": _megabytes, "layer": conclusions.layer_name}
    facts = read_facts(manifest, report)
    template = environment.get_template("page.html.j2")
    return template.render(
        facts=facts,
        m=manifest,
        report=report,
        says=conclusions,
        draw=figures,
        style=Markup(PALETTE + MARKS + (HERE / "page.css").read_text("utf-8")),
        provenance=list(flat(manifest.provenance)),
        loudest=LOUDEST,
        first_large=FIRST_LARGE,
        modes=MEMORY_MODES,
        bars={"ssim": SSIM_BAR, "psnr": PSNR_BAR_DB, "export": EXPORT_BAR},
    )


def _megabytes(count: float) -> str:
    return f"{short(count / 1e6)} MB"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as (path, words): lists of plain values on one line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path} › {key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from flat(item, f"{path} › {i + 1}")
    elif isinstance(value, list):
        yield path, ", ".join(str(item) for item in value) or "none"
    else:
        yield path, "not stated" if value is None else str(value)
