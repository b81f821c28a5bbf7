"""Messages at full speed, duplicates and junk among them: every valid id once, every junk refused."""

from __future__ import annotations

import json
import random

from tests.support import wait_for

from .rig import BASE, PATIENCE_S, make_rig
from .tally import Row

JUNK_SHARE, DUPLICATE_SHARE = 0.2, 0.2


def junk(rng: random.Random) -> bytes:
    """A payload that is no request, each kind of it."""
    kinds = (
        lambda: bytes([0xFF]) + rng.randbytes(rng.randint(0, 200)),
        lambda: b"",
        lambda: b"{" + rng.randbytes(40).hex().encode(),
        lambda: b'{"prompt":' + b"[" * 20_000,
        lambda: b'{"prompt": 7}',
        lambda: json.dumps({"prompt": "x", "steps": 10 ** rng.randint(4, 400)}).encode(),
        lambda: json.dumps({"prompt": "x", "id": "../" * rng.randint(1, 20)}).encode(),
        lambda: b"x" * 70_000,
        lambda: b'{"prompt": "\\ud800"}',
    )
    return rng.choice(kinds)()


def run(seed: int, messages: int = 10_000) -> Row:
    rng = random.Random(seed)
    with make_rig() as (rig, _broker):
        rig.start()
        rig.wait_online()
        junk_sent = 0
        for number in range(messages):
            dice = rng.random()
            if dice < JUNK_SHARE:
                rig.sender.raw(junk(rng))
                junk_sent += 1
            elif dice < JUNK_SHARE + DUPLICATE_SHARE and rig.sender.sent:
                rig.sender.raw(rig.sender.sent[rng.choice(list(rig.sender.sent)[-50:])])
                rig.sender.asked_again += 1
            else:
                rig.sender.send(f"f{number}")
        wait_for(
            lambda: len(rig.sender.rejected) >= junk_sent,
            rig.told(f"{junk_sent} refusals on {BASE}"),
            PATIENCE_S,
        )
        rig.wait_ends()
        assert len(rig.sender.rejected) == junk_sent, "only junk is refused"
        return rig.row("full speed, junk, duplicates", seed)
