"""A checkpoint becomes a pack: export, calibrate, convert, evaluate; all or nothing."""

from __future__ import annotations

import contextlib
import gc
import math
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch

from edgegen import __version__
from edgegen.errors import StorageError
from edgegen.pack import GraphEntry, Manifest, TokenizerEntry, file_entry, write_manifest

from . import evaluate as ev
from .calibrate import Recorder, record_runs
from .convert import Int8Converter, Int8Options
from .defaults import PackDefaults, default_settings, default_sizes, pack_name, read_defaults
from .export import ROLES, export
from .fp16 import convert_fp16
from .graphs import load_graph, save_graph
from .ram import measure_ram, peaks_as_json, ram_needs
from .rewrites import stamp
from .runner import Recipe, Runner
from .source import Source, open_source
from .vocabulary import write_tokenizer

Precision = Literal["fp32", "fp16", "int8"]
EVALUATION_RECORDS = 16
EVALUATION_SEED = 900_000  # far from the calibration's


@dataclass(frozen=True)
class BuildOptions:
    """What to build and how to judge it. `samples`: recorded inputs kept per graph."""

    precision: Precision = "int8"
    name: str | None = None
    title: str | None = None
    licence: str | None = None
    steps: int | None = None
    calibration_prompts: Sequence[str] = ()
    evaluation_prompts: Sequence[str] = ()
    samples: int = 128
    seed: int = 0
    evaluate: bool = True
    with_encoder: bool = False
    sheet: Path | None = None
    int8: Int8Options = field(default_factory=Int8Options)
    without_rules: tuple[str, ...] = ()
    force: bool = False


Say = Callable[[str], None]


def build_pack(folder: Path, out: Path, options: BuildOptions, say: Say = print) -> Manifest:
    """Build a pack; nothing appears at `out` before all of it is done.

    Args:
        folder: diffusers checkpoint.
        out: the pack's folder, in a folder that exists.
    Raises:
        SourceError: the checkpoint cannot be read. StorageError: `out` exists, or cannot be written.
    """
    source = open_source(folder)
    given = _with_flags(read_defaults(folder), options)
    with staging(out, options.force) as stage:
        builder = _Builder(source, given, options, stage, say)
        return builder.build()


@contextlib.contextmanager
def staging(out: Path, force: bool) -> Iterator[Path]:
    """A folder beside `out` with `pack/` in it, which becomes `out` when the block ends well."""
    if out.exists() and not force:
        raise StorageError(f"{out} exists; give another -o, or --force to replace it")
    if not out.absolute().parent.is_dir():
        raise StorageError(f"{out.absolute().parent} is no folder; make it first")
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    except OSError as err:
        raise StorageError(f"cannot write beside {out}: {err.strerror}") from err
    try:
        (stage / "pack").mkdir()
        yield stage
        if out.exists():
            out.rename(stage / "replaced")
        (stage / "pack").rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _with_flags(given: PackDefaults, options: BuildOptions) -> PackDefaults:
    flags = {"name": options.name, "title": options.title, "licence": options.licence}
    merged = given.model_copy(update={key: value for key, value in flags.items() if value})
    if options.steps:
        merged = merged.model_copy(
            update={"defaults": given.defaults.model_copy(update={"steps": options.steps})}
        )
    return PackDefaults.model_validate(merged.model_dump())


