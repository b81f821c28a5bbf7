"""Lines of JSON, in whatever pieces they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.jobs.wire import LineBuffer, WireError, encode

messages = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=3))


@settings(deadline=None)
@given(messages, st.integers(1, 50))
def test_any_pieces_give_the_same_messages(bodies, size):
    sent = [{**body, "type": "x"} for body in bodies]
    data = b"".join(encode(message) for message in sent)
    lines = LineBuffer()
    received = [m for i in range(0, len(data), size) for m in lines.feed(data[i : i + size])]
    assert received == sent


@settings(deadline=None)
@given(st.lists(st.binary()))
def test_any_bytes_are_messages_or_refused(pieces):
    lines = LineBuffer(max_line=100)
    try:
        for piece in pieces:
            assert all(isinstance(message["type"], str) for message in lines.feed(piece))
    except WireError as err:
        assert str(err)


def test_a_line_without_end_is_refused():
    lines = LineBuffer(max_line=10)
    lines.feed(b"x" * 10)
    with pytest.raises(WireError, match="longer than 10 bytes"):
        lines.feed(b"x")
