"""What the screen shows when: from what the front tells and what time it is. Pure: time arrives as `now`."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass, replace
from typing import Any

from ...jobs.gallery import job_id_of
from ...jobs.wire import Message
from ...settings import DisplaySettings
from .scenes import Dark, Drawing, Failed, SafeMode, Scene, Showing, Waiting

QUICK_S = 0.7  # a job that is done sooner never hides the picture before
AWAY_S = 20.0  # a front that restarts is back by then
STARTING, AWAY = "Starting", "The service is not running"
FAULT = "Something went wrong. What it was is in the log of the device."


@dataclass(frozen=True)
class Running:
    """The job at hand, and since when we know of it."""

    job_id: str
    since: float
    drawing: Drawing


class Plot:
    """Hears messages, says what to show and when to ask again.

    Args:
        now: seconds of a clock that never goes back; also of every `now` below.
    """

    def __init__(self, settings: DisplaySettings, now: float):
        self.settings = settings
        self._running: Running | None = None
        self._picture: tuple[Showing, float] | None = None
        self._failed: tuple[Failed, float] | None = None
        self._problems: tuple[str, ...] = ()
        self._away_since: float | None = now
        self._was_there = False
        self._busy_at = now

    def hear(self, message: Message, now: float) -> None:
        """One message of the feed; what it does not understand is passed over."""
        match message:
            case {"type": "snapshot"}:
                self._begin(message, now)
            case {"type": "away"} if self._away_since is None:
                self._away_since = now
                self._running = None
            case {"type": "event", "kind": str(kind), "job": {"id": str(job_id)} as job}:
                self._busy_at = now
                self._hear_job(kind, job_id, job, message, now)
            case {"type": "preview", "id": str(job_id), "jpeg": str(text)}:
                self._hear_preview(job_id, text)

    def _begin(self, message: Message, now: float) -> None:
        """What the front says when we have found it: the state of things, before any event.

        A job may have ended before we had found a front that restarted: nobody tells of it again, so its
        picture is taken from here.
        """
        self._away_since, self._was_there = None, True
        self._problems = tuple(map(str, message.get("problems") or ()))
        self._running = None
        if job := message.get("running"):
            self._start(str(job["id"]), job, now)
        if (job := message.get("newest")) and not self._is_shown(job):
            self._busy_at = now
            self._show(job, now)

    def _hear_job(self, kind: str, job_id: str, job: Message, event: Message, now: float) -> None:
        is_ours = self._running is not None and self._running.job_id == job_id
        if kind == "running":
            self._step(job_id, job, event, now)
        elif is_ours:
            self._running = None
        if kind == "done":
            self._show(job, now)
        elif kind == "failed":
            self._failed = Failed(_title(job), said(job)), now

    def _step(self, job_id: str, job: Message, event: Message, now: float) -> None:
        if self._running is None or self._running.job_id != job_id:
            self._start(job_id, job, now)
        assert self._running is not None
        step, steps, eta_s = event.get("step"), event.get("steps"), event.get("eta_s")
        drawing = replace(
            self._running.drawing,
            step=step if isinstance(step, int) else 0,
            steps=steps if isinstance(steps, int) else 0,
            eta_s=eta_s if isinstance(eta_s, int | float) else None,
            note=str(event.get("note") or ""),
        )
        self._running = replace(self._running, drawing=drawing)

    def _start(self, job_id: str, job: Message, now: float) -> None:
        self._busy_at = now
        self._failed = None
        self._running = Running(job_id, now, Drawing(_title(job)))

    def _hear_preview(self, job_id: str, text: str) -> None:
        if self._running is None or self._running.job_id != job_id or not self.settings.previews:
            return
        with contextlib.suppress(ValueError):  # no base64
            drawing = replace(self._running.drawing, preview=base64.b64decode(text, validate=True))
            self._running = replace(self._running, drawing=drawing)

    def _is_shown(self, job: Message) -> bool:
        """It keeps the time since which it stands there, and with it when it goes."""
        return self._picture is not None and self._picture[0].picture == job.get("picture")

    def _show(self, job: Message, now: float) -> None:
        """A name that the gallery would not give is no picture."""
        name = str(job.get("picture") or "")
        if job_id_of(name):
            self._failed = None
            self._picture = Showing(name, _title(job)), now

    def lose_picture(self) -> None:
        """Its file is gone or cannot be read: back to waiting."""
        self._picture = None

    def scene(self, now: float) -> Scene:
        """What belongs on the screen."""
        if self._problems:
            return SafeMode(self._problems)
        if self._running and self._is_visible(self._running, now):
            return self._running.drawing
        if self._failed and now < self._failed[1] + self.settings.failure_s:
            return self._failed[0]
        if self._is_dark(now):
            return Dark()
        if self._picture and self._stays(self._picture[1], now):
            return self._picture[0]
        return Waiting(self._why_waiting(now))

    def next_change(self, now: float) -> float | None:
        """Seconds until `scene` may say something else by itself; None: only a message changes it."""
        times = [self._running.since + QUICK_S] if self._running else []
        times += [self._failed[1] + self.settings.failure_s] if self._failed else []
        if self._picture and self.settings.picture_s:
            times.append(self._picture[1] + self.settings.picture_s)
        if self.settings.blank_after_s and not self._running:
            times.append(self._busy_at + self.settings.blank_after_s)
        if self._away_since is not None:
            times.append(self._away_since + AWAY_S)
        left = [time - now for time in times if time > now]
        return min(left, default=None)

    def _is_visible(self, running: Running, now: float) -> bool:
        """A quick job would only flicker; where there is no picture to keep there is no reason to wait."""
        return now >= running.since + QUICK_S or self._picture is None

    def _stays(self, since: float, now: float) -> bool:
        return not self.settings.picture_s or now < since + self.settings.picture_s

    def _is_dark(self, now: float) -> bool:
        after = self.settings.blank_after_s
        return bool(after) and self._running is None and now >= self._busy_at + after

    def _why_waiting(self, now: float) -> str:
        if self._away_since is None:
            return ""
        return STARTING if now < self._away_since + AWAY_S else AWAY


def _title(job: Message) -> str:
    """What was asked for, in words; empty for a workflow without any."""
    return str(job.get("prompt") or "")


def said(job: dict[str, Any]) -> str:
    """Why a job failed, for people who stand before the screen: one sentence, no trace."""
    reason = " ".join(str(job.get("reason") or "").split())
    return FAULT if job.get("code") == "internal" or not reason else reason
