"""How soon the disk must have a write, and how long one process waits for the other's.

What every level keeps: a killed process loses nothing that was committed, and after a power cut the database
holds all commits up to some moment, never a later one without an earlier one (sqlite.org/wal.html). The
levels differ in that moment.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

LOCK_WAIT_S = 30.0
LOOK_EVERY_MS = 1  # a commit of the other process takes few
T = TypeVar("T")


class Sync(Enum):
    """When a power cut cannot undo a transaction any more.

    Attributes:
        NOW: when `transaction` returns. For what somebody is told of: an accepted job before its PUBACK, a
            cancel, a job's end with its results in the outbox, what a person set.
        SOON: milliseconds later, nobody waits. For what is harmless when it happens once more: a claim, a
            picture's row (`reindex` finds the file), how much of a result the broker has.
        LATER: with the next NOW or SOON, else when the kernel writes its pages, half a minute at most. For
            bookkeeping that is made again: what was announced, how fast this device is, rows that go.
    """

    NOW = "now"
    SOON = "soon"
    LATER = "later"

    @property
    def pragma(self) -> str:
        """SQLite's level for the commit: FULL waits for the disk, NORMAL does not."""
        return "FULL" if self is Sync.NOW else "NORMAL"


def patiently(
    ask: Callable[[], T],
    longest_s: float = LOCK_WAIT_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> T:
    """What `ask` returns once no other process holds the database, looked at every millisecond.

    SQLite's own wait sleeps longer and longer, up to 100 ms at a time, while the other one's transaction
    takes few: of a burst some then wait that long. So a connection's `busy_timeout` is one look long
    (`LOOK_EVERY_MS`), and the patience is here.

    Raises:
        sqlite3.OperationalError: it was held for `longest_s`, or another trouble.
    """
    give_up = monotonic() + longest_s
    while True:
        try:
            return ask()
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= give_up:
                raise
