"""How long a picture will take, from how long others took. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from .job import Job


def mean_seconds(recent: list[float]) -> float | None:
    """Mean seconds of recent jobs; None when there are none."""
    return fmean(recent) if recent else None


@dataclass
class StepClock:
    """When a running job reached its steps, by a clock that only goes forward.

    Attributes:
        first_step, first_at: the first step seen and when; loading the graphs comes before it.
        step, at: the newest one.
    """

    job: Job
    first_step: int = -1
    first_at: float = 0.0
    step: int = -1
    at: float = 0.0

    def note(self, step: int, now: float) -> None:
        if self.first_step < 0:
            self.first_step, self.first_at = step, now
        self.step, self.at = step, now

    def remaining_s(self, steps: int, mean_job_s: float | None) -> float | None:
        """Seconds until the last step: by the pace so far, else by the mean of recent jobs."""
        left = max(0, steps - self.step)
        done = self.step - self.first_step
        if done > 0:
            return left * (self.at - self.first_at) / done
        return None if mean_job_s is None else mean_job_s * left / max(1, steps)
