"""Measuring an existing pack anew, against a float32 pack of the same checkpoint."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgegen.errors import PackError
from edgegen.pack import Manifest, Pack

from .. import evaluate as ev
from ..calibrate import Recorder, Records
from ..runner import DRAWING_ROLES, Recipe, Runner
from .cost import measure_costs
from .data import Report, read_report
from .make import empty_report, with_costs, with_pictures

SEED = 900_000  # as in a build: far from the calibration's
RECORDS = 16
ROUNDS = 3  # a build measures once


def measure_against(pack: Pack, reference: Pack, prompts: Sequence[str]) -> tuple[Manifest, Report]:
    """The drift of `pack` from `reference`, pictures and costs of both, at the settings of `pack`.

    Returns:
        The pack's manifest with what was found in its evaluation, and the rest; nothing is written.
    Raises:
        PackError: `reference` is not float32, or not of the same kind. EngineError: measuring failed.
    """
    _check_kin(pack, reference)
    known = read_report(reference.folder)
    roles = [
        role for role in DRAWING_ROLES if role in pack.manifest.graphs.keys() & reference.manifest.graphs
    ]
    graphs, references = ({role: p.graph(role) for role in roles} for p in (pack, reference))
    with tempfile.TemporaryDirectory(prefix="edgegen-against-") as name:
        recorder = Recorder(Path(name), RECORDS, hold_out=False)
        recipe = Recipe.of_pack(pack)
        wanted = ev.make_pictures(Runner(references, recipe, observer=recorder), prompts, SEED)
        gc.collect()
        got = ev.make_pictures(Runner(graphs, recipe), prompts, SEED)
        gc.collect()
        records = {role: Records.of(Path(name), role) for role in roles}
        measured = measure_costs(references, graphs, records, ROUNDS)
        report = with_pictures(empty_report(known.export_errors if known else {}), prompts, SEED, wanted, got)
        report = with_costs(report, measured)
    drifts = {role: found.drift.as_json() for role, found in measured.items()}
    return _with_evaluation(pack.manifest, drifts, ev.as_json(ev.picture_drift(wanted, got))), report


def _with_evaluation(
    manifest: Manifest, drifts: dict[str, dict[str, Any]], pictures: dict[str, Any]
) -> Manifest:
    before: dict[str, Any] = manifest.evaluation
    graphs = dict(before.get("graphs") or {})
    for role, drift in drifts.items():
        graphs[role] = {**(graphs.get(role) or {}), **drift}
    evaluation = {**before, "graphs": graphs, "pictures": pictures}
    return Manifest.model_validate(manifest.model_copy(update={"evaluation": evaluation}).model_dump())


def _check_kin(pack: Pack, reference: Pack) -> None:
    precisions = {graph.precision for graph in reference.manifest.graphs.values()}
    if precisions != {"fp32"}:
        raise PackError(
            f"{reference.folder} is {', '.join(sorted(precisions))}; a reference needs --precision fp32"
        )
    ours, theirs = pack.manifest, reference.manifest
    for name in ("family", "prediction_type", "latent_channels", "latent_downscale", "latent_scale"):
        if getattr(ours, name) != getattr(theirs, name):
            raise PackError(
                f"{reference.folder} is not of the same checkpoint as {pack.folder}: its {name} is "
                f"{getattr(theirs, name)!r}, not {getattr(ours, name)!r}"
            )
