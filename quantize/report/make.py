"""Measuring what only a report holds, and putting it into a pack: report.json, report.html, their hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgegen import __version__
from edgegen.errors import StorageError
from edgegen.pack import Manifest, file_entry, replace_file

from .cost import Measured, this_machine
from .data import PAGE_NAME, REPORT_NAME, Report
from .page import render
from .pictures import GAIN, picture_rows


def empty_report(export_errors: Mapping[str, float]) -> Report:
    """What a pack carries that was built without an evaluation."""
    return Report(
        made_by=f"edgegen {__version__}", machine=this_machine(), export_errors=dict(export_errors), gain=GAIN
    )


def with_pictures(
    report: Report, prompts: Sequence[str], seed: int, wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> Report:
    """The report with the figures of every picture and with some of the pictures themselves.

    Args:
        seed: of the first picture; each next has the next.
        wanted, got: float32's and the pack's, (h, w, 3) uint8 each.
    """
    rows, shown = picture_rows(prompts, seed, wanted, got)
    return report.model_copy(update={"pictures": rows, "shown": shown})


def with_costs(report: Report, measured: Mapping[str, Measured]) -> Report:
    """The report with what every graph costs alone, as `measure_costs` found."""
    return report.model_copy(update={"costs": {role: found.costs for role, found in measured.items()}})


def attach(folder: Path, manifest: Manifest, report: Report | None) -> Manifest:
    """Write report.html, and report.json where there is a report, into a pack's folder.

    Returns:
        The manifest with what was written among its extras; still to be written itself.
    Raises:
        StorageError: the folder cannot be written.
    """
    names = [PAGE_NAME]
    if report:
        _write(folder / REPORT_NAME, report.model_dump_json(indent=1) + "\n")
        names.append(REPORT_NAME)
    write_page(folder / PAGE_NAME, manifest, report)
    extras = {**(manifest.extras or {}), **{name: file_entry(folder / name) for name in names}}
    return manifest.model_copy(update={"extras": extras})


def write_page(path: Path, manifest: Manifest, report: Report | None) -> None:
    """Write the page alone. Raises StorageError."""
    _write(path, render(manifest, report))


def _write(path: Path, words: str) -> None:
    try:
        replace_file(path, words.encode("utf-8"))
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror}") from err
