from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgegen.errors import StorageError
from edgegen.frontends.mqtt import MqttFrontend, Surroundings
from edgegen.jobs.job import Job, JobRequest
from edgegen.jobs.outbox import OutboxReader, ResultOutbox
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.service import JobService
from edgegen.settings import LimitSettings, MqttSettings
from tests.support import WAIT_S, Broker, wait_for

NOTHING_AROUND = Surroundings()
PICTURE = b"RIFF\x10\x00\x00\x00WEBPVP8 and so on"


class FlakyQueue(JobQueue):
    """The real queue on a disk that is full for as long as a test says."""

    is_disk_full = False
    commit_s = 0.0  # a slow card
    batches: ClassVar[list[int]] = []

    def enqueue_all(self, requests: Sequence[JobRequest]):
        time.sleep(self.commit_s)
        self.batches.append(len(requests))
        if self.is_disk_full:
            raise StorageError("edgegen.db: the disk is full: free some space")
        return super().enqueue_all(requests)


class Phone:
    """Somebody else's MQTT client: sends commands, remembers what it hears."""

    def __init__(self, port: int, protocol: int = paho.MQTTv5):
        self.heard: list[paho.MQTTMessage] = []
        self._ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._topics = ["edgegen/#"]
        self.client.on_connect = lambda *_: self.client.subscribe([(topic, 1) for topic in self._topics])
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = lambda _client, _userdata, message: self.heard.append(message)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(WAIT_S), "the phone could not subscribe"

    def follow(self, topic: str) -> None:
        """Listen there too, over reconnects as well."""
        self._topics.append(topic)
        self.client.subscribe(topic, 1)

    def send(self, topic: str, payload: Any, retain: bool = False, qos: int = 1, **properties: Any) -> None:
        """Publish (a dictionary as JSON) and wait until the broker has it."""
        props = None
        if properties:
            props = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(props, name, value)
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        self.client.publish(topic, data, qos, retain, props).wait_for_publish(WAIT_S)

    def on(self, topic: str) -> list[paho.MQTTMessage]:
        return [message for message in list(self.heard) if message.topic == topic]

    def statuses(self, **wanted: Any) -> list[dict[str, Any]]:
        """Every status object heard on job topics that has these values."""
        found = [json.loads(m.payload) for m in list(self.heard) if m.topic.endswith("/status")]
        return [status for status in found if wanted.items() <= status.items()]

    def wait_status(self, **wanted: Any) -> dict[str, Any]:
        wait_for(lambda: self.statuses(**wanted), f"a status with {wanted}; heard {self.statuses()}")
        return self.statuses(**wanted)[0]

    def wait_message(self, topic: str, payload: bytes) -> paho.MQTTMessage:
        wait_for(lambda: any(m.payload == payload for m in self.on(topic)), f"{payload!r} on {topic}")
        return next(m for m in self.on(topic) if m.payload == payload)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class House:
    """A device: a real queue and service behind the MQTT front end, the engine played by the test."""

    def __init__(
        self, folder: Path, port: int, node: str = "shop", around: Surroundings = NOTHING_AROUND, **mqtt: Any
    ):
        self.folder = folder
        settings = MqttSettings(enabled=True, host="127.0.0.1", port=port, keepalive_s=5, **mqtt)
        FlakyQueue.batches.clear()
        self.queue = FlakyQueue(folder / "edgegen.db", outbox=ResultOutbox(settings))
        self.service = JobService(self.queue)
        self.picture: bytes | None = PICTURE
        self.temperature: float | None = 51.5
        self.frontend = MqttFrontend(
            settings,
            node,
            self.service,
            LimitSettings(),
            self._read_picture,
            OutboxReader(self.queue.database),
            lambda: self.temperature,
            around,
            redelivery_delay_s=0.2,
        )
        self.frontend.start()

    def _read_picture(self, job: Job) -> bytes | None:
        return self.picture

    def wait_connected(self) -> None:
        wait_for(lambda: self.frontend.is_connected, "connected to the broker")

    def run_next(self, steps: int = 3) -> Job:
        """Be the engine for one job."""
        job = self.queue.claim()
        assert job is not None
        for step in range(steps + 1):
            self.service.report_step(job.id, step, steps)
        self.queue.finish(job, picture=f"{job.id}.png", seed=5, seconds=1.25)
        self.service.announce_finished()
        return job

    def close(self) -> None:
        self.frontend.close()
        self.queue.close()


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(port: int, wait: bool = True, node: str = "shop", **mqtt: Any) -> House:
        houses.append(House(tmp_path / node, port, node, **mqtt))
        if wait:
            houses[-1].wait_connected()
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def make_phone() -> Iterator[Callable[..., Phone]]:
    phones: list[Phone] = []

    def make(port: int, protocol: int = paho.MQTTv5) -> Phone:
        phones.append(Phone(port, protocol))
        return phones[-1]

    yield make
    for phone in phones:
        phone.close()


@pytest.fixture
def house(broker: Broker, make_house: Callable[..., House]) -> House:
    return make_house(broker.port)


@pytest.fixture
def phone(broker: Broker, house: House, make_phone: Callable[..., Phone]) -> Phone:
    return make_phone(broker.port)
