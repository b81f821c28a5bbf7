"""Brokers that take less than MQTT allows: real mosquitto, set up so."""

import json
import logging

import paho.mqtt.client as paho
import pytest

from edgegen.frontends.mqtt.connection import FRUITLESS_LIVES_CHOKE
from edgegen.frontends.mqtt.limits import UNLIMITED, BrokerLimits, Limits
from edgegen.frontends.mqtt.messages import Outgoing
from edgegen.jobs.job import JobRequest
from edgegen.jobs.outbox import picture_room
from tests.frontends.mqtt.conftest import PICTURE
from tests.support import wait_for

GENERATE = "edgegen/shop/generate"
AVAILABILITY = "edgegen/shop/availability"
IMAGE, META = "edgegen/shop/last/image", "edgegen/shop/last/meta"
ANNOUNCED = "homeassistant/device/edgegen_shop/config"


def told_meta(phone) -> dict:
    wait_for(lambda: phone.on(META), "last/meta")
    return json.loads(phone.on(META)[-1].payload)


def draw(house, phone, job_id: str, qos: int = 1) -> None:
    phone.send(GENERATE, {"id": job_id, "prompt": "a red apple"}, qos=qos)
    phone.wait_status(id=job_id, state="queued")
    house.run_next()
    phone.wait_status(id=job_id, state="done")


@pytest.mark.parametrize(
    ("config", "max_qos", "missed"),
    [
        ("retain_available false", 2, "keeps no retained messages"),
        ("max_qos 0", 0, "takes QoS 0 only"),
        ("max_qos 1", 1, ""),
        ("retain_available false\nmax_qos 0", 0, "takes QoS 0 only"),
    ],
)
def test_jobs_go_through_a_broker_that_takes_less(
    make_broker, make_house, make_phone, caplog, config, max_qos, missed
):
    broker = make_broker(config)
    phone = make_phone(broker.port)
    phone.follow(ANNOUNCED)
    house = make_house(broker.port)
    phone.wait_message(AVAILABILITY, b"online")
    draw(house, phone, "a1", qos=min(1, max_qos))
    phone.wait_message(IMAGE, PICTURE)
    wait_for(lambda: phone.on(ANNOUNCED), "Home Assistant hears of the device")
    wait_for(lambda: house.service.status()["outbox"]["waiting"] == 0, "the outbox is empty")
    assert caplog.text.count("keeps no retained messages") == config.count("retain_available")
    assert missed in caplog.text
    assert "refuses us" not in caplog.text
    assert house.frontend._connection.limits.max_qos == max_qos


@pytest.mark.parametrize("config", ["retain_available false", "max_qos 0"])
def test_the_last_will_is_adapted_and_speaks(make_broker, make_house, make_phone, config):
    broker = make_broker(config)
    phone, house = make_phone(broker.port), make_house(broker.port)
    phone.wait_message(AVAILABILITY, b"online")
    house.frontend._connection._client.socket().shutdown(2)
    phone.wait_message(AVAILABILITY, b"offline")
    wait_for(lambda: phone.on(AVAILABILITY)[-1].payload == b"online", "online again")


def test_without_limits_everything_is_as_it_was(house, phone, make_phone, broker):
    draw(house, phone, "a1")
    phone.wait_message(IMAGE, PICTURE)
    late = make_phone(broker.port)
    assert late.wait_message(AVAILABILITY, b"online").retain
    assert late.wait_message(IMAGE, PICTURE).retain
    assert not {"image_limit_bytes", "image_omitted"} & told_meta(phone).keys()
    assert picture_room(house.queue.database) is None


def test_a_broker_set_up_anew_is_believed_both_ways(make_broker, make_house, make_phone):
    """What waits, and what was under way when it went, is sent as the broker can take it now."""
    broker = make_broker()
    phone, house = make_phone(broker.port), make_house(broker.port)
    phone.wait_message(AVAILABILITY, b"online")
    for config, retains in (("retain_available false\nmax_qos 0", False), ("", True)):
        broker.stop()
        wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
        broker._extra_config = config
        house.service.submit(JobRequest(id=f"a{retains}", prompt="a red apple"))
        house.run_next()
        broker.start()
        phone.wait_status(id=f"a{retains}", state="done")
        wait_for(lambda: house.service.status()["outbox"]["waiting"] == 0, "the outbox is empty")
        late = make_phone(broker.port)
        if retains:
            assert late.wait_message(AVAILABILITY, b"online").retain
        assert house.frontend._connection.limits.retains is retains


def test_what_was_under_way_to_a_broker_that_then_takes_less(make_broker, make_house, make_phone):
    """paho would send it again as it was, and this broker hangs up on that, again and again."""
    broker = make_broker()
    phone, house = make_phone(broker.port), make_house(broker.port)
    phone.wait_message(AVAILABILITY, b"online")
    broker._process.send_signal(19)  # SIGSTOP: it takes packets, and acknowledges none
    house.service.submit(JobRequest(id="a1", prompt="a red apple"))
    wait_for(lambda: house.frontend._outbox.has_in_flight, "a message is under way")
    broker.stop(kill=True)
    broker._extra_config = "max_qos 0\nretain_available false"
    broker.start()
    house.wait_connected()
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    draw(house, phone, "a2", qos=0)


