"""A pack against the float32 graphs of its own build: pictures, graphs, memory, time."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.pack import Manifest

from . import evaluate as ev
from .buildoptions import BuildOptions
from .calibrate import Recorder, Records
from .freeing import give_back
from .plan import Plan
from .preview import fit_latent_rgb
from .progress import Progress
from .ram import measure_needs
from .report.cost import Measured, measure_costs
from .report.data import Report
from .report.make import with_costs, with_pictures
from .runner import Recipe, Runner
from .stages import counter
from .work import Work

EVALUATION_RECORDS = 16
EVALUATION_SEED = 900_000  # far from the calibration's


@dataclass(frozen=True)
class Judge:
    """Compares what a build made.

    Attributes:
        drawing: the roles that pictures need, of those in `float_graphs` and `graphs`.
        pack: the folder with `graphs`, its manifest written.
    """

    float_graphs: Mapping[str, Path]
    graphs: Mapping[str, Path]
    drawing: Sequence[str]
    pack: Path
    options: BuildOptions
    work: Work
    progress: Progress

    def judge(
        self,
        manifest: Manifest,
        report: Report,
        recipe: Recipe,
        plan: Plan,
        conversions: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Manifest, Report]:
        """The manifest with its evaluation and needs, the report with pictures and costs.

        Args:
            recipe: the pack's own; `plan` says how many of its steps are drawn.
            conversions: what is known of each role's graph since it was converted.
        """
        prompts = list(self.options.evaluation_prompts)[: plan.drawing_pictures]
        recipe = replace(recipe, steps=plan.drawing_steps)
        recorder = Recorder(self._recorded, EVALUATION_RECORDS, hold_out=False)
        wanted = self._drawn_by_float(recipe, prompts, recorder)
        got, cost = self._drawn_by_pack(recipe, prompts)
        self.progress.begin("measure")
        if self.options.sheet:
            ev.contact_sheet(wanted, got, self.options.sheet)
        records = {role: Records.of(self._recorded, role) for role in self.graphs}
        report = with_pictures(report, prompts, EVALUATION_SEED, wanted, got)
        measured = measure_costs(self.float_graphs, self.graphs, records)
        report = with_costs(report, measured)
        needs, memory = measure_needs(self.pack, prompts[0])
        evaluation = {
            "reference": "fp32 graphs of the same checkpoint, ONNX Runtime CPU",
            "settings": settings_of(recipe),
            "graphs": {r: self._graph(r, measured.get(r), conversions.get(r, {})) for r in self.graphs},
            "pictures": ev.as_json(ev.picture_drift(wanted, got)),
            "cost": {**ev.as_json(cost), "machine": f"{platform.machine()}, {cpu_count()} CPUs"},
            "memory": memory,
        }
        found = {"evaluation": evaluation, "min_ram_mb": math.ceil(cost.peak_mb), "ram_mb": needs}
        decoder, decoded = self.float_graphs["vae_decoder"], records["vae_decoder"]
        found["latent_rgb"] = fit_latent_rgb(decoder, decoded, manifest.latent_scale)
        return Manifest.model_validate(manifest.model_copy(update=found)), report

    @property
    def _recorded(self) -> Path:
        return self.work.folder / "evaluation"

    def _drawn_by_float(self, recipe: Recipe, prompts: Sequence[str], recorder: Recorder) -> list[np.ndarray]:
        """The pictures that the pack's are compared with; what the graphs gave is recorded."""
        file = self.work.folder / "pictures-float.npy"

        def make() -> None:
            graphs = {role: self.float_graphs[role] for role in self.drawing}
            runner, advance = Runner(graphs, recipe, observer=recorder), counter(self.progress, len(prompts))
            np.save(file, np.array(ev.make_pictures(runner, prompts, EVALUATION_SEED, advance)))
            del runner
            give_back()

        self.work.step("draw float", [prompts, recipe.steps], [file, self._recorded], make)
        return list(np.load(file))

    def _drawn_by_pack(self, recipe: Recipe, prompts: Sequence[str]) -> tuple[list[np.ndarray], ev.Cost]:
        """The pack's pictures, and what one costs: both come of the same process."""
        file = self.work.folder / "pictures-pack.npy"

        def make() -> dict[str, Any]:
            advance = counter(self.progress, len(prompts))
            pictures, cost = ev.draw_with(self.pack, prompts, EVALUATION_SEED, recipe.steps, advance=advance)
            np.save(file, np.array(pictures))
            return ev.as_json(cost)

        cost = self.work.step("draw pack", [prompts, recipe.steps], [file], make)
        return list(np.load(file)), ev.Cost(**cost)

    def _graph(self, role: str, measured: Measured | None, conversion: Mapping[str, Any]) -> dict[str, Any]:
        """Its size, how far it is from float, and what is known of its conversion."""
        drift = measured.drift.as_json() if measured else {}
        size = sum(path.stat().st_size for path in self.graphs[role].parent.iterdir())
        return {"bytes": size, **drift, **conversion}


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """How the pictures were made that were compared."""
    return {
        "seed": EVALUATION_SEED,
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "guidance": recipe.guidance,
        "width": recipe.width,
        "height": recipe.height,
    }


def cpu_count() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
