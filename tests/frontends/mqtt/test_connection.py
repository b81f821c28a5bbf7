"""Brokers go and come back; nothing is lost."""

import json
import logging
import socket
import subprocess

import pytest

from edgegen.errors import ConfigError
from edgegen.frontends.mqtt.client import read_password
from edgegen.jobs.job import JobRequest
from tests.certificates import needs_openssl
from tests.frontends.mqtt.conftest import PICTURE
from tests.support import free_port, wait_for

GENERATE = "edgegen/shop/generate"
AVAILABILITY = "edgegen/shop/availability"


def test_the_last_will_speaks_when_the_device_vanishes(house, phone):
    phone.wait_message(AVAILABILITY, b"online")
    house.frontend._connection._client.socket().shutdown(socket.SHUT_RDWR)
    phone.wait_message(AVAILABILITY, b"offline")
    wait_for(lambda: phone.on(AVAILABILITY)[-1].payload == b"online", "online again")


def test_closing_says_offline_and_twice_is_fine(house, phone):
    phone.wait_message(AVAILABILITY, b"online")
    house.frontend.close()
    phone.wait_message(AVAILABILITY, b"offline")
    house.frontend.close()


@pytest.mark.parametrize("kill", [True, False])
def test_a_broker_that_comes_back_is_found_again(broker, house, phone, make_phone, kill):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    broker.stop(kill=kill)
    wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
    house.run_next()  # finished while the broker is away
    broker.start()
    phone.wait_status(id="a1", state="done")
    late = make_phone(broker.port)
    late.wait_message(AVAILABILITY, b"online")
    late.wait_message("edgegen/shop/last/image", PICTURE)
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    phone.wait_status(id="a2", state="queued")


def test_results_wait_in_the_database_for_the_broker(broker, make_house, make_phone):
    """The front ends while results wait; the next one tells them, each once, the newest picture only."""
    first = make_house(broker.port)
    broker.stop()
    wait_for(lambda: not first.frontend.is_connected, "the loss is noticed")
    for job_id in ("a1", "a2", "a3"):
        first.service.submit(JobRequest(id=job_id, prompt="a red apple", response_topic="edgegen/answers"))
        first.run_next()
    first.close()
    broker.start()
    phone = make_phone(broker.port)
    second = make_house(broker.port)
    phone.wait_message("edgegen/shop/last/image", PICTURE)
    assert [status["id"] for status in phone.statuses(state="done")] == ["a1", "a2", "a3"]
    assert len(phone.on("edgegen/answers")) == 3
    assert {json.loads(m.payload)["id"] for m in phone.on("edgegen/shop/last/meta")} == {"a3"}
    assert len(phone.on("edgegen/shop/last/image")) == 1
    wait_for(lambda: second.service.status()["outbox"]["waiting"] == 0, "the outbox is empty")


def test_the_last_picture_of_an_earlier_process_is_republished(broker, make_house, make_phone):
    first = make_house(broker.port)
    first.service.submit(JobRequest(id="a1", prompt="a red apple"))
    first.run_next()
    wait_for(lambda: first.service.status()["outbox"]["waiting"] == 0, "the broker has it")
    first.close()
    phone = make_phone(broker.port)
    phone.wait_message("edgegen/shop/last/image", PICTURE)
    make_house(broker.port)
    wait_for(lambda: len(phone.on("edgegen/shop/last/image")) == 2, "it is sent again")
    assert [m.retain for m in phone.on("edgegen/shop/last/image")] == [True, False]


def test_many_statuses_survive_an_absent_broker(broker, house, phone):
    broker.stop()
    wait_for(lambda: not house.frontend.is_connected, "the loss is noticed")
    for n in range(60):
        house.service.submit(JobRequest(id=f"j{n}", prompt="a red apple"))
    broker.start()
    wait_for(lambda: len(phone.statuses(state="queued")) >= 60, "all statuses arrive")
    assert {s["id"] for s in phone.statuses(state="queued")} == {f"j{n}" for n in range(60)}


def test_a_job_sent_while_we_were_away_arrives(broker, make_house, make_phone):
    first = make_house(broker.port)
    first.close()
    phone = make_phone(broker.port)
    phone.send(GENERATE, {"id": "meanwhile", "prompt": "a red apple"})
    broker.stop()
    broker.start()
    second = make_house(broker.port)
    wait_for(lambda: [j.id for j in second.service.jobs()] == ["meanwhile"], "the job arrives")


def test_a_broker_absent_at_start_is_waited_for_and_named_once(tmp_path, make_broker, make_house, caplog):
    caplog.set_level(logging.INFO)
    broker = make_broker()
    broker.stop()
    house = make_house(broker.port, wait=False)
    wait_for(lambda: caplog.text.count("cannot be reached") == 1, "the absence is logged")
    attempts = house.frontend._connection
    wait_for(lambda: attempts._client._last_mid == 0 and not house.frontend.is_connected, "still trying")
    broker.start()
    house.wait_connected()
    assert caplog.text.count("cannot be reached") == 1
    assert caplog.text.count("connected") == 1


def test_wrong_password_is_named_and_a_right_one_works(tmp_path, make_broker, make_house, caplog):
    passwords = tmp_path / "passwd"
    passwords.touch()
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "shop", "right"], check=True)
    broker = make_broker(f"password_file {passwords}\nallow_anonymous false")
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    house = make_house(broker.port, wait=False, username="shop", password_file=secret)
    wait_for(lambda: "refuses us" in caplog.text, "the refusal is logged")
    assert "mqtt.password_file" in caplog.text
    assert not house.frontend.is_connected
    house.close()
    secret.write_text("right\nnot this line")
    make_house(broker.port, username="shop", password_file=secret)


@needs_openssl
def test_tls_trusts_the_ca_file_and_nobody_else(authority, make_broker, make_house, caplog):
    issued = authority.issue("tls-broker", address="127.0.0.1")
    broker = make_broker(f"certfile {issued.cert}\nkeyfile {issued.key}")
    house = make_house(broker.port, wait=False, tls=True, ca_file=issued.cert)
    wait_for(lambda: f"is of no CA in {issued.cert}" in caplog.text, "a stranger is not trusted")
    house.close()
    make_house(broker.port, tls=True, ca_file=authority.cert)


def test_two_devices_of_one_name_are_told(broker, make_house, caplog):
    make_house(broker.port)
    make_house(broker.port, wait=False)
    wait_for(lambda: "uses our client id" in caplog.text, "the clash is named")
    assert "node.name" in caplog.text


def test_a_missing_password_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"mqtt\.password_file"):
        read_password(tmp_path / "nowhere")


def test_a_missing_ca_file_is_a_config_error(tmp_path, make_house):
    with pytest.raises(ConfigError, match=r"mqtt\.ca_file"):
        make_house(free_port(), tls=True, ca_file=tmp_path / "nowhere.pem")


def test_a_password_may_come_as_a_systemd_credential(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password(None) is None
    (tmp_path / "edgegen.mqtt-password").write_text("secret\n")
    assert read_password(None) == "secret"


def test_small_packets_are_sent_at_once(house):
    connected = house.frontend._connection._client.socket()
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
