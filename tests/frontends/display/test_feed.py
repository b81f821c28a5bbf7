"""The feed with a real front's socket: what it tells, and that it always ends."""

from __future__ import annotations

import threading

import pytest

from edgegen.frontends.display.feed import Feed
from edgegen.jobs.hub import Hub
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.service import JobService
from tests.support import PATIENCE_S, wait_for


@pytest.fixture
def make_hub(socket_path, tmp_path):
    queue = JobQueue(tmp_path / "queue.db")
    hubs = []

    def make(about=dict) -> Hub:
        hubs.append(Hub(socket_path, JobService(queue), lambda asked: asked, about=about))
        hubs[-1].start()
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.close()
    queue.close()


@pytest.fixture
def make_feed(socket_path):
    feeds = []

    def make(wake=lambda: None) -> Feed:
        feeds.append(Feed(socket_path, wake, previews=False))
        feeds[-1].start()
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def test_a_front_that_comes_goes_and_comes_again(make_hub, make_feed):
    turns: list[str] = []  # of what it tells; how often it tried in vain does not matter

    def turns_to(wanted: str) -> bool:
        for message in feed.take():
            if turns[-1:] != [message["type"]]:
                turns.append(message["type"])
        return turns[-1:] == [wanted]

    feed = make_feed()
    wait_for(lambda: turns_to("away"))
    hub = make_hub()
    wait_for(lambda: turns_to("snapshot"))
    hub.close()
    wait_for(lambda: turns_to("away"))
    make_hub()
    wait_for(lambda: turns_to("snapshot"))
    assert turns == ["away", "snapshot", "away", "snapshot"]


def test_it_ends_while_it_looks_how_things_stand(make_hub, make_feed):
    """What was not listened to yet cannot be hung up: the look has to end, and nothing may begin after it."""
    asked, may_answer = threading.Event(), threading.Event()

    def about():
        asked.set()
        may_answer.wait(PATIENCE_S)
        return {}

    make_hub(about)
    feed = make_feed()
    assert asked.wait(PATIENCE_S)
    closing = threading.Thread(target=feed.close, daemon=True)
    closing.start()
    wait_for(feed._closed.is_set)
    may_answer.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
