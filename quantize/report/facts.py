"""What a pack says of itself, read with care: its evaluation may come from anywhere and hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgegen.pack import Manifest

from .data import CostPair, Report

SSIM_BAR = 0.95
PSNR_BAR_DB = 30.0
EXPORT_BAR = 1e-4


@dataclass(frozen=True)
class Layer:
    """One layer with weights.

    Attributes:
        sqnr_db: of the graph, when this layer alone has 8 bits.
        share: of the noise that all layers together would make, 0 to 1.
        kept: it stayed float.
    """

    name: str
    sqnr_db: float
    share: float
    kept: bool


@dataclass(frozen=True)
class GraphFacts:
    """One graph; None and empty: not measured, or not said.

    Attributes:
        sqnr_db, relative_error: on inputs that calibration never saw.
        reached_db, all_int8_db: on recorded inputs of the calibration, as it is and with nothing kept float;
            `target_db` was to be reached.
        layers: loudest first.
        timesteps: (timestep, SQNR in dB), from noise to picture.
        part_of: the earlier graph whose weights this one shares, so that only its own bytes count.
    """

    role: str
    precision: str
    bytes: int
    export_error: float | None = None
    sqnr_db: float | None = None
    relative_error: float | None = None
    reached_db: float | None = None
    all_int8_db: float | None = None
    target_db: float | None = None
    records: float | None = None
    layers: tuple[Layer, ...] = ()
    kept: tuple[str, ...] = ()
    timesteps: tuple[tuple[float, float], ...] = ()
    cost: CostPair | None = None
    part_of: str = ""

    @property
    def missed(self) -> bool:
        """It has a target, and is below it."""
        return self.target_db is not None and self.reached_db is not None and self.reached_db < self.target_db

    @property
    def kept_share(self) -> float:
        """Of the noise: what its float layers would make in 8 bits."""
        return sum(layer.share for layer in self.layers if layer.kept)


@dataclass(frozen=True)
class Facts:
    """All that a page shows, checked."""

    manifest: Manifest
    report: Report | None
    graphs: tuple[GraphFacts, ...]
    pictures: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: str = ""
    reference: str = ""

    @property
    def needs(self) -> dict[str, int]:
        """Memory mode -> MB of a whole picture, as the manifest says; empty: not measured."""
        said = self.manifest.ram_mb.model_dump() if self.manifest.ram_mb else {}
        return {mode: need for mode, need in said.items() if isinstance(need, int)}

    @property
    def growth(self) -> dict[str, float]:
        """Memory mode -> MB more for each million pixels more, where the manifest says it."""
        said = self.manifest.ram_mb.model_dump() if self.manifest.ram_mb else {}
        return _numbers(said.get("growth"))

    @property
    def precision(self) -> str:
        """`INT8`, or `FP16 + INT8` where graphs differ."""
        return " + ".join(sorted({graph.precision.upper() for graph in self.graphs}))


def read_facts(manifest: Manifest, report: Report | None) -> Facts:
    """Manifest and measurements as a page needs them."""
    evaluation = manifest.evaluation
    said = _mapping(evaluation.get("graphs"))
    cost = _mapping(evaluation.get("cost"))
    return Facts(
        manifest,
        report,
        tuple(_graph(manifest, role, _mapping(said.get(role)), report) for role in manifest.graphs),
        _numbers(evaluation.get("pictures")),
        _numbers(cost),
        {mode: _numbers(peaks) for mode, peaks in _mapping(evaluation.get("memory")).items()},
        _mapping(evaluation.get("settings")),
        _words(cost.get("machine")),
        _words(evaluation.get("reference")),
    )


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> str:
    return value if isinstance(value, str) else ""


def _numbers(value: object) -> dict[str, float]:
    return {key: n for key, item in _mapping(value).items() if (n := number(item)) is not None}


def _graph(manifest: Manifest, role: str, said: Mapping[str, Any], report: Report | None) -> GraphFacts:
    entry = manifest.graphs[role]
    whole = _whole(manifest, role)
    shared = manifest.graphs[whole].files if whole else {}
    kept = tuple(name for name in _list(said.get("float_layers")) if isinstance(name, str))
    figures = _numbers(said)
    return GraphFacts(
        role=role,
        precision=entry.precision,
        bytes=sum(file.bytes for path, file in entry.files.items() if path not in shared),
        export_error=report.export_errors.get(role) if report else None,
        sqnr_db=figures.get("sqnr_db"),
        relative_error=figures.get("relative_error"),
        reached_db=figures.get("calibration_sqnr_db"),
        all_int8_db=figures.get("calibration_sqnr_db_all_int8"),
        target_db=figures.get("target_sqnr_db"),
        records=figures.get("calibration_records"),
        layers=_layers(_numbers(said.get("layer_sqnr_db")), set(kept)),
        kept=kept,
        timesteps=_timesteps(said.get("sqnr_db_by_timestep")),
        cost=report.costs.get(role) if report else None,
        part_of=whole,
    )


def _whole(manifest: Manifest, role: str) -> str:
    """The earlier graph that has all files of this one but its own .onnx; empty: there is none."""
    entry = manifest.graphs[role]
    weights = entry.files.keys() - {entry.file}
    earlier = list(manifest.graphs)[: list(manifest.graphs).index(role)]
    return next(
        (other for other in earlier if weights and weights <= manifest.graphs[other].files.keys()), ""
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _layers(sqnr_db: Mapping[str, float], kept: set[str]) -> tuple[Layer, ...]:
    noises = {name: 10 ** (-max(-200.0, min(200.0, db)) / 10) for name, db in sqnr_db.items()}
    total = sum(noises.values())
    found = (Layer(name, sqnr_db[name], noise / total, name in kept) for name, noise in noises.items())
    return tuple(sorted(found, key=lambda layer: layer.sqnr_db))


def _timesteps(rows: object) -> tuple[tuple[float, float], ...]:
    pairs = [row for row in _list(rows) if isinstance(row, list) and len(row) == 2]
    numbers = [(number(t), number(db)) for t, db in pairs]
    return tuple(sorted(((t, db) for t, db in numbers if t is not None and db is not None), reverse=True))
