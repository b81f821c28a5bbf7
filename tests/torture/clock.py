"""The wall clock jumps by years, forwards and back, and starts before the epoch of sane clocks."""

from __future__ import annotations

import random

from .rig import make_rig, pause
from .tally import Row

DAY_S = 86_400
JUMPS_S = (-50 * 365 * DAY_S, -3600, -1, 3600, 40 * DAY_S, 30 * 365 * DAY_S)


def run(seed: int, jobs: int = 100, jumps: int = 20) -> Row:
    """No job has a deadline here: one that names a time of day must trust the clock."""
    rng = random.Random(seed)
    with make_rig() as (rig, _broker):
        rig.start()
        rig.wait_online()
        share = -(-jobs // (jumps + 1))
        for first in range(0, jobs, share):
            for number in range(first, min(jobs, first + share)):
                rig.sender.send(f"c{number}", steps=rng.randint(1, 4))
            new = rig.clock.with_suffix(".new")
            new.write_text(str(rng.choice(JUMPS_S)))
            new.replace(rig.clock)
            pause(rng, 0.0, 0.5)
        rig.wait_ends()
        return rig.row("clock jumps", seed)
