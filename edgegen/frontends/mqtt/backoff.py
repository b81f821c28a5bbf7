"""How long to wait before the next attempt. Pure."""

from __future__ import annotations

import random

FIRST_S = 1.0
LONGEST_S = 60.0


def backoff_s(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after failed attempt number `attempt` (0 is the first).

    Doubles up to a minute; half of it is random, so that a room of devices does not come back
    to a restarted broker in the same instant.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt, 16))
    return longest * rng.uniform(0.5, 1.0)
