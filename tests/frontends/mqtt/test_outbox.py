import threading

from edgegen.frontends.mqtt.messages import Outgoing
from edgegen.frontends.mqtt.outbox import Outbox


def message(topic: str, payload: bytes = b"", **kwargs) -> Outgoing:
    return Outgoing(topic, payload, **kwargs)


def pop_all(outbox: Outbox) -> list[tuple[str, bytes]]:
    """Take out and acknowledge all that may be sent."""
    out, mid = [], 1
    while popped := outbox.pop():
        outbox.sent(mid)
        outbox.acknowledged(mid)
        out.append((popped.topic, popped.payload))
        mid += 1
    return out


def test_qos_1_waits_for_the_broker_in_order_and_qos_0_does_not():
    outbox = Outbox()
    outbox.put(message("a"))
    outbox.put(message("progress", qos=0))
    outbox.put(message("b"))
    outbox.put(message("hello"), first=True)
    assert outbox.pop() is None
    outbox.open()
    assert [topic for topic, _ in pop_all(outbox)] == ["hello", "a", "b"]


def test_newer_retained_and_progress_messages_replace_waiting_ones():
    outbox = Outbox()
    outbox.open()
    for n in b"12":
        outbox.put(message("status", bytes([n])))
        outbox.put(message("image", bytes([n]), retain=True))
        outbox.put(message("progress", bytes([n]), qos=0))
    assert pop_all(outbox) == [("status", b"1"), ("status", b"2"), ("image", b"2"), ("progress", b"2")]


def test_the_window_bounds_what_is_unacknowledged():
    outbox = Outbox()
    outbox.open(receive_maximum=2)
    for mid in (1, 2, 3):
        outbox.put(message(str(mid)))
    for mid in (1, 2):
        assert outbox.pop()
        outbox.sent(mid)
    assert outbox.pop() is None
    outbox.acknowledged(1)
    assert outbox.pop().topic == "3"


def test_an_acknowledgement_may_come_before_sent():
    outbox = Outbox()
    outbox.open(receive_maximum=1)
    outbox.put(message("a"))
    outbox.put(message("b"))
    assert outbox.pop().topic == "a"
    outbox.acknowledged(7)
    outbox.sent(7)
    assert outbox.pop().topic == "b"


def test_shutting_forgets_progress_only():
    outbox = Outbox()
    outbox.open()
    outbox.put(message("status"))
    outbox.put(message("progress", qos=0))
    outbox.shut()
    outbox.open()
    assert [topic for topic, _ in pop_all(outbox)] == ["status"]


def test_beyond_capacity_the_oldest_status_goes_and_retained_ones_stay(caplog):
    outbox = Outbox(capacity=3)
    outbox.put(message("availability", retain=True))
    for n in range(4):
        outbox.put(message(f"s{n}"))
    outbox.open()
    assert [topic for topic, _ in pop_all(outbox)] == ["availability", "s2", "s3"]
    assert "dropped the one for s0" in caplog.text


def test_drain_waits_for_acknowledgements():
    outbox = Outbox()
    outbox.open()
    outbox.put(message("a"))
    assert outbox.drain(0.01) is False
    outbox.pop()
    outbox.sent(1)
    assert outbox.drain(0.01) is False
    threading.Timer(0.05, outbox.acknowledged, [1]).start()
    assert outbox.drain(30) is True


def test_closing_ends_the_wait():
    outbox = Outbox()
    threading.Timer(0.05, outbox.close).start()
    assert outbox.wait() is False


def test_beyond_capacity_intermediate_messages_go_before_others():
    outbox = Outbox(capacity=2)
    outbox.put(message("rejected"))
    outbox.put(Outgoing("queued", b"x", is_intermediate=True))
    outbox.put(message("rejected too"))
    outbox.open()
    assert [topic for topic, _ in pop_all(outbox)] == ["rejected", "rejected too"]


def test_the_owner_hears_once_that_its_message_is_sent():
    outbox, heard = Outbox(), []
    outbox.open()
    for topic in ("acknowledged", "early", "nothing to send"):
        outbox.put(Outgoing(topic, b"x", retain=True, on_sent=lambda topic=topic: heard.append(topic)))
    outbox.pop()
    outbox.sent(1)
    outbox.acknowledged(1)
    outbox.acknowledged(1)
    outbox.pop()
    outbox.acknowledged(2)
    assert heard == ["acknowledged"], "paho has not even returned yet"
    outbox.sent(2)
    outbox.pop()
    outbox.sent(None)
    assert heard == ["acknowledged", "early", "nothing to send"]


def test_qos_0_for_want_of_better_waits_again_unless_it_was_written():
    outbox = Outbox()
    outbox.open()
    told = []
    for mid, topic in enumerate(("written", "lost", "lost too"), 1):
        outbox.put(message(topic, on_sent=lambda topic=topic: told.append(topic)))
        assert outbox.pop()
        outbox.sent(mid, is_kept=False)
    outbox.acknowledged(1)
    outbox.put(message("later"))
    outbox.shut()
    assert not outbox.has_in_flight
    outbox.open()
    assert [topic for topic, _ in pop_all(outbox)] == ["lost", "lost too", "later"]
    assert told == ["written", "lost", "lost too"]


def test_all_that_is_under_way_can_be_taken_back():
    outbox = Outbox()
    outbox.open()
    for mid, topic in enumerate("ab", 1):
        outbox.put(message(topic, retain=topic == "a"))
        assert outbox.pop()
        outbox.sent(mid)
    outbox.put(message("a", b"newer", retain=True))
    assert outbox.take_back()
    assert not outbox.take_back()
    assert pop_all(outbox) == [("b", b""), ("a", b"newer")]
