"""One MQTT 5 session that comes back by itself.

paho's own loop thread ends on any escaped exception and retries without jitter, so we run its
`loop()` on a thread of ours. A second thread sends what waits in the outbox: never between a
reconnect's socket and its CONNACK, when paho would let a PUBLISH overtake the CONNECT.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ...settings import MqttSettings
from .backoff import backoff_s
from .client import (
    CONNECT_TIMEOUT_S,
    RECEIVE_MAXIMUM,
    confirm_at_once,
    make_client,
    publish_properties,
    speaks_5,
)
from .complaints import Complaints
from .limits import BrokerLimits, Limits
from .messages import Outgoing
from .outbox import Outbox

log = logging.getLogger(__name__)

FAREWELL_TIMEOUT_S = 3.0
STABLE_AFTER_S = 10.0
PACKET_TOO_LARGE = 0x95
FRUITLESS_LIVES_CHOKE = 4
SUSPECT_BYTES = 2048  # of a payload: statuses are smaller
TOGETHER = RECEIVE_MAXIMUM  # without acknowledgements the broker sends no more


class Connection:
    """A persistent session at the broker: subscriptions, a last will, and an outbox that outlives it.

    Args:
        topics: subscribed at QoS 1 on every CONNACK; with retained messages flagged as such.
        unwanted: unsubscribed before that: a session of an earlier configuration may still hold them.
        will: what the broker says when we vanish.
        on_messages: gets what came together, in order, on our network thread; acknowledges by `acknowledge`.
        on_up: called whenever connected and subscribed, before anything of the outbox is sent; `limits` says
            by then what this broker takes.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        topics: tuple[str, ...],
        will: Outgoing,
        outbox: Outbox,
        on_messages: Callable[[list[paho.MQTTMessage]], object],
        on_up: Callable[[], object],
        rng: random.Random,
        unwanted: tuple[str, ...] = (),
    ):
        self._topics = self._subscribed = topics
        self._unwanted = unwanted
        self._expiry_s = settings.status_expiry_s
        self._outbox = outbox
        self._on_messages = on_messages
        self._arrived: list[paho.MQTTMessage] = []
        self._on_up = on_up
        self._rng = rng
        self._settings = settings
        self._closing = threading.Event()
        self._complaints = Complaints(settings, self._closing.is_set)
        self._publishing = threading.Lock()
        self._up_since: float | None = None
        self._is_answered = False
        self._redeliver_at: float | None = None
        self._broker = BrokerLimits()
        self._sent_under = self._broker.current
        self._starts_anew = self._has_learned = self._is_fruitful = False
        self._fruitless_lives = 0
        self._client_id, self._will = client_id, will
        self._client = make_client(settings, client_id, will)
        self._attach()
        self._threads = [
            threading.Thread(target=self._network_loop, name="mqtt-network", daemon=True),
            threading.Thread(target=self._sender_loop, name="mqtt-sender", daemon=True),
        ]

    @property
    def is_up(self) -> bool:
        return self._outbox.is_open

    @property
    def limits(self) -> Limits:
        """What the broker takes, as far as it told."""
        return self._broker.current

    def start(self) -> None:
        """Begin trying; returns at once, broker or no broker."""
        for thread in self._threads:
            thread.start()

    def close(self, farewell: Outgoing) -> None:
        """Send what waits and the farewell, as far as a few seconds allow, then hang up."""
        if self._closing.is_set():
            return
        if self.is_up:
            self._outbox.put(farewell)
            self._outbox.drain(FAREWELL_TIMEOUT_S)
        self._closing.set()
        self._client.disconnect()
        self._outbox.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(CONNECT_TIMEOUT_S + 1)

    def acknowledge(self, message: paho.MQTTMessage) -> None:
        """PUBACK. Only from within `on_messages`, so it always belongs to the connection it came by."""
        self._client.ack(message.mid, message.qos)

    def ask_redelivery(self, delay_s: float) -> None:
        """Reconnect after a while: the broker then sends again what was left unacknowledged."""
        if self._redeliver_at is None:
            self._redeliver_at = time.monotonic() + delay_s

    def _attach(self) -> None:
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_pre_connect = self._on_pre_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        # With this set, publish() on another thread only queues: all socket writes stay on ours.
        client.on_socket_register_write = _do_nothing

    # The network thread

    def _network_loop(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            self._up_since, self._is_answered = None, False
            try:
                self._prepare()
                self._client.reconnect()
                self._serve()
            except OSError as err:
                self._complaints.unreachable(err)
            except Exception:  # a malformed packet or a bug must not end the thread
                log.exception("MQTT connection to %s failed", self._settings.host)
            self._outbox.shut()
            if self._was_stable():
                attempt = 0
            elif not self._has_learned:
                attempt += 1
            self._closing.wait(backoff_s(attempt, self._rng))

    def _prepare(self) -> None:
        """A will that the broker takes, and anew what was under way to one that took more."""
        self._has_learned = False
        if self._starts_anew:
            self._starts_anew = False
            self._outbox.take_back()
            self._client = make_client(self._settings, self._client_id, self._will)
            self._attach()
        will = self.limits.adapt(self._will)
        assert isinstance(will.payload, bytes)
        self._client.will_set(will.topic, will.payload, will.qos, will.retain)

    def _serve(self) -> None:
        """Until the connection ends, by us or by others."""
        self._arrived = []  # of an earlier connection: the broker sends them again
        while self._read(timeout_s=1.0):
            self._hand_over()
            self._send_waiting()
            if self._closing.is_set() or self._is_redelivery_due():
                self._client.disconnect()
        self._arrived = [message for message in self._arrived if message.qos == 0]  # will not come again
        self._hand_over()
        if self._is_redelivery_due():
            self._redeliver_at = None

    def _read(self, timeout_s: float) -> bool:
        """What comes next, and what has come with it; False when the connection has ended."""
        before = 0
        while self._client.loop(timeout_s) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            confirm_at_once(self._client.socket())
            count = len(self._arrived)
            if count == before or count >= TOGETHER:
                return True
            before, timeout_s = count, 0.0
        return False

    def _hand_over(self) -> None:
        messages, self._arrived = self._arrived, []
        if not messages:
            return
        try:
            self._on_messages(messages)
        except Exception:
            log.exception("%d MQTT messages not handled; left unacknowledged", len(messages))

    def _send_waiting(self) -> None:
        """What the messages made to be said goes out before the next ones are read: to store those may take
        long, and the other thread would first have to get the interpreter."""
        while self._send_next():
            pass

    def _is_redelivery_due(self) -> bool:
        return self._redeliver_at is not None and time.monotonic() >= self._redeliver_at

    def _was_stable(self) -> bool:
        return self._up_since is not None and time.monotonic() - self._up_since >= STABLE_AFTER_S

    def _on_pre_connect(self, _client: paho.Client, _userdata: object) -> None:
        with self._publishing:
            self._outbox.shut()

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._is_answered = True
        try:
            if reason_code.is_failure:
                self._heed_refusal(reason_code)
                return
            self._up_since = time.monotonic()
            self._is_fruitful = False
            limits = self._broker.hear(properties)
            self._complaints.connected(limits)
            if self._outbox.has_in_flight and limits.is_stricter_than(self._sent_under):
                # paho would send again what this broker hangs up on
                self._starts_anew = self._has_learned = True
                client.disconnect()
                return
            self._sent_under = limits
            self._subscribe(client, limits)
        except Exception:
            log.exception("MQTT: after CONNACK")

    def _heed_refusal(self, reason_code: ReasonCode) -> None:
        """Next time we ask for what it can, if it is that."""
        if self._broker.learn(reason_code.value):
            self._has_learned = True
            self._complaints.limited(self.limits)
        else:
            self._complaints.refused(reason_code)

    def _subscribe(self, client: paho.Client, limits: Limits) -> None:
        if self._unwanted:
            client.unsubscribe(list(self._unwanted))
        self._subscribed, qos = limits.subscribable(self._topics), min(1, limits.max_qos)
        if not speaks_5(client):
            client.subscribe([(topic, qos) for topic in self._subscribed])
            return
        # retainAsPublished: a command sent with the retain flag shows it, and is refused.
        options = SubscribeOptions(
            qos=qos, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
        )
        client.subscribe([(topic, options) for topic in self._subscribed])

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _mid: int,
        reason_codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        """Only now commands reach us, so only now we say that we are online."""
        try:
            for topic, code in zip(self._subscribed, reason_codes, strict=False):
                if code.is_failure:
                    self._complaints.forbidden(topic, code)
            self._on_up()
            self._outbox.open(self.limits.receive_maximum)
        except Exception:
            log.exception("MQTT: after SUBACK")

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._outbox.shut()
        if not self._is_answered:
            self._complaints.unanswered()
        if self._broker.learn(reason_code.value) or self._chokes(reason_code):
            self._complaints.limited(self.limits)
            self._starts_anew = self._has_learned = True  # paho would send again what it hung up on
        if self._starts_anew or self._closing.is_set() or self._up_since is None or self._is_redelivery_due():
            return
        self._complaints.lost(reason_code, self._was_stable())

    def _chokes(self, reason_code: ReasonCode) -> bool:
        """Whether it seems to hang up on something large, as one of MQTT 3.1.1 does without a word: it did so
        again and again before it acknowledged anything. Then we take half of that for what it takes."""
        largest = self._outbox.largest_in_flight_bytes()
        is_fruitless = self._up_since is not None and not self._is_fruitful and largest >= SUSPECT_BYTES
        self._fruitless_lives = self._fruitless_lives + 1 if is_fruitless else 0
        if largest < SUSPECT_BYTES or self._closing.is_set():
            return False
        if reason_code.value != PACKET_TOO_LARGE and self._fruitless_lives < FRUITLESS_LIVES_CHOKE:
            return False
        self._fruitless_lives = 0
        self._broker.learn_size(largest // 2)
        return True

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self._arrived.append(message)

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        mid: int,
        reason_code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._is_fruitful = True
        self._outbox.acknowledged(mid)
        if reason_code.is_failure:
            self._complaints.not_taken(reason_code)

    # The sender thread

    def _sender_loop(self) -> None:
        while self._outbox.wait():
            self._send_next()

    def _send_next(self) -> bool:
        """Hand one message to paho; False when none may be sent now. Any thread."""
        with self._publishing:
            message = self._outbox.pop()
            if message is not None:
                self._send(message)
        return message is not None

    def _send(self, message: Outgoing) -> None:
        mid, size, allowed = None, 0, self._sent_under.adapt(message)
        try:
            payload = message.payload() if callable(message.payload) else message.payload
            if payload is not None:
                size, info = len(payload), self._publish(allowed, payload)
                mid = info.mid if info and message.qos else None
        except Exception:
            log.exception("MQTT message for %s could not be sent", message.topic)
        finally:
            self._outbox.sent(mid, is_kept=allowed.qos > 0, payload_bytes=size)

    def _publish(self, message: Outgoing, payload: bytes) -> paho.MQTTMessageInfo | None:
        """None for what the broker would hang up on."""
        properties = publish_properties(message, payload, self._expiry_s) if speaks_5(self._client) else None
        beside = len(properties.pack()) if properties else 0
        if not self._sent_under.fits(message.topic, len(payload), beside):
            log.warning(
                "%s: a message of %d bytes is not sent, the broker takes packets of at most %d bytes",
                message.topic,
                len(payload),
                self._sent_under.max_packet_bytes,
            )
            return None
        return self._client.publish(message.topic, payload, message.qos, message.retain, properties)


def _do_nothing(*_args: object) -> None:
    pass
