"""Front and engine are killed at random moments while jobs come in; each starts again, as under systemd."""

from __future__ import annotations

import random

from .rig import make_rig, pause
from .tally import Row


def run(seed: int, jobs: int = 200, kills: int = 20) -> Row:
    rng = random.Random(seed)
    with make_rig() as (rig, _broker):
        rig.start()
        rig.wait_online()
        share = -(-jobs // (kills + 1))
        for first in range(0, jobs, share):
            for number in range(first, min(jobs, first + share)):
                rig.sender.send(f"k{number}", steps=rng.randint(1, 8))
            pause(rng, 0.0, 2.0)
            if first + share < jobs:
                rig.kill(rng.choice(("front", "engine")))
                rig.revive_dead()
        rig.wait_ends()
        return rig.row("kill -9 of front and engine", seed)
