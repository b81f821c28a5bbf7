"""A checkpoint becomes a pack: export, calibrate, convert, evaluate; all or nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from edgegen import __version__
from edgegen.pack import IpLayer, Manifest, file_entry, write_manifest

from .aside import Aside
from .buildoptions import BuildOptions
from .calibrate import Records, record_runs
from .control import CONTROL, add_control
from .convert import Int8Report, convert_recorded
from .cut import cut_decoder
from .defaults import PackDefaults, read_defaults
from .described import Description
from .export import export
from .fp16 import convert_fp16
from .freeing import give_back
from .graphs import graph_bytes, layers, load_graph
from .imageprompt import IMAGE, add_image_prompt, strip_image_prompt, transformer_depths
from .judge import Judge
from .layertable import ADAPTABLE, write_layer_table
from .onnximport import import_graph
from .plan import Plan, make_plan
from .progress import Progress
from .report.make import attach, empty_report
from .rewrites import copy_stamped
from .runner import Recipe
from .shown import Shown, shown_by
from .source import Source, open_source
from .stages import counter, expected_stages
from .vocabulary import write_tokenizer
from .weightonly import WEIGHT_BITS, convert_weight_only
from .work import Work, source_digest, work_folder

ROOM_FOR_TWO = (
    "sd1",
    "lcm",
)  # families whose small graphs, made beside the denoiser, keep the build below 8 GB


def build_pack(
    folder: Path,
    out: Path,
    options: BuildOptions,
    progress: Progress | None = None,
    aside: Aside | None = None,
) -> Manifest:
    """Build a pack; nothing appears at `out` before all of it is done. Cut off, the same call goes on.

    Args:
        folder: the checkpoint, see `source.open_source`.
        out: the pack's folder, in a folder that exists.
        progress: told what happens; None: nobody is.
        aside: makes small graphs while the denoiser's are made; None: one comes after the other.
    Raises:
        SourceError: the checkpoint cannot be read. StorageError: `out` exists, or cannot be written.
    """
    source = open_source(folder, options.hints)
    given = _with_flags(read_defaults(folder), options)
    progress = progress or Progress("quiet")
    with work_folder(out, options.force, options.fresh) as work:
        work.told = progress.begin
        manifest = _Builder(source, given, options, work, progress, aside).build()
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
        self,
        source: Source,
        given: PackDefaults,
        options: BuildOptions,
        work: Work,
        progress: Progress,
        aside: Aside | None,
    ):
        self.aside = aside if source.family in ROOM_FOR_TWO else None
        self.source, self.given, self.options = source, given, options
        self.work, self.progress, self.say = work, progress, progress.say
        self.stage, self.pack = work.folder, work.folder / "pack"
        self.roles = (*source.roles, "vae_encoder") if options.with_encoder else source.roles
        self.in_turn = sorted(self.roles, key=lambda role: role != "unet")  # the longest work first
        self.float_graphs = {role: self.stage / "fp32" / role / "model.onnx" for role in self.roles}
        self.graphs = {role: self.pack / role / "model.onnx" for role in self.roles}
        self.calibrated = dict(self.float_graphs)
        self.shown: Shown = lambda _: ({}, {})
        self.reports: dict[str, dict[str, Any]] = {}
        self.export_errors: dict[str, float] = {}
        write_tokenizer(source.tokenizer, self.pack / "tokenizer.json", source.pad_token)
        self.description = Description(source, given, options, self.pack, self.roles)

    def build(self) -> Manifest:
        self.progress.expect(expected_stages(self.in_turn, self.options.precision, self.options.evaluate))
        self.progress.begin("read source")
        tokenizers = [path for path in (self.source.tokenizer, self.source.tokenizer_2) if path]
        paths = self.source.folder, *tokenizers
        with ThreadPoolExecutor(1) as beside:  # reading gigabytes leaves the cores to the export
            self._digest = beside.submit(lambda: [source_digest(path) for path in paths])
            self._make_floats()
        self._look_at_calibration()
        plan = self._make_plan()
        self._convert(plan)
        is_cut = cut_decoder(self.graphs["vae_decoder"])
        if self.options.with_control:
            add_control(self.graphs["unet"])
        ip_layers = self._look_at_pictures() if self.options.with_ip_adapter else None
        manifest = self.description.of_graphs(plan, is_cut, ip_layers)
        report = empty_report({r: self.export_errors[r] for r in self.roles if r in self.export_errors})
        if self.options.evaluate:
            write_manifest(self.pack, manifest)
            manifest, report = self._judge().judge(manifest, report, self._recipe(), plan, self.reports)
        manifest = attach(self.pack, manifest, report)
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

    def _make_floats(self) -> None:
        begun: dict[str, Callable[[], float]] = {}
        if self.source.layout != "onnx":
            begun = self._begin_beside("export", self.float_graphs, self._export)
        for role in self.in_turn:
            self._make_float(role, begun.get(role) or self._export(role))

    def _export(self, role: str) -> Callable[[], float]:
        graph, without = self.float_graphs[role], self.options.without_rules
        return functools.partial(export, self.source, role, graph, without)

    def _begin_beside(
        self, verb: str, graphs: Mapping[str, Path], work: Callable[[str], Callable[[], Any]]
    ) -> dict[str, Callable[[], Any]]:
        """Begin a step of all graphs but the denoiser's in the second process; role -> what waits for it."""
        if self.aside is None:
            return {}
        small = [role for role in self.in_turn if role != "unet"]
        left = [r for r in small if self.work.clear_ahead(f"{verb} {r}", [graphs[r].parent])]
        return {role: self.aside.begin(work(role)) for role in left}

    def _make_float(self, role: str, exported: Callable[[], float]) -> None:
        graph = self.float_graphs[role]

        def inputs() -> dict[str, Any]:
            return {
                "source": self._digest.result(),
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
            error = exported()
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
        begun: dict[str, Callable[[], Int8Report]] = {}
        if self.options.precision == "int8":
            self._record(plan)
            begun = self._begin_beside("quantize", self.graphs, lambda role: self._to_int8(role, plan))
        for role in self.in_turn:
            step = f"{'quantize' if self.options.precision == 'int8' else 'convert'} {role}"
            inputs = _converting(self.options)
            make = functools.partial(self._convert_one, role, begun.get(role) or self._to_int8(role, plan))
            self.reports[role] = self.work.step(step, inputs, [self.graphs[role].parent], make)

    def _convert_one(self, role: str, to_int8: Callable[[], Int8Report]) -> dict[str, Any]:
        """The report of a role's graph, which is then in the pack; empty when not INT8."""
        report: dict[str, Any] = {}
        if self.options.precision == "int8":
            report = self._convert_int8(role, to_int8)
        elif self.options.precision == "fp16":
            convert_fp16(self.float_graphs[role], self.graphs[role], __version__)
        elif self.options.precision in WEIGHT_BITS:
            bits = WEIGHT_BITS[self.options.precision]
            convert_weight_only(self.float_graphs[role], self.graphs[role], bits, __version__)
        else:
            copy_stamped(self.float_graphs[role], self.graphs[role], __version__)
        onnx.checker.check_model(str(self.graphs[role]))
        if role in ADAPTABLE and self.options.precision not in WEIGHT_BITS:
            write_layer_table(self.graphs[role])
        return report

    @property
    def _recorded(self) -> Path:
        return self.stage / "calibration"

    def _to_int8(self, role: str, plan: Plan) -> Callable[[], Int8Report]:
        graph, out = self.calibrated[role], self.graphs[role]
        judging = plan.probes, plan.crop, plan.rounds, plan.group
        given = graph, self._recorded, role, out, self.options.int8, __version__, judging
        return functools.partial(convert_recorded, *given)

    def _convert_int8(self, role: str, to_int8: Callable[[], Int8Report]) -> dict[str, Any]:
        report = to_int8()
        if self.calibrated[role] != self.float_graphs[role]:
            strip_image_prompt(self.graphs[role])
        kept = f", {len(report.float_layers)} layers kept float" if report.float_layers else ""
        missed = (
            "" if report.sqnr_db >= report.target_sqnr_db else f" (target {report.target_sqnr_db} missed)"
        )
        self.say(f"quantized {role}: {report.sqnr_db:.1f} dB{missed}{kept}")
        return {"calibration_records": len(Records.of(self._recorded, role)), **report.as_json()}

    def _record(self, plan: Plan) -> None:
        o, folder = self.options, self._recorded
        recipe = replace(self._recipe(), steps=plan.recording_steps)
        prompts = list(o.calibration_prompts)[: plan.recording_pictures]
        tokenizer = file_entry(recipe.tokenizer).sha256
        inputs = [prompts, o.seed, o.samples, {**asdict(recipe), "tokenizer": tokenizer}]
        inputs += [file_entry(o.ip_adapter).sha256] if o.ip_adapter else []

        def make() -> None:
            steps = 2 * recipe.steps * len(prompts)
            advance = counter(self.progress, steps if recipe.guidance != 1 else steps // 2)
            record_runs(self.calibrated, recipe, prompts, o.seed, folder, o.samples, advance, self.shown)
            give_back()

        self.work.step("record", inputs, [folder], make)

    def _recipe(self) -> Recipe:
        return Recipe.of_manifest(self.description.of_settings(), self.pack / "tokenizer.json")

    def _judge(self) -> Judge:
        drawing = self.source.roles  # the encoder is no part of it
        return Judge(
            self.float_graphs, self.graphs, drawing, self.pack, self.options, self.work, self.progress
        )


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
