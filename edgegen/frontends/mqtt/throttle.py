"""Not every step of a fast job is worth a message. Pure."""

from __future__ import annotations

MIN_INTERVAL_S = 0.25


class ProgressThrottle:
    """Lets at most about four steps a second of each job through; its start, its first step and the last
    always: the first one done shows somebody who waits that it goes on, and how fast."""

    def __init__(self, min_interval_s: float = MIN_INTERVAL_S):
        self._min_interval_s = min_interval_s
        self._shown_at: dict[str, float] = {}

    def passes(self, job_id: str, step: int | None, steps: int | None, now: float) -> bool:
        """Whether this step should be told.

        Args:
            now: any steady clock in seconds.
        """
        shown_at = self._shown_at.get(job_id)
        always = step == 1 or (step is not None and step == steps)
        if shown_at is not None and not always and now - shown_at < self._min_interval_s:
            return False
        self._shown_at[job_id] = now
        return True

    def forget(self, job_id: str) -> None:
        """The job ended, or waits again."""
        self._shown_at.pop(job_id, None)