class _Builder:
    """One build, in its staging folder: float32 graphs in `fp32/`, the pack in `pack/`."""

    def __init__(self, source: Source, given: PackDefaults, options: BuildOptions, stage: Path, say: Say):
        self.source, self.given, self.options, self.say = source, given, options, say
        self.stage, self.pack = stage, stage / "pack"
        self.roles = (*ROLES, "vae_encoder") if options.with_encoder else ROLES
        self.float_graphs = {role: stage / "fp32" / role / "model.onnx" for role in self.roles}
        self.graphs = {role: self.pack / role / "model.onnx" for role in self.roles}
        self.reports: dict[str, dict[str, Any]] = {}
        write_tokenizer(source.folder / "tokenizer", self.pack / "tokenizer.json")

    def build(self) -> Manifest:
        for role in self.roles:
            error = export(self.source, role, self.float_graphs[role], self.options.without_rules)
            self.say(f"exported {role}: within {error:.1e} of torch")
        self._convert()
        manifest = self._manifest({}, 0)
        if self.options.evaluate:
            write_manifest(self.pack, manifest)
            manifest = self._evaluated(manifest)
        write_manifest(self.pack, manifest)
        return manifest

    def _convert(self) -> None:
        if self.options.precision == "int8":
            self._convert_int8()
        for role in self.roles:
            if self.options.precision == "fp16":
                convert_fp16(self.float_graphs[role], self.graphs[role], __version__)
            elif self.options.precision == "fp32":
                _copy_stamped(self.float_graphs[role], self.graphs[role])
            onnx.checker.check_model(str(self.graphs[role]))

    def _convert_int8(self) -> None:
        recorder = self._record(
            "calibration", self.options.calibration_prompts, self.options.seed, self.options.samples
        )
        for role in self.roles:
            records = recorder.records(role)
            work = self.stage / "ranges" / role
            converter = Int8Converter(self.float_graphs[role], records, self.options.int8, work, __version__)
            report = converter.convert(role, self.graphs[role])
            self.reports[role] = {"calibration_records": len(records), **report.as_json()}
            kept = f", {len(report.float_layers)} layers kept float" if report.float_layers else ""
            missed = (
                "" if report.sqnr_db >= report.target_sqnr_db else f" (target {report.target_sqnr_db} missed)"
            )
            self.say(f"quantized {role}: {report.sqnr_db:.1f} dB{missed}{kept}")
            del converter
            gc.collect()

    def _record(self, label: str, prompts: Sequence[str], seed: int, limit: int) -> Recorder:
        graphs = {role: self.float_graphs[role] for role in ROLES}
        recipe = self._recipe()
        return record_runs(
            graphs, recipe, prompts, seed, self.stage / label, limit, encoder=self.options.with_encoder
        )

    def _recipe(self) -> Recipe:
        return Recipe.of_manifest(self._manifest({}, 0, entries=False), self.pack / "tokenizer.json")

    def _manifest(self, evaluation: dict[str, Any], ram_mb: int, entries: bool = True) -> Manifest:
        s, int8 = self.source, self.options.precision == "int8"
        schedule = s.schedule
        name = pack_name(s, self.given)
        tokenizer = file_entry(self.pack / "tokenizer.json")
        return Manifest(
            name=name,
            title=self.given.title or name,
            family=self.given.family or s.family,
            graphs={role: self._entry(role, entries) for role in self.roles},
            tokenizer=TokenizerEntry(
                file="tokenizer.json", sha256=tokenizer.sha256, bytes=tokenizer.bytes, max_length=s.max_length
            ),
            prediction_type=s.prediction_type,  # type: ignore[arg-type]
            beta_schedule=schedule.beta_schedule,  # type: ignore[arg-type]
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            num_train_timesteps=schedule.num_train_timesteps,
            rescale_zero_terminal_snr=schedule.rescale_zero_terminal_snr,
            timestep_spacing=schedule.timestep_spacing,  # type: ignore[arg-type]
            steps_offset=schedule.steps_offset,
            latent_channels=s.latent_channels,
            latent_downscale=s.latent_downscale,
            latent_scale=s.latent_scale,
            defaults=default_settings(s, self.given),
            sizes=default_sizes(s, self.given),
            target=self.options.int8.target if int8 else "any",
            min_ram_mb=ram_mb,
            licence=self.given.licence or "not stated by the source",
            provenance={**self.given.provenance, "quantized": self._how()},
            evaluation=evaluation,
        )

    def _entry(self, role: str, real: bool) -> GraphEntry:
        name = f"{role}/model.onnx"
        paths = sorted(self.graphs[role].parent.iterdir()) if real else []
        files = {f"{role}/{path.name}": file_entry(path) for path in paths}
        nothing = file_entry(self.pack / "tokenizer.json")
        return GraphEntry(file=name, precision=self.options.precision, files=files or {name: nothing})

    def _how(self) -> dict[str, Any]:
        o = self.options
        how: dict[str, Any] = {
            "by": f"edgegen {__version__}",
            "checkpoint": self.source.folder.resolve().name,
            "precision": o.precision,
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
        }
        if o.precision == "int8":
            how["calibration"] = {
                "method": o.int8.method,
                "pictures": len(o.calibration_prompts),
                "seed": o.seed,
                "keep_float": list(o.int8.keep_float),
            }
        return how

    def _evaluated(self, manifest: Manifest) -> Manifest:
        """The manifest with its evaluation; the reference is this build's own float32 graphs."""
        prompts, recipe = self.options.evaluation_prompts, self._recipe()
        recorder = Recorder(self.stage / "evaluation", EVALUATION_RECORDS)
        references = {role: self.float_graphs[role] for role in ROLES}
        wanted = ev.make_pictures(
            Runner(references, recipe, observer=recorder), prompts, EVALUATION_SEED, "fp32"
        )
        gc.collect()
        graphs = {role: self.graphs[role] for role in ROLES}
        got = ev.make_pictures(Runner(graphs, recipe), prompts, EVALUATION_SEED, self.options.precision)
        if self.options.sheet:
            ev.contact_sheet(wanted, got, self.options.sheet)
        cost = ev.measure_cost(self.pack, prompts[0])
        peaks = measure_ram(self.pack, prompts[0])
        result = {**self._result(wanted, got, recorder, cost, recipe), "memory": peaks_as_json(peaks)}
        found = {"evaluation": result, "min_ram_mb": math.ceil(cost.peak_mb), "ram_mb": ram_needs(peaks)}
        return Manifest.model_validate(manifest.model_copy(update=found))

    def _result(
        self,
        wanted: Sequence[np.ndarray],
        got: Sequence[np.ndarray],
        recorder: Recorder,
        cost: ev.Cost,
        recipe: Recipe,
    ) -> dict[str, Any]:
        graphs = {}
        for role in self.roles:
            records = recorder.records(role)
            drift = (
                ev.graph_drift(self.float_graphs[role], self.graphs[role], records) if len(records) else None
            )
            size = sum(path.stat().st_size for path in self.graphs[role].parent.iterdir())
            graphs[role] = {
                "bytes": size,
                **(ev.as_json(drift) if drift else {}),
                **self.reports.get(role, {}),
            }
        return {
            "reference": "fp32 graphs of the same checkpoint, ONNX Runtime CPU",
            "settings": {
                "seed": EVALUATION_SEED,
                "sampler": recipe.sampler,
                "steps": recipe.steps,
                "guidance": recipe.guidance,
                "width": recipe.width,
                "height": recipe.height,
            },
            "graphs": graphs,
            "pictures": ev.as_json(ev.picture_drift(wanted, got)),
            "cost": {**ev.as_json(cost), "machine": f"{platform.machine()}, {_cpu_count()} CPUs"},
        }


def _copy_stamped(graph: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    model = load_graph(graph)
    stamp(model, __version__)
    save_graph(model, out)


def _cpu_count() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
