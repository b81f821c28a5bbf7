"""Messages that wait for the broker, in order, bounded, none of QoS 1 sent or dropped unnoticed.

paho would queue too, but on a reconnect it sends all it holds at once, over the broker's
Receive Maximum, and the broker hangs up. So paho gets a few at a time and the rest waits here.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import count

from .messages import Outgoing

log = logging.getLogger(__name__)
WINDOW = 20  # as many as we take: a slow disk that lets few cycles pass a second then holds no answers back
CAPACITY = 4096


class Outbox:
    """One thread takes messages out (`wait`, `pop`, `sent`); any thread puts them in.

    Nothing here calls into paho, so its locks and ours never wait for each other.
    """

    def __init__(self, capacity: int = CAPACITY):
        self._capacity = capacity
        self._changed = threading.Condition()
        self._waiting: OrderedDict[object, Outgoing] = OrderedDict()
        self._ticket = count()
        self._in_flight: dict[int, Outgoing] = {}
        self._bytes: dict[int, int] = {}
        self._unkept: set[int] = set()  # in flight, and nobody sends them again but we
        self._early: set[int] = set()
        self._popped: Outgoing | None = None
        self._window = WINDOW
        self._is_sending = self._is_open = self._is_closed = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    def put(self, message: Outgoing, first: bool = False) -> None:
        """Queue a message; QoS 0 is dropped while the broker is away."""
        with self._changed:
            if message.qos == 0 and not self._is_open:
                return
            key: object = message.slot or next(self._ticket)
            self._waiting.pop(key, None)
            self._waiting[key] = message
            if first:
                self._waiting.move_to_end(key, last=False)
            if len(self._waiting) > self._capacity:
                self._drop_oldest()
            self._changed.notify_all()

    def open(self, receive_maximum: int = WINDOW) -> None:
        """The broker is there and takes `receive_maximum` unacknowledged messages."""
        with self._changed:
            self._window = max(1, min(WINDOW, receive_maximum))
            self._is_open = True
            self._changed.notify_all()

    def shut(self) -> None:
        """The broker is away: keep what must arrive, forget the rest."""
        with self._changed:
            self._is_open = False
            self._put_back(self._unkept)
            for key in [key for key, message in self._waiting.items() if message.qos == 0]:
                del self._waiting[key]
            self._changed.notify_all()

    def take_back(self) -> bool:
        """Have all that is in flight wait again, for a client that starts anew; whether there was any."""
        with self._changed:
            was_any = bool(self._in_flight)
            self._put_back(self._in_flight)
            return was_any

    @property
    def has_in_flight(self) -> bool:
        return bool(self._in_flight)

    def largest_in_flight_bytes(self) -> int:
        """Of the payloads that are in flight; 0 without any."""
        with self._changed:
            return max((self._bytes.get(mid, 0) for mid in self._in_flight), default=0)

    def close(self) -> None:
        """Wake the sender for the last time."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Block until a message may be sent; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._may_send())
            return not self._is_closed

    def pop(self) -> Outgoing | None:
        """The next message; None when the broker went away meanwhile. `sent` must follow."""
        with self._changed:
            if not self._may_send():
                return None
            self._is_sending = True
            self._popped = self._waiting.popitem(last=False)[1]
            return self._popped

    def sent(self, mid: int | None, is_kept: bool = True, payload_bytes: int = 0) -> None:
        """The popped message is with paho as `mid`, or is done with (None).

        Args:
            is_kept: paho sends it again after a reconnect. Else, of QoS 0 for want of better, it waits here
                again unless it was written to the connection.
        """
        with self._changed:
            message, self._popped = self._popped, None
            if mid is not None and mid not in self._early and message is not None:
                self._in_flight[mid], self._bytes[mid] = message, payload_bytes
                if not is_kept:
                    self._unkept.add(mid)
                message = None
            self._early.clear()
            self._is_sending = False
            self._changed.notify_all()
        _tell_owner(message)

    def acknowledged(self, mid: int) -> None:
        """The broker has it; this may come before `sent` does."""
        with self._changed:
            message = self._in_flight.pop(mid, None)
            self._unkept.discard(mid)
            self._bytes.pop(mid, None)
            if message is None and self._is_sending:
                self._early.add(mid)
            self._changed.notify_all()
        _tell_owner(message)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is with the broker; False when it is not in time or the broker is away."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._is_empty(), timeout_s)
            return self._is_empty()

    def _put_back(self, mids: Iterable[int]) -> None:
        """Before all that waits, in their order; one whose place a newer one took is done with."""
        for mid in sorted(mids, key=list(self._in_flight).index, reverse=True):
            message = self._in_flight.pop(mid)
            self._bytes.pop(mid, None)
            key: object = message.slot or next(self._ticket)
            if key not in self._waiting:
                self._waiting[key] = message
                self._waiting.move_to_end(key, last=False)
        self._unkept &= self._in_flight.keys()

    def _drop_oldest(self) -> None:
        """What says least goes first; never what somebody waits for, or the newest of a retained topic."""
        loose = [key for key, message in self._waiting.items() if not (message.retain or message.on_sent)]
        key = next((key for key in loose if self._waiting[key].is_intermediate), next(iter(loose), None))
        if key is not None:
            dropped = self._waiting.pop(key)
            log.error("more than %d messages wait: dropped the one for %s", self._capacity, dropped.topic)

    def _may_send(self) -> bool:
        return self._is_open and bool(self._waiting) and len(self._in_flight) < self._window

    def _is_empty(self) -> bool:
        return not (self._waiting or self._in_flight or self._is_sending)


def _tell_owner(message: Outgoing | None) -> None:
    """Outside our lock, for the owner may put the next message in."""
    if message is not None and message.on_sent is not None:
        message.on_sent()
