"""Files of the broker's login: handed to the unit by systemd (LoadCredential=), or named by settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError, Problem
from ..settings import MqttSettings

MQTT_PASSWORD = "edgegen.mqtt-password"
MQTT_KEY = "edgegen.mqtt-key"
MQTT_KEY_PASSWORD = "edgegen.mqtt-key-password"
STORE = Path("/etc/credstore")  # where the unit's come from; root's shells look there themselves
LOGIN_FILES = (
    *("mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file", "mqtt.key_password_file"),
    "mqtt.password_file",
)
Stamp = tuple[int, int, int]


def credential(name: str, environ: Mapping[str, str] | None = None, store: Path = STORE) -> Path | None:
    """The file of a credential that was handed to this unit, or that root may read; None without one."""
    handed = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
    path = Path(handed or store, name)
    try:
        return path if path.exists() else None
    except OSError:  # a store that is not ours to see
        return None


def first_line(key: str, path: Path) -> str:
    """The secret in a file of one line.

    Args:
        key: the setting that names the file, for the error.
    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        lines = path.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError([Problem(key, str(path), f"{path} cannot be read: {reason(err)}")]) from err
    return lines[0] if lines else ""


def reason(err: Exception) -> str:
    """Why a file could not be read, in few words."""
    return getattr(err, "strerror", None) or str(err)


def login_stamps(mqtt: MqttSettings) -> dict[str, Stamp | None]:
    """By which one sees that a file was replaced or written to, whatever its name; None: there is none."""
    paths = {key: getattr(mqtt, key.partition(".")[2]) for key in LOGIN_FILES}
    return {key: stamp(path.expanduser()) for key, path in paths.items() if path}


def stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
