"""What became of the jobs of one scenario: a row of the torture table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COLUMNS = (
    *("scenario", "seed", "crashes", "accepted", "done once", "done twice", "told why not"),
    *("lost", "destroyed", "statuses repeated", "told again when asked", "delivered twice by the broker"),
)


@dataclass(frozen=True)
class Row:
    """One scenario's outcome, in jobs.

    Attributes:
        crashes: how often something was killed, cut, filled or damaged.
        accepted: jobs that the device committed or said to be `queued`.
        refused: accepted jobs that ended without a picture, with a code and a reason.
        lost: accepted jobs that never ended, or of whose end the sender never heard.
        destroyed: accepted jobs whose own record on the disk a blow hit, so that nobody can read it.
        repeated: final statuses heard more than once (that nobody asked for again); where the device's
            connection was listened to, those that it published again unasked.
        answered_again: final statuses that answer a command which came again; None: not listened to.
        by_broker: final statuses that were heard oftener than the device published them; None likewise.
    """

    scenario: str
    seed: int
    crashes: int
    accepted: int
    once: int
    twice: int
    refused: int
    lost: int
    repeated: int
    destroyed: int = 0
    answered_again: int | None = None
    by_broker: int | None = None

    def cells(self) -> tuple[str, ...]:
        numbers = (self.seed, self.crashes, self.accepted, self.once, self.twice, self.refused)
        apart = ("" if n is None else str(n) for n in (self.answered_again, self.by_broker))
        return (self.scenario, *map(str, (*numbers, self.lost, self.destroyed, self.repeated)), *apart)

    def faults(self) -> list[str]:
        """What must not be; empty when the device stood it."""
        found = [f"{self.lost} jobs are lost"] if self.lost else []
        if not self.once:
            found.append("not one picture was made: this proves nothing")
        if self.destroyed > self.crashes:
            found.append(f"{self.destroyed} records are lost to {self.crashes} flipped bits")
        if self.twice > self.crashes:
            found.append(f"{self.twice} pictures were made twice in {self.crashes} crashes")
        if self.repeated > self.crashes:
            found.append(f"{self.repeated} statuses were repeated in {self.crashes} crashes")
        return found


def count(
    scenario: str,
    seed: int,
    crashes: int,
    accepted: Iterable[str],
    pictures: Mapping[str, int],
    refused: Iterable[str],
    heard: Counter[str],
    asked_again: int = 0,
) -> Row:
    """A row from what was accepted, drawn and heard.

    Args:
        pictures: how many pictures of each job there are.
        heard: how many final statuses of each job its sender heard.
        asked_again: commands that were sent again; each may be answered once more.
    """
    ids, gone = set(accepted), set(refused)
    ended = {i for i in ids if (pictures.get(i) or i in gone) and heard[i]}
    repeated = sum(heard[i] - 1 for i in ids if heard[i])
    return Row(
        scenario,
        seed,
        crashes,
        len(ids),
        sum(pictures.get(i) == 1 for i in ids),
        sum(pictures.get(i, 0) > 1 for i in ids),
        len(gone & ids),
        len(ids - ended),
        max(0, repeated - asked_again),
    )


def table(rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
