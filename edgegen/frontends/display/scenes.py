"""What a screen may show. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """Nothing to draw and nothing to show. `note`: a small line, why, where that is not plain."""

    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A picture is being made.

    Attributes:
        prompt: its words. step, steps: 0 <= step <= steps; steps 0: not known yet.
        eta_s: seconds that are left, where there is ground for a guess. note: why it pauses.
        preview: a JPEG of how it looks; empty without one.
    """

    prompt: str
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    note: str = ""
    preview: bytes = b""


@dataclass(frozen=True)
class Showing:
    """A picture of the gallery, by its file name there, and its words."""

    picture: str
    prompt: str


@dataclass(frozen=True)
class Failed:
    """A picture came to nothing; `reason` is for people."""

    prompt: str
    reason: str


@dataclass(frozen=True)
class SafeMode:
    """The device takes no jobs; `problems` are what is wrong with its configuration."""

    problems: tuple[str, ...]


@dataclass(frozen=True)
class Dark:
    """Nobody has asked for anything for a long time."""


Scene = Waiting | Drawing | Showing | Failed | SafeMode | Dark
