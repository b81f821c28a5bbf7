"""The contract over a second broker, which knows MQTT 3.1.1 alone: amqtt, in Python.

`make test` sets it up in .venv/broker; $EDGEGEN_AMQTT names another one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from edgegen.cli.services import check_broker
from edgegen.settings import MqttSettings
from tests.frontends.mqtt.conftest import PICTURE
from tests.support import WAIT_S, answers, free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
AMQTT = Path(os.environ.get("EDGEGEN_AMQTT") or ROOT / ".venv/broker/bin/amqtt")
GENERATE, AVAILABILITY = "edgegen/shop/generate", "edgegen/shop/availability"
CONFIG = """
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""

pytestmark = pytest.mark.skipif(not AMQTT.exists(), reason=f"no {AMQTT}: `make test` sets it up")


class Amqtt:
    """amqtt on a loopback port; it forgets everything when it ends."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "amqtt.yaml"
        config.write_text(CONFIG.format(port=self.port))
        with (self._folder / "amqtt.log").open("ab") as log:
            self._process = subprocess.Popen([str(AMQTT), "-c", str(config)], stdout=log, stderr=log)
        wait_for(lambda: answers(self.port), "amqtt listens")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(WAIT_S)
        self._process = None


@pytest.fixture
def amqtt(tmp_path):
    broker = Amqtt(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def house(amqtt, make_house):
    return make_house(amqtt.port, protocol="3.1.1")


@pytest.fixture
def phone(amqtt, house, make_phone):
    return make_phone(amqtt.port, paho.MQTTv311)


def test_a_prompt_becomes_a_job_and_a_retained_picture(amqtt, house, phone, make_phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple", "transaction": "t9"})
    assert phone.wait_status(id="a1", state="queued")["transaction"] == "t9"
    house.run_next()
    assert phone.wait_status(id="a1", state="done")["seed"] == 5
    phone.send(GENERATE, b'{"id": "bad", "steps": "many"}')
    assert phone.wait_status(id="bad", state="rejected")["code"] == "bad_request"
    phone.send(GENERATE, {"id": "a1", "prompt": "again"})
    wait_for(lambda: len(phone.statuses(id="a1", state="done")) == 2, "a redelivery gets its result")
    late = make_phone(amqtt.port, paho.MQTTv311)
    assert late.wait_message("edgegen/shop/last/image", PICTURE).retain
    assert json.loads(late.on("edgegen/shop/last/meta")[0].payload)["id"] == "a1"
    assert late.wait_message(AVAILABILITY, b"online").retain


def test_the_last_will_speaks_and_the_device_comes_back(house, phone):
    phone.wait_message(AVAILABILITY, b"online")
    house.frontend._connection._client.socket().shutdown(socket.SHUT_RDWR)
    phone.wait_message(AVAILABILITY, b"offline")
    wait_for(lambda: phone.on(AVAILABILITY)[-1].payload == b"online", "online again")


def test_a_broker_that_lost_its_memory_gets_everything_back(amqtt, house, phone, make_phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    amqtt.stop()
    wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
    house.run_next()  # finished while the broker is away
    amqtt.start()
    late = make_phone(amqtt.port, paho.MQTTv311)
    late.wait_message(AVAILABILITY, b"online")
    late.wait_message("edgegen/shop/last/image", PICTURE)
    late.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    late.wait_status(id="a2", state="queued")


def test_home_assistant_over_3_1_1(house, phone):
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
