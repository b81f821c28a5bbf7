"""A progress bar on stderr for one picture; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .output import is_terminal, terminal_width

BAR_WIDTH = 24
CLEAR = "\r\x1b[K"


class StepBar:
    """Draws on stderr if that is a terminal, and wipes itself out at the end.

    Args:
        label: in front of the bar. now: a clock in seconds that never goes back.
    """

    def __init__(self, label: str, now: Callable[[], float]):
        self._label = label
        self._now = now
        self._began = now()
        self._visible = is_terminal(sys.stderr)

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._visible:
            write(CLEAR)

    def show(self, step: int, steps: int) -> None:
        """`step` of `steps` is done."""
        if self._visible:
            line = bar_line(self._label, step, steps, self._now() - self._began)
            write(CLEAR + line[: terminal_width() - 1])


def write(text: str) -> None:
    """Straight to the terminal: with NO_COLOR click would strip the sequence that wipes the line, too."""
    sys.stderr.write(text)
    sys.stderr.flush()


def bar_line(label: str, step: int, steps: int, seconds: float) -> str:
    """`2 of 4  ━━━━━━──────  step 3 of 6, 1.2 s, 1 s left`."""
    filled = BAR_WIDTH * step // steps if steps else 0
    left = f", {seconds / step * (steps - step):.0f} s left" if 0 < step < steps else ""
    head = f"{label}  " if label else ""
    bar = "━" * filled + "─" * (BAR_WIDTH - filled)
    return f"{head}{bar}  step {step} of {steps}, {seconds:.1f} s{left}"
