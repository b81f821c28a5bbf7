"""From a job's request to steps and a picture: the jobs' view of the engine's pipeline.

Imports numpy and Pillow, so only the engine's process imports this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..engine.compiled import cache_in
from ..engine.metadata import save_picture
from ..engine.pipeline import Picture, TextToImage, resolve_settings
from ..engine.providers import choose_provider
from ..pack import Pack, find_pack
from ..settings import EngineSettings, LimitSettings
from .job import JobRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """`step` of `steps` is done; 0 comes before any work."""

    step: int
    steps: int


@dataclass(frozen=True)
class Drawing:
    """A picture that waits to be saved at a path, and the seed it came from."""

    save: Callable[[Path], object]
    seed: int


class Renderer(Protocol):
    """What the worker needs of an engine."""

    def draw(self, request: JobRequest) -> Generator[Step | Drawing, None, None]:
        """Every step, and at the end the drawing; may be closed at any step. Raises EdgegenError."""

    def unload(self) -> None:
        """Free what can be loaded again."""


class PipelineRenderer:
    """Keeps the pipeline of the pack that was used last.

    Args:
        folders: where packs are looked for, in order.
        limits: bounds of what a job may ask for; the front may have checked with others.
        compiled: folder for graphs as a provider compiled them; None: none are kept.
    """

    def __init__(
        self,
        settings: EngineSettings,
        folders: tuple[Path, ...],
        limits: LimitSettings,
        compiled: Path | None = None,
    ):
        self._settings = settings
        self._compiled = cache_in(compiled, settings.compiled_mb)
        self._folders = folders
        self._limits = limits
        self._pipeline: TextToImage | None = None

    def draw(self, request: JobRequest) -> Generator[Step | Drawing, None, None]:
        pack = self._find_pack(request)
        settings = resolve_settings(pack, request, self._limits)
        for part in self._pipeline_of(pack).generate(settings):
            if isinstance(part, Picture):
                yield _drawing(part)
            else:
                yield Step(part.step, part.steps)

    def unload(self) -> None:
        if self._pipeline is not None:
            log.info("pack %s is unloaded", self._pipeline.pack.name)
            self._pipeline.close()
        self._pipeline = None

    def _find_pack(self, request: JobRequest) -> Pack:
        """A job names an installed pack; only the configuration may name a folder."""
        if request.pack:
            return find_pack(request.pack, self._folders, allow_path=False)
        return find_pack(self._settings.pack, self._folders)

    def _pipeline_of(self, pack: Pack) -> TextToImage:
        """The loaded pipeline when it is of this very pack, else a new one in its place."""
        if self._pipeline is None or self._pipeline.pack != pack:
            self.unload()  # first, for two may not fit
            wanted = self._settings
            provider = choose_provider(wanted.provider, compiled=self._compiled)
            self._pipeline = TextToImage(pack, provider, wanted.threads, memory=wanted.memory)
            choice, memory = self._pipeline.provider, self._pipeline.memory
            log.info("pack %s runs on provider %s: %s", pack.name, choice.name, choice.reason)
            log.info("pack %s runs in memory mode %s: %s", pack.name, memory.mode.name, memory.reason)
        return self._pipeline


def _drawing(picture: Picture) -> Drawing:
    return Drawing(lambda path: save_picture(picture, path), picture.settings.seed)
