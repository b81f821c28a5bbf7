"""From a job's request to steps and a picture: the jobs' view of the engine's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..settings import EngineSettings
from .job import JobRequest


@dataclass(frozen=True)
class Step:
    """`step` of `steps` is done; 0 comes before the first."""

    step: int
    steps: int


@dataclass(frozen=True)
class Drawing:
    """A picture that waits to be saved, and the seed it came from."""

    save: Callable[[Path], object]
    seed: int


class Renderer(Protocol):
    """What the worker needs of an engine."""

    def draw(self, request: JobRequest) -> Iterator[Step | Drawing]:
        """Every step, and at the end the drawing. Raises EdgegenError."""

    def unload(self) -> None:
        """Free what can be loaded again."""


class PipelineRenderer:
    def __init__(self, settings: EngineSettings, folders: tuple[Path, ...]):
        self._settings = settings
        self._folders = folders

    def draw(self, request: JobRequest) -> Iterator[Step | Drawing]:
        raise RuntimeError(request)
        yield

    def unload(self) -> None:
        pass
