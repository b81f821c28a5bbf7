"""How fast a device is outlives its restarts, at few writes."""

from __future__ import annotations

from edgegen.jobs.database import set_fact
from edgegen.jobs.pace import FACT, MOST, read_pace, remember_pace


def test_only_what_changed_much_is_written(queue) -> None:
    database = queue.database
    assert read_pace(database) == {}
    assert remember_pace(database, {"a": 1.23456789, "b": 2.0, "never": 0.0})
    assert read_pace(database) == {"a": 1.235, "b": 2.0}
    assert not remember_pace(database, {"a": 1.3, "b": 1.9})
    assert remember_pace(database, {"a": 2.5})
    assert list(read_pace(database)) == ["b", "a"], "the newest last"


def test_it_stays_bounded_and_a_flipped_bit_costs_only_the_estimate(queue) -> None:
    database = queue.database
    for number in range(MOST + 5):
        remember_pace(database, {f"key{number}": 1.0})
    assert len(read_pace(database)) == MOST
    assert "key4" not in read_pace(database)
    for broken in ("{", "[1]", '{"a": "x", "b": -1, "c": 2}'):
        with database.transaction() as db:
            set_fact(db, FACT, broken)
        assert read_pace(database) in ({}, {"c": 2.0})
    queue.close()
    assert not remember_pace(database, {"x": 1.0}), "a disk that refuses is only logged"
