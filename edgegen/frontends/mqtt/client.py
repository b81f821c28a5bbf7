"""The paho client, set up: session, last will, credentials, TLS, and MQTT 5 properties."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ...config.credentials import MQTT_PASSWORD, credential, first_line
from ...config.tlsfiles import tls_context
from ...settings import MqttSettings
from .messages import Outgoing, picture_type

CONNECT_TIMEOUT_S = 5.0
RECEIVE_MAXIMUM = 20
FLEET_RECEIVE_MAXIMUM = 1  # a device that is slow to commit leaves the next job to the others


def make_client(settings: MqttSettings, client_id: str, will: Outgoing) -> paho.Client:
    """A client that knows where to connect and has not tried yet.

    Args:
        will: what the broker says when we vanish; its payload is bytes.
    Raises:
        ConfigError: the password's, CA's, certificate's or key's file cannot be used.
    """
    client = new_client(settings.protocol, client_id, keeps_session=True, manual_ack=True)
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.on_socket_open = send_at_once
    log_in_with(client, settings)
    assert isinstance(will.payload, bytes)
    client.will_set(will.topic, will.payload, will.qos, will.retain)
    where = (settings.host, settings.port, settings.keepalive_s)
    if speaks_5(client):
        # clean_start must be False: paho's default throws the session away at every start.
        client.connect_async(*where, clean_start=False, properties=_connect_properties(settings))
    else:
        client.connect_async(*where)
    return client


def new_client(
    protocol: str, client_id: str, keeps_session: bool = False, manual_ack: bool = False
) -> paho.Client:
    """A client of `mqtt.protocol`; in MQTT 5 its connect says, not this, what becomes of its session."""
    known = {"5": paho.MQTTv5, "3.1.1": paho.MQTTv311}
    return paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id,
        clean_session=None if protocol == "5" else not keeps_session,
        protocol=known[protocol],
        manual_ack=manual_ack,
    )


def log_in_with(client: paho.Client, settings: MqttSettings, password: str | None = None) -> None:
    """Who we are: user and password, and for TLS whom we trust and our certificate.

    Args:
        password: instead of the one in `mqtt.password_file`.
    Raises:
        ConfigError: a file cannot be used.
    """
    if settings.username:
        known = read_password(settings.password_file) if password is None else password
        client.username_pw_set(settings.username, known)
    if settings.tls:
        client.tls_set_context(tls_context(settings))


def speaks_5(client: paho.Client) -> bool:
    """Whether messages may have properties, and subscriptions options."""
    return bool(client.protocol == paho.MQTTv5)


def send_at_once(_client: paho.Client, _userdata: object, connection: object) -> None:
    """Small packets do not wait for the broker's delayed acknowledgement of earlier ones (40 ms on Linux)."""
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def confirm_at_once(connection: object) -> None:
    """Have the kernel confirm what it received now, not within 40 ms.

    A broker that does not set TCP_NODELAY (mosquitto's default) holds back its next small packet, a command,
    until its last one, an acknowledgement that we answer with nothing, is confirmed. Linux forgets the wish
    with the next packet that we send (tcp(7), TCP_QUICKACK), so it is repeated after every read.
    """
    if isinstance(connection, socket.socket) and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile, or no TCP
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def read_password(path: Path | None) -> str | None:
    """The first line of the password file, or of what systemd handed to this unit; None without either.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = path or credential(MQTT_PASSWORD)
    return None if path is None else first_line("mqtt.password_file", path)


def publish_properties(message: Outgoing, payload: bytes, expiry_s: int = 0) -> Properties:
    """MQTT 5 properties of a message: its type, whether it is text, whom it answers, how long it is news.

    Args:
        expiry_s: seconds that a message which expires may wait at the broker; 0: for ever.
    """
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = message.content_type or picture_type(payload)
    if message.content_type is not None:
        properties.PayloadFormatIndicator = 1  # UTF-8
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.expires and expiry_s:
        properties.MessageExpiryInterval = expiry_s
    return properties


def _connect_properties(settings: MqttSettings) -> Properties:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = FLEET_RECEIVE_MAXIMUM if settings.fleet else RECEIVE_MAXIMUM
    # Somewhat too large a command is refused with a reason; far too large never reaches our memory.
    properties.MaximumPacketSize = max(4 * settings.max_payload, 1 << 20)
    return properties
