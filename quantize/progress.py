"""How far a build is: one line that changes on a terminal, one line a stage elsewhere, JSON for machines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

Style = Literal["live", "lines", "json", "quiet"]
_CLEAR = "\r\x1b[K"


@dataclass
class Stage:
    """A part of the build.

    Attributes:
        share: its expected share of the work; only ratios count.
        done: how much of it is done, 0 to 1.
    """

    name: str
    share: float
    done: float = 0.0


class Progress:
    """Stages with the time they took and the time that is left, as far as that can be said.

    Args:
        style: `live`: one line that is written over; `lines`: one a stage; `json`: one object a line;
            `quiet`: nothing.
        clock: seconds that only grow.
    """

    def __init__(
        self, style: Style, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self._style, self._stream, self._clock = style, stream or sys.stderr, clock
        self._start, self._stage_start = clock(), clock()
        self._stage_start_cpu_s = cpu_s()
        self._stages: list[Stage] = []
        self._current: Stage | None = None
        self._reused = 0.0

    def expect(self, stages: Sequence[tuple[str, float]]) -> None:
        """Name what will come, in order, with expected shares of the work."""
        self._stages = [Stage(name, share) for name, share in stages]

    def begin(self, name: str, is_reused: bool = False) -> None:
        """The stage before is done; a reused one is done at once and tells nothing of speed."""
        self.finish()
        self._current = next((s for s in self._stages if s.name == name), None) or Stage(name, 0.0)
        self._stage_start, self._stage_start_cpu_s = self._clock(), cpu_s()
        forget_peak()
        if is_reused:
            self._current.done, self._reused = 1.0, self._reused + self._current.share
            self._tell("reused")
            self._current = None
        else:
            self._tell("begun")

    def advance(self, done: float) -> None:
        """So much of the stage is done, 0 to 1."""
        if self._current:
            self._current.done = done
            self._tell("working")

    def finish(self) -> None:
        """The stage is done."""
        if self._current:
            self._current.done = 1.0
            self._tell("done")
            self._current = None

    def say(self, text: str) -> None:
        """A line for people, above the changing one."""
        if self._style == "json":
            self._json({"event": "note", "text": text})
        elif self._style != "quiet":
            self._stream.write(f"{_CLEAR if self._style == 'live' else ''}{text}\n")
            self._stream.flush()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def fraction(self) -> float:
        """Of all expected work, 0 to 1."""
        total = sum(stage.share for stage in self._stages)
        return sum(stage.share * stage.done for stage in self._stages) / total if total else 0.0

    @property
    def remaining_s(self) -> float | None:
        """At the speed so far; None before anything is done."""
        done = sum(stage.share * stage.done for stage in self._stages) - self._reused
        left = sum(stage.share * (1 - stage.done) for stage in self._stages)
        return self.elapsed_s * left / done if done > 0 else None

    def _tell(self, state: str) -> None:
        if self._style == "json":
            self._json(self._event(state))
        elif self._style == "live":
            self._stream.write(_CLEAR + ("" if state == "done" else self._line()))
            self._stream.flush()
        elif self._style == "lines" and state in ("done", "reused"):
            self._stream.write(f"{self._line()}{', from before' if state == 'reused' else ''}\n")
            self._stream.flush()

    def _event(self, state: str) -> dict[str, object]:
        left = self.remaining_s
        return {
            "event": "stage",
            "stage": self._current.name if self._current else None,
            "state": state,
            "stage_s": round(self._clock() - self._stage_start, 1),
            "stage_cpu_s": round(cpu_s() - self._stage_start_cpu_s, 1),
            "elapsed_s": round(self.elapsed_s, 1),
            "fraction": round(self.fraction, 4),
            "remaining_s": None if left is None else round(left, 1),
            "peak_mb": peak_mb(),
        }

    def _json(self, event: dict[str, object]) -> None:
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def _line(self) -> str:
        left = self.remaining_s
        rest = f", about {minutes(left)} left" if left is not None and self.fraction < 1 else ""
        name = self._current.name if self._current else ""
        return f"{self.fraction:4.0%}  {name}  {minutes(self.elapsed_s)} gone{rest}"


def cpu_s() -> float:
    """CPU seconds of this process and of those it started: what a busy PC does not stretch."""
    return sum(os.times()[:4]) + sum(_cpu_s_of(pid) for pid in _children())


def _children() -> list[int]:
    """Processes started by this one that run; none where nobody says (proc(5): task/[tid]/children)."""
    found = []
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text("ascii").split()]
    return found


def _cpu_s_of(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def forget_peak() -> None:
    """Let the kernel count peak memory anew, where it can (Linux, proc(5): clear_refs)."""
    for pid in ("self", *_children()):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb() -> int | None:
    """Most resident memory since then, file pages included, in MB of 10^6 bytes; None where nobody counts.

    Of this process and those it started that run, as if all had been at their peak at once.
    """
    own = _peak_mb_of("self")
    return None if own is None else round(own + sum(_peak_mb_of(str(pid)) or 0.0 for pid in _children()))


def _peak_mb_of(pid: str) -> float | None:
    with contextlib.suppress(OSError):
        for row in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if row.startswith("VmHWM:"):
                return int(row.split()[1]) * 1024 / 1e6
    return None


def minutes(seconds: float) -> str:
    """`3:05`."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
