"""Devices in folders with short names: a socket's path may have 107 bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.frontends.mqtt.conftest import Phone
from tests.support import Broker

from .device import ENGINE, LIMITS, Appliance, Box


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="eg-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_appliance(folder: Path) -> Iterator[Callable[..., Appliance]]:
    made: list[Appliance] = []

    def make(**sections) -> Appliance:
        made.append(Appliance(folder, **sections))
        return made[-1]

    yield make
    for appliance in made:
        appliance.close()


@pytest.fixture
def box(folder: Path) -> Iterator[Box]:
    made = Box(folder)
    yield made
    made.close()


@pytest.fixture
def phone(broker: Broker) -> Iterator[Phone]:
    """Somebody else on the broker, with MQTT 3.1.1."""
    made = Phone(broker.port, paho.MQTTv311)
    yield made
    made.close()


@pytest.fixture
def make_kiosk(make_appliance: Callable[..., Appliance], broker: Broker) -> Callable[..., Appliance]:
    """A device `kiosk` that draws with the tiny pack and speaks with the broker."""

    def make(mqtt: dict[str, Any], **engine: Any) -> Appliance:
        there = {"enabled": True, "host": "127.0.0.1", "port": broker.port}
        return make_appliance(
            engine={**ENGINE, **engine}, limits=LIMITS, mqtt={**there, **mqtt}, node={"name": "kiosk"}
        )

    return make
