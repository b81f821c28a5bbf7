"""Every scenario in short; `make torture` runs them in full, with seeds of its own."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from edgegen.engine.metadata import save_picture
from edgegen.engine.pipeline import GenerationSettings, Picture

from . import clock, damage, disk, flood, kills, links
from .tally import Row, count, table
from .wiretap import Wiretap

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
    assert table([row]).splitlines()[-1] == "| x | 5 | 1 | 5 | 2 | 1 | 1 | 2 | 0 | 1 |  |  |"


def test_a_damaged_configuration_is_read_or_refused():
    assert damage.run_config(1, rounds=40) > 0


def test_a_damaged_pack_is_refused_before_it_is_parsed():
    assert damage.run_pack(1, rounds=4) == 4


def test_a_damaged_picture_tells_something_or_nothing(tmp_path):
    settings = GenerationSettings("a red apple", "", 5, 2, 1.0, 16, 16, "euler")
    path = tmp_path / "a.png"
    save_picture(Picture(np.zeros((16, 16, 3), np.uint8), settings, 1.5, "cpu", "tiny"), path)
    assert 0 < damage.run_picture(1, path, rounds=40) < 40


def packets(*said: tuple[str, str]) -> Wiretap:
    """A connection on which commands came and states were told, each as (`asked` or a state, job)."""
    tap = Wiretap()
    for what, job_id in said:
        device, broker = tap.connection()
        stream, topic = (broker, "t/generate") if what == "asked" else (device, f"t/job/{job_id}/status")
        body = len(topic).to_bytes(2) + topic.encode() + b"\0\7" + b"\0"
        body += json.dumps({"id": job_id, "state": what}).encode()
        for byte in bytes([0x3A, len(body)]) + body:  # QoS 1, DUP
            stream.feed(bytes([byte]))
    return tap


def test_who_repeated_a_status_is_told_by_the_packets():
    unasked = packets(("asked", "a"), ("done", "a"), ("done", "a"))
    assert unasked.packets[0].mid == 7
    assert unasked.packets[0].is_dup
    assert unasked.retold(("done",)).ours == 1
    before = packets(("asked", "a"), ("asked", "a"), ("queued", "a"), ("done", "a"), ("done", "a"))
    assert before.retold(("done",)).ours == 1, "the first one answered both"
    after = packets(("asked", "a"), ("done", "a"), ("asked", "a"), ("done", "a"), ("done", "a"))
    retold = after.retold(("done",))
    assert (retold.ours, retold.answers, retold.told) == (1, 1, Counter(a=3))
    row = links.told_apart(Row("x", 1, 0, 1, 1, 0, 0, 0, 0), after, Counter(a=5))
    assert (row.repeated, row.answered_again, row.by_broker) == (1, 1, 2)
    assert row.faults() == ["1 statuses were repeated in 0 crashes"]
