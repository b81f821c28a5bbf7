"""Workflow jobs, as steps and a picture; and the renderer that takes jobs of both kinds.

Imports numpy and Pillow, so only the engine's process imports this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..config.files import compiled_dir, embedding_dir, input_dir, lora_dir, pack_dirs
from ..diffusion.sampler import SamplerState
from ..engine.checkpoint import Arrays, freeze, run_label, state_arrays, state_from
from ..engine.executor import Executor, NodePictures
from ..engine.metadata import save_workflow_picture
from ..engine.nodes import check_for, packs_of
from ..engine.preview import encode_preview
from ..engine.workbench import Workbench
from ..errors import EngineError
from ..settings import Settings
from ..workflow import CheckedWorkflow, parse_workflow
from .job import MAX_SEED, JobRequest
from .renderer import Drawing, PipelineRenderer, Renderer, Step, log, thawed

CACHE_BYTES = 64 << 20
SEEDS = ("seed", "noise_seed")

States = dict[str, SamplerState]


def open_bench(settings: Settings, provider: str | None = None, threads: int | None = None) -> Workbench:
    """The packs, mapping and folders of the configuration."""
    engine = settings.engine
    return Workbench(
        pack_dirs(settings),
        dict(entry.rsplit("=", 1) for entry in settings.workflow.checkpoints),
        input_dir(settings),
        settings.limits,
        provider or engine.provider,
        engine.threads if threads is None else threads,
        engine.memory,
        lora_dir(settings),
        embedding_dir(settings),
        engine.operators,
    )


class WorkflowRenderer:
    """Keeps the graphs of the packs that were used last, and results of nodes that did not change since."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._bench: Workbench | None = None
        self._executor: Executor | None = None

    def draw(self, request: JobRequest, saved: bytes | None = None) -> Generator[Step | Drawing, None, None]:
        """As `Renderer`; of several pictures the last one that is to be saved is the job's."""
        assert request.workflow is not None
        began = time.monotonic()
        bench, executor = self._ready()
        checked = check_for(bench, parse_workflow(request.workflow))
        packs = sorted({pack.name for pack in packs_of(bench, checked).values()})
        bench.close(keep=packs)
        label = run_label(request.id, bench.provider_name())
        states = _states(label, *thawed(saved, request.id), request.id)
        shown: list[NodePictures] = []
        with closing(executor.run(checked, states)) as work:
            for item in work:
                if isinstance(item, NodePictures):
                    shown.append(item)
                    continue
                if item.state is not None:
                    states[item.key] = item.state
                keep = partial(_checkpoint, label, dict(states)) if states else None
                look = partial(encode_preview, item.denoised, item.manifest) if item.manifest else None
                yield Step(item.all_done, item.all_steps, keep, look)
        told: dict[str, Any] = {"packs": packs, "provider": bench.provider_name(), "title": request.title}
        told |= {"seed": _seed_of(checked), "seconds": round(time.monotonic() - began, 3)}
        yield replace(_drawing(shown, checked, told), pace=bench.pace())

    def unload(self) -> None:
        if self._executor is not None:
            self._executor.close()
        if self._bench is not None:
            self._bench.close()
        self._executor = self._bench = None

    def _ready(self) -> tuple[Workbench, Executor]:
        if self._bench is None or self._executor is None:
            self._bench = open_bench(self._settings)
            self._executor = Executor(self._bench, CACHE_BYTES)
        else:
            self._bench.look_again()
        return self._bench, self._executor


class JobRenderer:
    """Draws prompts and workflows; only one of the two holds graphs at a time, for both may not fit."""

    def __init__(self, settings: Settings):
        self._prompts = PipelineRenderer(
            settings.engine,
            pack_dirs(settings),
            settings.limits,
            compiled_dir(settings.node),
            lora_dir(settings),
            embedding_dir(settings),
        )
        self._workflows = WorkflowRenderer(settings)

    def draw(self, request: JobRequest, saved: bytes | None = None) -> Generator[Step | Drawing, None, None]:
        """As `Renderer`."""
        renderers: tuple[Renderer, Renderer] = self._prompts, self._workflows
        fit, other = renderers[::-1] if request.workflow else renderers
        other.unload()
        return fit.draw(request, saved)

    def unload(self) -> None:
        self._prompts.unload()
        self._workflows.unload()


def _drawing(shown: list[NodePictures], checked: CheckedWorkflow, told: Mapping[str, Any]) -> Drawing:
    """All pictures that are to be saved; the previews where none is."""
    kept = [item for item in shown if item.shown.prefix is not None] or shown
    saves: list[Callable[[Path], object]] = [
        partial(_save, pixels, checked, {**told, "node": item.node_id})
        for item in kept
        for pixels in item.shown.pixels
    ]
    if not saves:
        raise EngineError("the workflow ended without a picture")
    return Drawing(saves[-1], told["seed"], tuple(saves[:-1]))


def _save(pixels: np.ndarray, checked: CheckedWorkflow, told: Mapping[str, Any], path: Path) -> None:
    save_workflow_picture(pixels, checked.written, told, path)


def _seed_of(checked: CheckedWorkflow) -> int | None:
    """The seed of the last sampler that has one, if it fits into the queue's column."""
    seeds = [node.inputs[name] for node in checked.nodes.values() for name in SEEDS if name in node.inputs]
    return seeds[-1] if seeds and isinstance(seeds[-1], int) and seeds[-1] <= MAX_SEED else None


def _checkpoint(label: str, states: States) -> bytes:
    arrays = {
        f"{number}_{name}": array
        for number, state in enumerate(states.values())
        for name, array in state_arrays(state).items()
    }
    return freeze({"label": label, "keys": list(states)}, arrays)


def _states(label: str, facts: Mapping[str, Any], arrays: Arrays, job_id: str) -> States:
    """By node's key, where the samplers were; keys hold all that a result depends on."""
    if not facts:
        return {}
    try:
        if facts.get("label") != label:
            raise ValueError("is of another provider, version or request")
        states = {key: state_from(_part(arrays, number)) for number, key in enumerate(facts["keys"])}
    except (ValueError, KeyError, TypeError) as err:
        log.warning("job %s starts anew: its checkpoint %s", job_id, err)
        return {}
    log.info("job %s goes on at step %d", job_id, sum(state.index for state in states.values()))
    return states


def _part(arrays: Arrays, number: int) -> Arrays:
    prefix = f"{number}_"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
