"""From a job's request to steps and a picture: the jobs' view of the engine's pipeline.

Imports numpy and Pillow, so only the engine's process imports this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..diffusion.sampler import SamplerState
from ..engine.checkpoint import Arrays, freeze, run_label, state_arrays, state_from, thaw
from ..engine.compiled import cache_in
from ..engine.graphtimes import Pace
from ..engine.lora.files import uses_of
from ..engine.metadata import save_picture
from ..engine.pipeline import GenerationSettings, Picture, TextToImage, resolve_settings
from ..engine.preview import encode_preview
from ..engine.providers import choose_provider
from ..engine.request import random_seed
from ..pack import Pack, PackFinder
from ..settings import EngineSettings, LimitSettings
from .job import JobRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """`step` of `steps` is done; 0, or the step at which a job goes on, comes before any work.

    Attributes:
        checkpoint: makes the bytes to go on from; None before any work.
        preview: makes a small JPEG of how it looks now, or None where that cannot be told.
    """

    step: int
    steps: int
    checkpoint: Callable[[], bytes] | None = None
    preview: Callable[[], bytes | None] | None = None


@dataclass(frozen=True)
class Drawing:
    """A picture that waits to be saved at a path, and the seed it came from (None: not a single one).

    Attributes:
        others: pictures of the same job to be kept before it.
        pace: how fast the graphs were, for estimates.
    """

    save: Callable[[Path], object]
    seed: int | None
    others: tuple[Callable[[Path], object], ...] = ()
    pace: Pace = field(default_factory=dict)


class Renderer(Protocol):
    """What the worker needs of an engine."""

    def draw(self, request: JobRequest, saved: bytes | None = None) -> Generator[Step | Drawing, None, None]:
        """Every step, and at the end the drawing; may be closed at any step.

        Args:
            saved: a checkpoint of an earlier attempt; one that does not fit is not heeded.
        Raises:
            EdgegenError
        """

    def unload(self) -> None:
        """Free what can be loaded again."""


class PipelineRenderer:
    """Keeps the pipeline of the pack that was used last.

    Args:
        folders: where packs are looked for, in order.
        limits: bounds of what a job may ask for; the front may have checked with others.
        compiled: folder for graphs as a provider compiled them; None: none are kept.
        loras: folder of LoRA files; None: there are none.
        embeddings: folder of textual inversions; None: there are none.
    """

    def __init__(
        self,
        settings: EngineSettings,
        folders: tuple[Path, ...],
        limits: LimitSettings,
        compiled: Path | None = None,
        loras: Path | None = None,
        embeddings: Path | None = None,
    ):
        self._settings = settings
        self._compiled = cache_in(compiled, settings.compiled_mb)
        self._packs = PackFinder(folders)
        self._limits = limits
        self._loras = loras or Path("loras")
        self._embeddings = embeddings
        self._pipeline: TextToImage | None = None

    def draw(self, request: JobRequest, saved: bytes | None = None) -> Generator[Step | Drawing, None, None]:
        pack = self._find_pack(request)
        facts, arrays = thawed(saved, request.id)
        settings = resolve_settings(pack, request, self._limits, lambda: _seed_of(facts))
        settings = replace(settings, loras=uses_of(self._loras, request.loras or ()))
        pipeline = self._pipeline_of(pack)
        label = _label(request.id, settings, pipeline)
        resume = _state_for(label, facts, arrays, request.id)
        for part in pipeline.generate(settings, resume):
            if isinstance(part, Picture):
                yield replace(_drawing(part), pace=pipeline.stages.pace())
            else:
                look = partial(encode_preview, part.denoised, pack.manifest)
                yield Step(part.step, part.steps, _checkpoint(part.state, label, settings.seed), look)

    def unload(self) -> None:
        if self._pipeline is not None:
            log.info("pack %s is unloaded", self._pipeline.pack.name)
            self._pipeline.close()
        self._pipeline = None

    def _find_pack(self, request: JobRequest) -> Pack:
        """A job names an installed pack; only the configuration may name a folder."""
        if request.pack:
            return self._packs.find(request.pack, allow_path=False)
        return self._packs.find(self._settings.pack)

    def _pipeline_of(self, pack: Pack) -> TextToImage:
        """The loaded pipeline when it is of this very pack, else a new one in its place."""
        if self._pipeline is None or self._pipeline.pack != pack:
            self.unload()  # first, for two may not fit
            wanted = self._settings
            provider = choose_provider(wanted.provider, compiled=self._compiled, operators=wanted.operators)
            memory, embeddings = wanted.memory, self._embeddings
            self._pipeline = TextToImage(pack, provider, wanted.threads, False, memory, embeddings)
            choice, mode = self._pipeline.provider, self._pipeline.memory
            log.info("pack %s runs on provider %s: %s", pack.name, choice.name, choice.reason)
            log.info("pack %s runs in memory mode %s: %s", pack.name, mode.mode.name, mode.reason)
        return self._pipeline


def _drawing(picture: Picture) -> Drawing:
    return Drawing(lambda path: save_picture(picture, path), picture.settings.seed)


def _label(job_id: str, settings: GenerationSettings, pipeline: TextToImage) -> str:
    """What the picture depends on. The manifest holds the SHA-256 of every file of the pack."""
    manifest = pipeline.pack.manifest.model_dump(mode="json")
    told = {**asdict(settings), "loras": [repr(use) for use in settings.loras]}
    return run_label(job_id, told, manifest, pipeline.provider.name)


def _checkpoint(state: SamplerState | None, label: str, seed: int) -> Callable[[], bytes] | None:
    if state is None:
        return None
    return lambda: freeze({"label": label, "seed": seed}, state_arrays(state))


def thawed(saved: bytes | None, job_id: str) -> tuple[dict[str, Any], Arrays]:
    """A checkpoint's facts and arrays; nothing when there is none, or a broken one."""
    try:
        return thaw(saved) if saved is not None else ({}, {})
    except ValueError as err:
        log.warning("job %s starts anew: its checkpoint %s", job_id, err)
        return {}, {}


def _seed_of(facts: dict[str, Any]) -> int:
    """The seed that was drawn for the earlier attempt, else a new one."""
    seed = facts.get("seed")
    return seed if type(seed) is int else random_seed()


def _state_for(label: str, facts: dict[str, Any], arrays: Arrays, job_id: str) -> SamplerState | None:
    """Where to go on; None without a checkpoint of this very run."""
    if not facts:
        return None
    try:
        if facts.get("label") != label:
            raise ValueError("is of another pack, provider, version or request")
        state = state_from(arrays)
    except ValueError as err:
        log.warning("job %s starts anew: its checkpoint %s", job_id, err)
        return None
    log.info("job %s goes on at step %d", job_id, state.index)
    return state
