"""What a broker can, and messages that keep to it. Pure.

A broker of MQTT 5 says in its CONNACK what it does not take (5.0, 3.2.2.3), and refuses a CONNECT whose will
asks for more (3.2.2.2). One of 3.1.1 says nothing: it hangs up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...settings import MqttSettings
from .messages import Outgoing

RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED, SHARES_NOT_SUPPORTED = 0x9A, 0x9B, 0x9E
LARGEST_QOS, MOST_UNACKNOWLEDGED = 2, 65_535  # where a CONNACK is silent
SHARED = "$share/"
_HEADER_BYTES = 5 + 2 + 2 + 4  # type and length, length of the topic, packet id, length of the properties
_PROPERTY_BYTES = 64  # a picture's: its content type, an expiry


@dataclass(frozen=True)
class Limits:
    """What one broker takes.

    Attributes:
        max_qos: 0 to 2. retains: whether it keeps retained messages. shares: knows shared subscriptions.
        max_packet_bytes: of a whole packet; None: as much as MQTT allows.
        receive_maximum: messages of QoS 1 that may be unacknowledged.
    """

    max_qos: int = LARGEST_QOS
    retains: bool = True
    shares: bool = True
    max_packet_bytes: int | None = None
    receive_maximum: int = MOST_UNACKNOWLEDGED

    def adapt(self, message: Outgoing) -> Outgoing:
        """The message with no more retain and QoS than the broker takes; the same one where it takes all."""
        if message.qos <= self.max_qos and message.retain <= self.retains:
            return message
        qos, retain = min(message.qos, self.max_qos), message.retain and self.retains
        return replace(message, qos=qos, retain=retain)

    def subscribable(self, topics: tuple[str, ...]) -> tuple[str, ...]:
        """Those that may be subscribed to: to ask for another one ends the connection."""
        return tuple(topic for topic in topics if self.shares or not topic.startswith(SHARED))

    def fits(self, topic: str, payload_bytes: int, property_bytes: int = 0) -> bool:
        """Whether a PUBLISH of that size may be sent."""
        size = _HEADER_BYTES + len(topic.encode()) + property_bytes + payload_bytes
        return self.max_packet_bytes is None or size <= self.max_packet_bytes

    def room_bytes(self, topic: str) -> int | None:
        """The largest picture that may be sent to a topic; None: any."""
        if self.max_packet_bytes is None:
            return None
        return max(0, self.max_packet_bytes - _HEADER_BYTES - _PROPERTY_BYTES - len(topic.encode()))

    def is_stricter_than(self, other: Limits) -> bool:
        """Whether what the other one took may be too much here."""
        return (
            self.max_qos < other.max_qos
            or self.retains < other.retains
            or (self.max_packet_bytes or _ENDLESS) < (other.max_packet_bytes or _ENDLESS)
        )

    def consequences(self, mqtt: MqttSettings) -> list[str]:
        """For people: what is missing of what the settings ask for, and what that means."""
        found = []
        if not self.retains:
            found.append("keeps no retained messages: who subscribes later sees no last picture")
        if self.max_qos == 0:
            found.append("takes QoS 0 only: what is under way when a connection ends is lost, commands too")
        if (size := self.max_packet_bytes or _ENDLESS) < mqtt.image_max_bytes:
            found.append(f"takes packets of at most {size} bytes: larger pictures are scaled down")
        if mqtt.fleet and not self.shares:
            found.append("knows no shared subscriptions: no jobs of the fleet come this way")
        return found


_ENDLESS = 1 << 62
UNLIMITED = Limits()


class BrokerLimits:
    """What is known of a broker, over its connections.

    A CONNACK says all of it, silence included, so a broker that was set up anew is believed at once. What a
    refusal taught stays until a CONNACK speaks of the same thing: there are brokers that only refuse.
    """

    def __init__(self) -> None:
        self._said = self._taught = UNLIMITED

    @property
    def current(self) -> Limits:
        said, taught = self._said, self._taught
        sizes = [limits.max_packet_bytes for limits in (said, taught) if limits.max_packet_bytes]
        return replace(
            said,
            max_qos=min(said.max_qos, taught.max_qos),
            retains=said.retains and taught.retains,
            shares=said.shares and taught.shares,
            max_packet_bytes=min(sizes, default=None),
        )

    def hear(self, connack: Any) -> Limits:
        """Take over what an accepting CONNACK's properties say (None: of MQTT 3.1.1)."""
        told = {
            "max_qos": getattr(connack, "MaximumQoS", None),
            "retains": getattr(connack, "RetainAvailable", None),
            "shares": getattr(connack, "SharedSubscriptionAvailable", None),
            "max_packet_bytes": getattr(connack, "MaximumPacketSize", None),
            "receive_maximum": getattr(connack, "ReceiveMaximum", None),
        }
        said: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
        said |= {key: bool(said[key]) for key in ("retains", "shares") if key in said}
        self._said = Limits(**said)
        open_to_speech = {key: getattr(UNLIMITED, key) for key in said}
        self._taught = replace(self._taught, **open_to_speech)
        return self.current

    def learn_size(self, max_packet_bytes: int) -> None:
        """It hung up on something larger."""
        self._taught = replace(self._taught, max_packet_bytes=max_packet_bytes)

    def learn(self, reason_code: int) -> bool:
        """Draw a lesson from why it refused or hung up; False when there is none, or none that is new."""
        before = self.current
        if reason_code == RETAIN_NOT_SUPPORTED:
            self._taught = replace(self._taught, retains=False)
        elif reason_code == QOS_NOT_SUPPORTED:
            self._taught = replace(self._taught, max_qos=0)  # we never send more than 1
        elif reason_code == SHARES_NOT_SUPPORTED:
            self._taught = replace(self._taught, shares=False)
        return self.current != before
