"""What people are told of the connection to the broker, once per change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from paho.mqtt.reasoncodes import ReasonCode

from ...settings import MqttSettings
from .client import CONNECT_TIMEOUT_S
from .handshake import alert_of, why_unreachable
from .limits import Limits

log = logging.getLogger(__name__)

_LOGIN = "check mqtt.username and mqtt.password_file"
HINTS = {0x84: "set mqtt.protocol to 3.1.1", 0x86: _LOGIN, 0x87: _LOGIN}  # by reason code of a CONNACK
SESSION_TAKEN_OVER = 0x8E
SHORT_LIVES_ARE_A_CLASH = 3  # mosquitto before 2.0.12 does not say that a session was taken over
UNANSWERED = "hangs up before it answers"


class Complaints:
    """The log's lines about one broker.

    Args:
        is_muted: nothing more is said: we are leaving.
    """

    def __init__(self, settings: MqttSettings, is_muted: Callable[[], bool]):
        self._settings = settings
        self._where = f"{settings.host}:{settings.port}"
        self._is_muted = is_muted
        self._told: str | None = None
        self._told_limits: list[str] = []
        self._short_lives = 0

    def connected(self, limits: Limits) -> None:
        self._tell("connected", logging.INFO)
        self.limited(limits)

    def limited(self, limits: Limits) -> None:
        """It explains what people miss."""
        found = limits.consequences(self._settings)
        for what in found:
            if what not in self._told_limits:
                log.warning("MQTT broker %s: %s", self._where, what)
        self._told_limits = found

    def unreachable(self, err: OSError) -> None:
        self._tell(f"cannot be reached ({why_unreachable(err, self._settings, time.time())})")

    def refused(self, reason_code: ReasonCode) -> None:
        hint = HINTS.get(reason_code.value)
        self._tell(f"refuses us ({reason_code}){f': {hint}' if hint else ''}")

    def unanswered(self) -> None:
        """It hung up without a CONNACK."""
        if self._told and self._told.startswith(UNANSWERED):
            return
        if self._settings.tls and (alert := alert_of(self._settings, CONNECT_TIMEOUT_S)):
            self._tell(f"{UNANSWERED}: {alert}")
            return
        self._tell(
            f"{UNANSWERED}: is it an MQTT broker, does it want mqtt.tls? "
            "If it knows no MQTT 5, set mqtt.protocol to 3.1.1"
        )

    def lost(self, reason_code: ReasonCode, was_stable: bool) -> None:
        """A connection that had been made has ended, not by us."""
        self._short_lives = 0 if was_stable else self._short_lives + 1
        if reason_code.value == SESSION_TAKEN_OVER:
            self._tell("another client uses our client id: give every device its own node.name")
        elif self._short_lives >= SHORT_LIVES_ARE_A_CLASH:
            self._tell(
                "the connection is lost again and again soon after it was made; "
                "if another client uses our client id, give every device its own node.name"
            )
        else:
            self._tell(f"connection lost: {reason_code}")

    def forbidden(self, topic: str, reason_code: ReasonCode) -> None:
        log.error("broker %s does not let us read %s: %s", self._where, topic, reason_code)

    def not_taken(self, reason_code: ReasonCode) -> None:
        log.warning("broker %s did not take a message: %s", self._where, reason_code)

    def _tell(self, what: str, level: int = logging.WARNING) -> None:
        if what != self._told and not self._is_muted():
            self._told = what
            log.log(level, "MQTT broker %s: %s", self._where, what)
