"""A checkpoint becomes a pack: export, calibrate, convert, evaluate; all or nothing."""

from __future__ import annotations

import functools
import gc
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers

from edgegen import __version__
from edgegen.pack import (
    LAYER_TABLE,
    GraphEntry,
    IpLayer,
    Manifest,
    Precision,
    SecondTokenizer,
    TokenizerEntry,
    file_entry,
    write_manifest,
)

from . import evaluate as ev
from .calibrate import Recorder, Records, observations, record_runs
from .control import CONTROL, add_control
from .convert import Int8Converter, Int8Options
from .cut import HEAD, TAIL, cut_decoder
from .defaults import PackDefaults, default_settings, default_sizes, pack_name, read_defaults
from .export import export
from .fp16 import convert_fp16
from .graphs import graph_bytes, layers, load_graph, save_graph, weights_read_from
from .imageprompt import IMAGE, add_image_prompt, strip_image_prompt, transformer_depths
from .layertable import ADAPTABLE, write_layer_table
from .onnximport import import_graph
from .original import Hints
from .plan import Plan, make_plan
from .preview import fit_latent_rgb
from .progress import Progress
from .ram import measure_needs
from .report.make import attach, empty_report, with_costs, with_pictures
from .rewrites import stamp
from .runner import Recipe, Runner
from .shown import Shown, shown_by
from .source import NO_HINTS, Source, open_source
from .stages import counter, expected_stages
from .vocabulary import second_padding, write_tokenizer
from .weightonly import WEIGHT_BITS, convert_weight_only
from .work import Work, source_digest, work_folder

EVALUATION_RECORDS = 16
EVALUATION_SEED = 900_000  # far from the calibration's


@dataclass(frozen=True)
class BuildOptions:
    """What to build and how to judge it.

    Attributes:
        samples: recorded inputs kept per graph.
        fresh: take nothing over from a build that was cut off.
        budget_s: what recording and judging may cost, as `plan` reckons it.
        ip_adapter: an adapter whose tokens the denoiser is shown while INT8 ranges are recorded.
    """

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
    with_control: bool = False
    with_ip_adapter: bool = False
    ip_adapter: Path | None = None
    sheet: Path | None = None
    int8: Int8Options = field(default_factory=Int8Options)
    hints: Hints = NO_HINTS
    without_rules: tuple[str, ...] = ()
    force: bool = False
    fresh: bool = False
    budget_s: float = 480.0


def build_pack(folder: Path, out: Path, options: BuildOptions, progress: Progress | None = None) -> Manifest:
    """Build a pack; nothing appears at `out` before all of it is done. Cut off, the same call goes on.

    Args:
        folder: the checkpoint, see `source.open_source`.
        out: the pack's folder, in a folder that exists.
        progress: told what happens; None: nobody is.
    Raises:
        SourceError: the checkpoint cannot be read. StorageError: `out` exists, or cannot be written.
    """
    source = open_source(folder, options.hints)
    given = _with_flags(read_defaults(folder), options)
    progress = progress or Progress("quiet")
    transformers.utils.logging.disable_progress_bar()  # there is one overall progress
    with work_folder(out, options.force, options.fresh) as work:
        work.told = progress.begin
        manifest = _Builder(source, given, options, work, progress).build()
        progress.finish()
    return manifest


def _with_flags(given: PackDefaults, options: BuildOptions) -> PackDefaults:
    flags = {"name": options.name, "title": options.title, "licence": options.licence}
    merged = given.model_copy(update={key: value for key, value in flags.items() if value})
    if options.steps:
        merged = merged.model_copy(
            update={"defaults": given.defaults.model_copy(update={"steps": options.steps})}
        )
    return PackDefaults.model_validate(merged.model_dump())


