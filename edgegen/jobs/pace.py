"""How fast this device draws, remembered over restarts: by it a workflow's time is told before it runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from ..errors import StorageError
from .database import Database, set_fact
from .sync import Sync

log = logging.getLogger(__name__)

FACT = "pace"
MOST = 200  # sizes, roles and packs; the oldest go
WORTH_A_WRITE = 0.1  # a card wears out: what changed by less is not written


def read_pace(database: Database) -> dict[str, float]:
    """Seconds by key, as `engine.graphtimes` gives them; empty when nothing is known."""
    try:
        found = json.loads(database.fact(FACT) or "{}")
    except ValueError:  # a flipped bit
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float) and value > 0}


def remember_pace(database: Database, found: Mapping[str, float]) -> bool:
    """Write what is new or has changed; whether anything was written. Never raises for a bad disk."""
    try:
        known = read_pace(database)
        if not (changed := _worth_writing(known, found)):
            return False
        kept = {**{key: value for key, value in known.items() if key not in changed}, **changed}
        newest = dict(list(kept.items())[-MOST:])
        with database.transaction(Sync.LATER) as db:
            set_fact(db, FACT, json.dumps(newest))
    except StorageError as err:
        log.warning("how fast this device is was not noted: %s", err)
        return False
    return True


def _worth_writing(known: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    return {
        key: float(f"{value:.4g}")
        for key, value in found.items()
        if value > 0 and abs(value - known.get(key, 0.0)) > WORTH_A_WRITE * value
    }
