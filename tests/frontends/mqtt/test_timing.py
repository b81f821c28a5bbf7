import random
import socket
import time

import pytest

from edgegen.frontends.mqtt import connection
from edgegen.frontends.mqtt.backoff import backoff_s
from edgegen.frontends.mqtt.client import confirm_at_once
from edgegen.frontends.mqtt.throttle import ProgressThrottle


def test_backoff_grows_to_a_minute_and_is_never_the_same():
    rng = random.Random(1)
    assert all(0.5 <= backoff_s(0, rng) <= 1.0 for _ in range(100))
    assert all(2.0 <= backoff_s(2, rng) <= 4.0 for _ in range(100))
    late = [backoff_s(10_000, rng) for _ in range(100)]
    assert min(late) >= 30 and max(late) <= 60 and len(set(late)) > 90


def test_start_first_and_last_step_pass_and_few_between():
    throttle = ProgressThrottle(0.25)
    passed = [step for step in range(101) if throttle.passes("a", step, 100, now=step * 0.01)]
    assert passed == [0, 1, 26, 51, 76, 100]


def test_jobs_are_throttled_apart_and_anew():
    throttle = ProgressThrottle(0.25)
    assert throttle.passes("a", 0, 9, 0.0) and throttle.passes("b", 0, 9, 0.0)
    assert not throttle.passes("a", 2, 9, 0.1)
    throttle.forget("a")
    assert throttle.passes("a", 0, 9, 0.1)


def test_what_the_broker_sends_is_confirmed_at_once(monkeypatch, house, phone):
    confirmed = []

    def confirm(connection: object) -> None:
        confirm_at_once(connection)
        confirmed.append(connection)

    monkeypatch.setattr(connection, "confirm_at_once", confirm)
    phone.send("edgegen/shop/generate", {"id": "a1", "prompt": "a fox"})
    phone.wait_status(id="a1", state="queued")
    assert house.frontend._connection._client.socket() in confirmed


@pytest.mark.parametrize("at_once", [True, False])
def test_a_second_small_packet_waits_for_the_first_to_be_confirmed(at_once):
    """mosquitto holds a command back until its packet before, a PUBACK, is confirmed: 40 ms on Linux."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
        server.accept()[0] as broker,
    ):
        waits = []
        for _ in range(10):
            ours.sendall(b"?")
            broker.recv(1)
            broker.sendall(b"a")
            broker.sendall(b"b")
            ours.recv(1)
            began = time.monotonic()
            if at_once:
                confirm_at_once(ours)
            ours.recv(1)
            waits.append(time.monotonic() - began)
    assert (min(waits) < 0.02) if at_once else (max(waits) > 0.03), waits