class _Builder:
    """One build, in its work folder: float32 graphs in `fp32/`, the pack in `pack/`."""

    def __init__(
        self, source: Source, given: PackDefaults, options: BuildOptions, work: Work, progress: Progress
    ):
        self.source, self.given, self.options = source, given, options
        self.work, self.progress, self.say = work, progress, progress.say
        self.stage, self.pack = work.folder, work.folder / "pack"
        self.roles = (*source.roles, "vae_encoder") if options.with_encoder else source.roles
        self.float_graphs = {role: self.stage / "fp32" / role / "model.onnx" for role in self.roles}
        self.graphs = {role: self.pack / role / "model.onnx" for role in self.roles}
        self.reports: dict[str, dict[str, Any]] = {}
        self.export_errors: dict[str, float] = {}
        self.is_cut = False
        self.plan: Plan | None = None
        self.ip_layers: list[IpLayer] | None = None
        self.calibrated = dict(self.float_graphs)
        self.shown: Shown = lambda _: ({}, {})
        write_tokenizer(source.tokenizer, self.pack / "tokenizer.json", source.pad_token)
        self.tokenizer_2 = _second_tokenizer(source)

    def build(self) -> Manifest:
        self.progress.expect(expected_stages(self.roles, self.options.precision, self.options.evaluate))
        self.progress.begin("read source")
        tokenizers = [path for path in (self.source.tokenizer, self.source.tokenizer_2) if path]
        self._digest = [source_digest(path) for path in (self.source.folder, *tokenizers)]
        for role in self.roles:
            self._make_float(role)
        self._look_at_calibration()
        self.plan = plan = self._make_plan()
        self._convert(plan)
        self.is_cut = cut_decoder(self.graphs["vae_decoder"])
        if self.options.with_control:
            add_control(self.graphs["unet"])
        if self.options.with_ip_adapter:
            self.ip_layers = self._look_at_pictures()
        manifest = self._manifest({}, 0)
        self.report = empty_report(self.export_errors)
        if self.options.evaluate:
            write_manifest(self.pack, manifest)
            manifest = self._evaluated(manifest, plan)
        manifest = attach(self.pack, manifest, self.report)
        write_manifest(self.pack, manifest)
        return manifest

    def _look_at_calibration(self) -> None:
        """With an adapter at hand the denoiser that looks at pictures is recorded and quantized; the plain
        one, of the same weights and ranges, comes of it."""
        if self.options.ip_adapter is None or self.options.precision != "int8":
            return
        unet = self.float_graphs["unet"]
        layers = add_image_prompt(unet, transformer_depths(self.source.configs["unet"]))
        self.calibrated["unet"] = unet.with_name(IMAGE[unet.name])
        self.shown = shown_by(self.options.ip_adapter, layers, self.options.seed)

    def _look_at_pictures(self) -> list[IpLayer]:
        """Write the denoiser's graphs that also take what IP-Adapters tell; the layers that do."""
        unet, depths = self.graphs["unet"], transformer_depths(self.source.configs["unet"])
        graphs = [unet, unet.with_name(CONTROL)] if self.options.with_control else [unet]
        *_, layers = [add_image_prompt(graph, depths) for graph in graphs]
        return layers

    def _make_float(self, role: str) -> None:
        graph = self.float_graphs[role]
        inputs = {
            "source": self._digest,
            "configs": self.source.configs,  # of a single file they hang on the command's flags
            "versions": _versions(),
            "role": role,
            "without": self.options.without_rules,
        }

        def make() -> float | None:
            if self.source.layout == "onnx":
                import_graph(self.source, role, graph, self.options.without_rules)
                self.say(f"read {role} as it was exported")
                return None
            error = export(self.source, role, graph, self.options.without_rules)
            self.say(f"exported {role}: within {error:.1e} of torch")
            return error

        error = self.work.step(f"export {role}", inputs, [graph.parent], make)
        if error is not None:
            self.export_errors[role] = error

    def _make_plan(self) -> Plan:
        sizes = {role: graph_bytes(path) for role, path in self.float_graphs.items()}
        o = self.options
        plan = make_plan(
            sizes,
            self._recipe(),
            len(layers(load_graph(self.float_graphs["unet"], weights=False))),
            len(o.calibration_prompts),
            len(o.evaluation_prompts),
            o.budget_s,
        )
        asked = len(o.calibration_prompts), len(o.evaluation_prompts)
        if (plan.recording_pictures, plan.drawing_pictures) != asked and o.precision == "int8":
            self.say(
                f"within {o.budget_s / 60:g} minutes: recording {plan.recording_pictures} pictures of "
                f"{plan.recording_steps} steps, comparing {plan.drawing_pictures} of {plan.drawing_steps} "
                "(--budget gives more)"
            )
        return plan

    def _convert(self, plan: Plan) -> None:
        if self.options.precision == "int8":
            self._record(plan)
        for role in self.roles:
            step = f"{'quantize' if self.options.precision == 'int8' else 'convert'} {role}"
            inputs = _converting(self.options)
            make = functools.partial(self._convert_one, role, plan)
            self.reports[role] = self.work.step(step, inputs, [self.graphs[role].parent], make)

    def _convert_one(self, role: str, plan: Plan) -> dict[str, Any]:
        """The report of a role's graph, which is then in the pack; empty when not INT8."""
        report: dict[str, Any] = {}
        if self.options.precision == "int8":
            report = self._convert_int8(role, plan)
        elif self.options.precision == "fp16":
            convert_fp16(self.float_graphs[role], self.graphs[role], __version__)
        elif self.options.precision in WEIGHT_BITS:
            bits = WEIGHT_BITS[self.options.precision]
            convert_weight_only(self.float_graphs[role], self.graphs[role], bits, __version__)
        else:
            copy_stamped(self.float_graphs[role], self.graphs[role])
        onnx.checker.check_model(str(self.graphs[role]))
        if role in ADAPTABLE and self.options.precision not in WEIGHT_BITS:
            write_layer_table(self.graphs[role])
        return report

    def _convert_int8(self, role: str, plan: Plan) -> dict[str, Any]:
        recorded, o = self.stage / "calibration", self.options
        records, seen = Records.of(recorded, role), observations(recorded, role)
        graph = self.calibrated[role]
        judging = plan.probes, plan.crop, plan.rounds
        converter = Int8Converter(graph, records, seen, o.int8, __version__, *judging)
        report = converter.convert(role, self.graphs[role])
        if graph != self.float_graphs[role]:
            strip_image_prompt(self.graphs[role])
        kept = f", {len(report.float_layers)} layers kept float" if report.float_layers else ""
        missed = (
            "" if report.sqnr_db >= report.target_sqnr_db else f" (target {report.target_sqnr_db} missed)"
        )
        self.say(f"quantized {role}: {report.sqnr_db:.1f} dB{missed}{kept}")
        del converter
        gc.collect()
        return {"calibration_records": len(records), **report.as_json()}

    def _record(self, plan: Plan) -> None:
        o, folder = self.options, self.stage / "calibration"
        recipe = replace(self._recipe(), steps=plan.recording_steps)
        prompts = list(o.calibration_prompts)[: plan.recording_pictures]
        tokenizer = file_entry(recipe.tokenizer).sha256
        inputs = [prompts, o.seed, o.samples, {**asdict(recipe), "tokenizer": tokenizer}]
        inputs += [file_entry(o.ip_adapter).sha256] if o.ip_adapter else []

        def make() -> None:
            steps = 2 * recipe.steps * len(prompts)
            advance = counter(self.progress, steps if recipe.guidance != 1 else steps // 2)
            record_runs(self.calibrated, recipe, prompts, o.seed, folder, o.samples, advance, self.shown)

        self.work.step("record", inputs, [folder], make)

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
            graphs=self._entries(entries),
            tokenizer=TokenizerEntry(
                file="tokenizer.json", sha256=tokenizer.sha256, bytes=tokenizer.bytes, max_length=s.max_length
            ),
            tokenizer_2=self.tokenizer_2,
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
            guidance_embedding_dim=s.guidance_embedding_dim,
            ip_layers=self.ip_layers,
            defaults=default_settings(s, self.given),
            sizes=default_sizes(s, self.given),
            target=self.options.int8.target if int8 else "any",
            min_ram_mb=ram_mb,
            licence=self.given.licence or "not stated by the source",
            provenance={**self.given.provenance, "quantized": self._how()},
            evaluation=evaluation,
        )

    def _entries(self, real: bool) -> dict[str, GraphEntry]:
        """By role; the two parts of a cut decoder share its weights, and both denoisers theirs."""
        entries = {role: self._entry(role, real) for role in self.roles}
        parts = {"vae_decoder_head": HEAD, "vae_decoder_tail": TAIL} if real and self.is_cut else {}
        found = entries | {role: self._entry("vae_decoder", real, name) for role, name in parts.items()}
        more = {"unet_control": CONTROL} if self.options.with_control else {}
        if self.options.with_ip_adapter:
            denoisers = {"unet": "model.onnx", **more}
            more |= {f"{role}_ip": IMAGE[name] for role, name in denoisers.items()}
        return found | {role: self._entry("unet", real, name) for role, name in more.items() if real}

    def _entry(self, role: str, real: bool, graph: str = "model.onnx") -> GraphEntry:
        name = f"{role}/{graph}"
        names = (graph, "model.onnx.data", LAYER_TABLE)
        found = [self.graphs[role].with_name(n) for n in names] if real else []
        files = {f"{role}/{path.name}": file_entry(path) for path in found if path.exists()}
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
        if o.precision == "int8" and self.plan:
            how["calibration"] = {
                "method": o.int8.method,
                "pictures": self.plan.recording_pictures,
                "steps": self.plan.recording_steps,
                "seed": o.seed,
                "keep_float": list(o.int8.keep_float),
            }
            if o.ip_adapter:
                how["calibration"]["ip_adapter"] = o.ip_adapter.name
        return how

    def _evaluated(self, manifest: Manifest, plan: Plan) -> Manifest:
        """The manifest with its evaluation; the reference is this build's own float32 graphs."""
        prompts = list(self.options.evaluation_prompts)[: plan.drawing_pictures]
        recipe = replace(self._recipe(), steps=plan.drawing_steps)
        recorder = Recorder(self.stage / "evaluation", EVALUATION_RECORDS, hold_out=False)
        wanted = self._drawn("float", self.float_graphs, recipe, prompts, recorder)
        got = self._drawn("pack", self.graphs, recipe, prompts)
        self.progress.begin("measure")
        if self.options.sheet:
            ev.contact_sheet(wanted, got, self.options.sheet)
        records = {role: Records.of(self.stage / "evaluation", role) for role in self.roles}
        self.report = with_pictures(self.report, prompts, EVALUATION_SEED, wanted, got)
        self.report = with_costs(self.report, self.float_graphs, self.graphs, records)
        cost = ev.measure_cost(self.pack, prompts[0], timed_steps=plan.timed_steps)
        needs, memory = measure_needs(self.pack, prompts[0])
        result = {**self._result(wanted, got, cost, recipe), "memory": memory}
        found = {"evaluation": result, "min_ram_mb": math.ceil(cost.peak_mb), "ram_mb": needs}
        decoder, decoded = self.float_graphs["vae_decoder"], records["vae_decoder"]
        found["latent_rgb"] = fit_latent_rgb(decoder, decoded, manifest.latent_scale)
        return Manifest.model_validate(manifest.model_copy(update=found))

    def _drawn(
        self,
        which: str,
        graphs: dict[str, Path],
        recipe: Recipe,
        prompts: Sequence[str],
        recorder: Recorder | None = None,
    ) -> list[np.ndarray]:
        """The pictures by which pack and float are compared; what the float graphs gave is recorded."""
        file, records = self.stage / f"pictures-{which}.npy", self.stage / "evaluation"

        def make() -> None:
            runner = Runner({role: graphs[role] for role in self.source.roles}, recipe, observer=recorder)
            advance = counter(self.progress, len(prompts))
            np.save(file, np.array(ev.make_pictures(runner, prompts, EVALUATION_SEED, advance)))
            gc.collect()

        self.work.step(
            f"draw {which}", [prompts, recipe.steps], [file, records] if recorder else [file], make
        )
        return list(np.load(file))

    def _result(
        self,
        wanted: Sequence[np.ndarray],
        got: Sequence[np.ndarray],
        cost: ev.Cost,
        recipe: Recipe,
    ) -> dict[str, Any]:
        graphs = {}
        for role in self.roles:
            records = Records.of(self.stage / "evaluation", role)
            drift = ev.graph_drift(self.graphs[role], records) if len(records) else None
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


def _second_tokenizer(source: Source) -> SecondTokenizer | None:
    if not source.is_sdxl:
        return None
    padding = second_padding(source.tokenizer, source.tokenizer_2, source.pad_token)
    return None if padding is None else SecondTokenizer(pad_token_id=padding)


def _versions() -> dict[str, str]:
    """Of all that decides what a graph becomes."""
    return {
        "edgegen": __version__,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }


def _converting(options: BuildOptions) -> dict[str, Any]:
    """Of the options, what converting depends on."""
    int8 = asdict(options.int8) if options.precision == "int8" else None
    return {"precision": options.precision, "int8": int8, "budget": options.budget_s}


def copy_stamped(graph: Path, out: Path) -> None:
    """A float32 graph into a pack, saying by which edgegen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out = out.absolute()
    with weights_read_from(graph) as model:
        stamp(model, __version__)
        save_graph(model, out)


def _cpu_count() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
