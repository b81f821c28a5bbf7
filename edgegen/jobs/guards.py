"""A hot machine, or one short of memory, rests between two steps; the job goes on where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..settings import GuardSettings
from .thermal import SYS, cpu_temperature
from .throttling import read_throttling

log = logging.getLogger(__name__)

PROC = Path("/proc")
LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Health:
    """What the machine says of itself; None where it does not tell.

    Attributes:
        celsius: the hottest CPU zone.
        free_mb: memory in MiB that may be had without swapping.
        throttled: why the board slows itself down now, in words; empty when it does not.
    """

    celsius: float | None
    free_mb: int | None
    throttled: tuple[str, ...] = ()


def read_health(proc: Path = PROC, sys: Path = SYS) -> Health:
    """A few small files of the kernel; never raises."""
    throttling = read_throttling(sys)
    return Health(cpu_temperature(sys), available_mb(proc), throttling.now if throttling else ())


def available_mb(proc: Path = PROC) -> int | None:
    """MemAvailable of /proc/meminfo in MiB; None where it is not told."""
    try:
        for line in (proc / "meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def why_pause(health: Health, settings: GuardSettings, is_paused: bool) -> str | None:
    """Why no step should begin now, for people; None: go on.

    Hysteresis: a pause that heat began ends only `cool_by_c` below `hot_c`.
    """
    bound = settings.hot_c - (settings.cool_by_c if is_paused else 0)
    if settings.hot_c and health.celsius is not None and health.celsius >= bound:
        resume = settings.hot_c - settings.cool_by_c
        return f"paused: the CPU has {health.celsius:.0f} °C; goes on below {resume:.0f} °C"
    if settings.min_free_mb and health.free_mb is not None and health.free_mb < settings.min_free_mb:
        return f"paused: {health.free_mb} MiB of memory are free; goes on with {settings.min_free_mb}"
    return None


def why_rest(health: Health, settings: GuardSettings) -> str | None:
    """Why the next step should wait as long as the work before took; None: go on."""
    if not (settings.ease_throttled and health.throttled):
        return None
    return f"eased: the board reports {', '.join(health.throttled)}"


class Guard:
    """Holds the engine between two steps.

    Args:
        wait: sleeps for so many seconds, or until somebody wakes the engine.
    """

    def __init__(
        self,
        settings: GuardSettings,
        wait: Callable[[float], object],
        read: Callable[[], Health] = read_health,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._settings = settings
        self._wait = wait
        self._read = read
        self._monotonic = monotonic
        self._looked_at: float | None = None
        self._gave_up = False
        self._told_rest = ""

    def hold(self, tell: Callable[[str], object], must_end: Callable[[], bool]) -> None:
        """Returns when the next step may begin: at once on a machine that is well.

        Args:
            tell: gets the reason at every look, which is also a sign of life.
            must_end: whether the pause is over for another reason (a stop, a cancel).
        """
        now = began = self._monotonic()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
            return  # steps may take milliseconds
        worked_s = now - self._looked_at if self._looked_at is not None else 0.0
        is_paused = self._gave_up
        while reason := why_pause(self._read(), self._settings, is_paused):
            if self._gave_up or must_end():
                break
            now = self._monotonic()
            left_s = began + self._settings.max_pause_s - now
            if left_s <= 0:
                log.warning("guards.max_pause_s is over, the job goes on although it is %s", reason)
                self._gave_up = True  # until the machine was well once: or every step would wait so long
                break
            if not is_paused:
                log.warning("the job is %s", reason)
            is_paused = True
            tell(reason)
            self._wait(min(LOOK_EVERY_S, left_s))
        else:
            self._gave_up = False
            if not is_paused:
                self._rest(min(worked_s, self._settings.max_pause_s), tell, must_end)
        self._looked_at = self._monotonic()

    def _rest(self, rest_s: float, tell: Callable[[str], object], must_end: Callable[[], bool]) -> None:
        """A throttled board works half of the time, until it is well."""
        until = self._monotonic() + rest_s
        while (left_s := until - self._monotonic()) > 0 and not must_end():
            reason = why_rest(self._read(), self._settings)
            if reason is None:
                break
            if reason != self._told_rest:
                log.warning("the job is %s", reason)
            self._told_rest = reason
            tell(reason)
            self._wait(min(LOOK_EVERY_S, left_s))
        else:
            return
        self._told_rest = ""
