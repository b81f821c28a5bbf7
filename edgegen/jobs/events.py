"""What happens to jobs, as values that front ends may listen to."""

from __future__ import annotations

from dataclasses import dataclass

from .job import Job


@dataclass(frozen=True)
class JobEvent:
    """One change of one job.

    Attributes:
        kind: `queued`, `running`, `done`, `failed` or `cancelled` (`running` repeats every step).
        job: the job as it now is.
        place: for `queued`, 1 is next.
        step, steps: for `running`, 0 <= step <= steps.
        eta_s: seconds until the picture, where there is ground for a guess.
        note: for `running`, what people should know: why it pauses.
    """

    kind: str
    job: Job
    place: int | None = None
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = None
    note: str | None = None
