"""Nothing that hangs keeps a process from its end."""

from __future__ import annotations

import threading

import pytest

from edgegen.jobs.closing import Closing


def test_the_last_one_ends_first():
    ended = []
    with Closing() as closing:
        closing.add("first", lambda: ended.append("first"), 5)
        closing.add("last", lambda: ended.append("last"), 5)
    assert ended == ["last", "first"]
    assert closing.stuck == []
    closing.leave_if_stuck()  # returns


def test_what_hangs_is_named_and_left_and_what_fails_harms_nobody(caplog):
    ended, never = [], threading.Event()

    def fail() -> None:
        raise OSError("no such luck")

    with Closing() as closing:
        closing.add("the queue", lambda: ended.append("the queue"), 5)
        closing.add("the pins", fail, 5)
        closing.add("the broker", never.wait, 0.05)
    never.set()
    assert ended == ["the queue"]
    assert closing.stuck == ["the broker"]
    assert "the broker did not end within 0.05 s" in caplog.text
    assert "the pins did not end as it should" in caplog.text


def test_an_error_of_the_block_goes_on():
    ended = []
    with pytest.raises(ValueError, match="the start failed"), Closing() as closing:
        closing.add("the queue", lambda: ended.append("the queue"), 5)
        raise ValueError("the start failed")
    assert ended == ["the queue"]
