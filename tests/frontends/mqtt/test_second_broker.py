"""The contract over brokers of others: amqtt, which knows MQTT 3.1.1 alone, and rumqttd with MQTT 5."""

from __future__ import annotations

import json
import socket

import paho.mqtt.client as paho
import pytest

from edgegen.cli.services import check_broker
from edgegen.settings import MqttSettings
from tests.frontends.mqtt.brokers import ENVIRONMENT, Amqtt, Rumqttd
from tests.frontends.mqtt.conftest import PICTURE
from tests.support import wait_for

GENERATE, AVAILABILITY = "edgegen/shop/generate", "edgegen/shop/availability"
PROTOCOLS = {"3.1.1": paho.MQTTv311, "5": paho.MQTTv5}


def started(kind, tmp_path):
    if not kind.is_installed():
        pytest.skip(f"no {kind.package} in {ENVIRONMENT}: `make test` sets it up")
    broker = kind(tmp_path)
    broker.start()
    return broker


@pytest.fixture(params=[Amqtt, Rumqttd], ids=["amqtt", "rumqttd"])
def second(request, tmp_path):
    broker = started(request.param, tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def amqtt(tmp_path):
    broker = started(Amqtt, tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def rumqttd(tmp_path):
    broker = started(Rumqttd, tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def house(second, make_house):
    return make_house(second.port, protocol=second.protocol)


@pytest.fixture
def phone(second, house, make_phone):
    return make_phone(second.port, PROTOCOLS[second.protocol])


def test_a_prompt_becomes_a_job_and_a_retained_picture(second, house, phone, make_phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple", "transaction": "t9"})
    assert phone.wait_status(id="a1", state="queued")["transaction"] == "t9"
    house.run_next()
    assert phone.wait_status(id="a1", state="done")["seed"] == 5
    phone.send(GENERATE, b'{"id": "bad", "steps": "many"}')
    assert phone.wait_status(id="bad", state="rejected")["code"] == "bad_request"
    phone.send(GENERATE, {"id": "a1", "prompt": "again"})
    wait_for(lambda: len(phone.statuses(id="a1", state="done")) == 2, "a redelivery gets its result")
    late = make_phone(second.port, PROTOCOLS[second.protocol])
    assert late.wait_message("edgegen/shop/last/image", PICTURE).retain
    wait_for(lambda: late.on("edgegen/shop/last/meta"), "the broker may send it after the picture")
    assert json.loads(late.on("edgegen/shop/last/meta")[0].payload)["id"] == "a1"
    assert late.wait_message(AVAILABILITY, b"online").retain


def test_the_last_will_speaks_and_the_device_comes_back(house, phone):
    phone.wait_message(AVAILABILITY, b"online")
    house.frontend._connection._client.socket().shutdown(socket.SHUT_RDWR)
    phone.wait_message(AVAILABILITY, b"offline")
    wait_for(lambda: phone.on(AVAILABILITY)[-1].payload == b"online", "online again")


def test_a_broker_that_lost_its_memory_gets_everything_back(second, house, phone, make_phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    second.stop()
    wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
    house.run_next()  # finished while the broker is away
    second.start()
    late = make_phone(second.port, PROTOCOLS[second.protocol])
    late.wait_message(AVAILABILITY, b"online")
    late.wait_message("edgegen/shop/last/image", PICTURE)
    late.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    late.wait_status(id="a2", state="queued")


def test_home_assistant(house, phone):
    phone.follow("homeassistant/#")
    config = "homeassistant/device/edgegen_shop/config"
    wait_for(lambda: phone.on(config), "the device is announced")
    parts = json.loads(phone.on(config)[0].payload)["components"]
    phone.send(parts["prompt"]["command_topic"], "a cat")
    phone.send(parts["generate"]["command_topic"], "PRESS 1732498273.25")
    wait_for(lambda: [job.request.prompt for job in house.service.jobs()] == ["a cat"], "the job")


def test_a_device_that_speaks_mqtt_5_is_told_what_to_set(amqtt, make_house, caplog):
    make_house(amqtt.port, wait=False)
    wait_for(lambda: "set mqtt.protocol to 3.1.1" in caplog.text, "the hint")
    asked = MqttSettings(enabled=True, host="127.0.0.1", port=amqtt.port)
    found = check_broker(asked)
    assert (found.state, "mqtt.protocol" in found.advice) == ("bad", True)
    assert check_broker(asked.model_copy(update={"protocol": "3.1.1"})).state == "ok"


def test_request_and_response_over_mqtt_5(rumqttd, make_house, make_phone):
    house, phone = make_house(rumqttd.port), make_phone(rumqttd.port)
    phone.follow("edgegen/answers")
    wish = {"ResponseTopic": "edgegen/answers", "CorrelationData": b"c1"}
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, **wish)
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    wait_for(lambda: any(b'"done"' in m.payload for m in phone.on("edgegen/answers")), "the answer")
    answer = phone.on("edgegen/answers")[0].properties
    assert (answer.CorrelationData, answer.ContentType) == (b"c1", "application/json")
    assert check_broker(MqttSettings(enabled=True, host="127.0.0.1", port=rumqttd.port)).state == "ok"


def test_a_session_of_mqtt_5_keeps_jobs_while_the_device_is_away(rumqttd, make_house, make_phone):
    make_house(rumqttd.port).close()
    phone = make_phone(rumqttd.port)
    phone.send(GENERATE, {"id": "meanwhile", "prompt": "a red apple"})
    again = make_house(rumqttd.port)
    wait_for(lambda: [job.id for job in again.service.jobs()] == ["meanwhile"], "the job arrives")


def test_a_fleet_shares_jobs_over_mqtt_5(rumqttd, make_house, make_phone):
    houses = [make_house(rumqttd.port, node=node, fleet=True) for node in ("left", "right")]
    phone = make_phone(rumqttd.port)
    sent = {f"f{number}" for number in range(10)}
    for job_id in sent:
        phone.send("edgegen/fleet/generate", {"id": job_id, "prompt": "a red apple"})
    done = lambda: sorted(job.id for house in houses for job in house.service.jobs())  # noqa: E731
    wait_for(lambda: done() == sorted(sent), "each job once")
    assert all(house.service.jobs() for house in houses)
