"""Every scenario in short; `make torture` runs them in full, with seeds of its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgegen.engine.metadata import save_picture
from edgegen.engine.pipeline import GenerationSettings, Picture

from . import clock, damage, disk, flood, kills, links
from .tally import Row, count, table

SHORT = {
    "kills": lambda: kills.run(1, jobs=8, kills=3),
    "links": lambda: links.run(1, jobs=8, blows=3),
    "disk-full": lambda: disk.run_full(1, jobs=6, fills=2),
    "disk-read-only": lambda: disk.run_read_only(1, jobs=3),
    "database": lambda: damage.run_database(1, rounds=4),
    "clock": lambda: clock.run(1, jobs=8, jumps=4),
    "flood": lambda: flood.run(1, messages=60),
}


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.timeout(600)
def test_the_device_stands(name):
    row = SHORT[name]()
    assert row.faults() == [], table([row])
    if name not in ("disk-full", "database"):  # there a job may be told why it cannot be
        assert row.refused == 0, table([row])


def test_the_tally_tells_lost_from_done_and_refused():
    heard = Counter({"a": 1, "b": 3, "c": 1})
    row = count("x", 5, 1, "abcde", {"a": 1, "b": 2, "d": 1}, "c", heard, asked_again=1)
    assert (row.accepted, row.once, row.twice, row.refused, row.lost, row.repeated) == (5, 2, 1, 1, 2, 1)
    assert row.faults() == ["2 jobs are lost"]
    assert "2 pictures were made twice" in Row("x", 1, 1, 4, 2, 2, 0, 0, 2).faults()[0]
    assert table([row]).splitlines()[-1] == "| x | 5 | 1 | 5 | 2 | 1 | 1 | 2 | 0 | 1 |"


def test_a_damaged_configuration_is_read_or_refused():
    assert damage.run_config(1, rounds=40) > 0


def test_a_damaged_pack_is_refused_before_it_is_parsed():
    assert damage.run_pack(1, rounds=4) == 4


def test_a_damaged_picture_tells_something_or_nothing(tmp_path):
    settings = GenerationSettings("a red apple", "", 5, 2, 1.0, 16, 16, "euler")
    path = tmp_path / "a.png"
    save_picture(Picture(np.zeros((16, 16, 3), np.uint8), settings, 1.5, "cpu", "tiny"), path)
    assert 0 < damage.run_picture(1, path, rounds=40) < 40
