"""What may be asked of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgegen.pack import Precision

from .convert import Int8Options
from .original import Hints
from .source import NO_HINTS


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