def test_a_picture_too_large_for_the_broker_is_left_out_and_meta_says_so(
    make_broker, make_house, make_phone, caplog
):
    broker = make_broker("max_packet_size 3000")
    phone, house = make_phone(broker.port), make_house(broker.port, home_assistant=False)
    house.picture = PICTURE + bytes(4000)
    draw(house, phone, "a1")
    meta = told_meta(phone)
    room = meta["image_limit_bytes"]
    assert 2800 < room < 3000
    assert f"the picture of {len(house.picture)} bytes does not fit" in meta["image_omitted"]
    wait_for(lambda: house.service.status()["outbox"]["waiting"] == 0, "the outbox is empty")
    assert not phone.on(IMAGE)
    assert "the picture of job a1 is not sent" in caplog.text
    assert picture_room(house.queue.database) == room
    house.picture = PICTURE + bytes(room - len(PICTURE))  # the largest: the broker does not hang up
    draw(house, phone, "a2")
    phone.wait_message(IMAGE, house.picture)
    assert "image_omitted" not in told_meta(phone)
    assert house.frontend.is_connected


def test_any_message_too_large_is_named_and_the_rest_goes_on(make_broker, make_house, make_phone, caplog):
    broker = make_broker("max_packet_size 1000")
    phone, house = make_phone(broker.port), make_house(broker.port)  # what Home Assistant is told is larger
    draw(house, phone, "a1")
    phone.wait_message(IMAGE, PICTURE)
    assert "homeassistant/device/edgegen_shop/config: a message of" in caplog.text


def test_no_more_is_under_way_than_the_broker_wants(make_broker, make_house, make_phone):
    broker = make_broker("max_inflight_messages 3")
    phone, house = make_phone(broker.port), make_house(broker.port)
    assert house.frontend._connection.limits.receive_maximum == 3
    assert house.frontend._outbox._window == 3
    for number in range(30):
        house.service.submit(JobRequest(id=f"j{number}", prompt="a red apple"))
    wait_for(lambda: len(phone.statuses(state="queued")) == 30, "all arrive")


def test_a_broker_of_3_1_1_says_nothing(make_broker, make_house, make_phone):
    broker = make_broker()
    phone = make_phone(broker.port, paho.MQTTv311)
    house = make_house(broker.port, protocol="3.1.1")
    draw(house, phone, "a1")
    assert house.frontend._connection.limits == UNLIMITED


def test_one_that_hangs_up_on_large_packets_without_a_word_gets_smaller_ones(
    make_broker, make_house, make_phone, caplog
):
    """MQTT 3.1.1 has no words for it, and paho would send the picture again for ever."""
    broker = make_broker("max_packet_size 3000")
    phone, house = make_phone(broker.port), make_house(broker.port, protocol="3.1.1", home_assistant=False)
    house.picture = PICTURE + bytes(4000)
    draw(house, phone, "a1")
    wait_for(lambda: house.service.status()["outbox"]["waiting"] == 0, "the outbox is empty")
    half = len(house.picture) // 2
    assert f"takes packets of at most {half} bytes" in caplog.text
    wait_for(lambda: "image_omitted" in told_meta(phone), "meta says so")
    assert picture_room(house.queue.database) < half
    house.picture = PICTURE
    draw(house, phone, "a2")
    phone.wait_message(IMAGE, PICTURE)


def test_links_that_are_cut_teach_nothing(broker, make_house, make_phone):
    """What was acknowledged in between shows that the broker takes what we send."""
    phone, house = make_phone(broker.port), make_house(broker.port, home_assistant=False)
    house.picture = PICTURE + bytes(4000)
    draw(house, phone, "a1")
    for _ in range(FRUITLESS_LIVES_CHOKE):
        house.wait_connected()
        count = len(phone.on(IMAGE))
        wait_for(lambda count=count: len(phone.on(IMAGE)) >= count, "the picture")
        wait_for(lambda: not house.frontend._outbox.has_in_flight, "all is acknowledged")
        house.frontend._connection._client.socket().shutdown(2)
        wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
    house.wait_connected()
    assert house.frontend._connection.limits.max_packet_bytes is None


class Connack:
    def __init__(self, **said):
        vars(self).update(said)


def test_a_refusal_teaches_until_a_connack_speaks_of_it():
    broker = BrokerLimits()
    assert broker.learn(0x9A)
    assert not broker.learn(0x9A)
    assert not broker.learn(0x87)
    assert broker.hear(Connack()).retains is False  # it only refuses: believed for good
    assert broker.hear(Connack(RetainAvailable=0)).retains is False
    assert broker.hear(Connack()).retains is True
    assert broker.learn(0x9B)
    assert broker.current.max_qos == 0
    assert broker.hear(Connack(MaximumQoS=1)).max_qos == 1
    assert broker.learn(0x9E)
    assert broker.current.subscribable(("a", "$share/g/a")) == ("a",)
    assert broker.hear(None) == Limits(shares=False)
    broker.learn_size(5000)
    assert broker.hear(Connack()).max_packet_bytes == 5000
    assert broker.hear(Connack(MaximumPacketSize=9000)).max_packet_bytes == 9000


def test_messages_keep_to_the_limits():
    message = Outgoing("a/b", b"x", qos=1, retain=True)
    assert UNLIMITED.adapt(message) is message
    adapted = Limits(max_qos=0, retains=False).adapt(message)
    assert (adapted.qos, adapted.retain) == (0, False)
    assert Limits(max_packet_bytes=100).fits("a/b", 84)
    assert not Limits(max_packet_bytes=100).fits("a/b", 85)
    assert Limits(max_packet_bytes=10).room_bytes("a/b") == 0
    assert Limits(max_packet_bytes=10).is_stricter_than(UNLIMITED)
    assert not UNLIMITED.is_stricter_than(Limits(max_qos=0, retains=False, max_packet_bytes=5))


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.INFO)
