"""Brokers of others that the contract runs over, beside mosquitto; `make test` sets them up in .venv/broker.

$EDGEGEN_BROKERS names another environment.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.support import WAIT_S, answers, free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = Path(os.environ.get("EDGEGEN_BROKERS") or ROOT / ".venv/broker")


class PipBroker:
    """One on a loopback port; it forgets everything when it ends."""

    protocol: ClassVar[str]
    config: ClassVar[str]
    package: ClassVar[str]
    suffix: ClassVar[str]
    command: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path):
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def is_installed(cls) -> bool:
        return any(ENVIRONMENT.glob(f"lib/python3*/site-packages/{cls.package}"))

    def start(self) -> None:
        config = self._folder / f"broker.{self.suffix}"
        config.write_text(self.config.format(port=self.port))
        command = [str(ENVIRONMENT / "bin" / self.command[0]), *self.command[1:], str(config)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: answers(self.port), f"{command} listens")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(WAIT_S)
        self._process = None


class Amqtt(PipBroker):
    """amqtt, in Python; MQTT 3.1.1 alone."""

    protocol = "3.1.1"
    package = "amqtt"
    suffix = "yaml"
    command = ("amqtt", "-c")
    config = """
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


class Rumqttd(PipBroker):
    """rumqttd, in Rust, as the wheel iotcore brings it; this listener speaks MQTT 5 alone."""

    protocol = "5"
    package = "iotcore"
    suffix = "toml"
    command = ("python", "-m", "iotcore", "--config")
    config = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 1048576
max_inflight_count = 100
"""
