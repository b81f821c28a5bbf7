"""What really went over a device's connection, packet by packet: the evidence for who repeated what.

Knows as much of MQTT 5 as that takes: PUBLISH and PUBACK (5.0, 3.3 and 3.4).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

PUBLISH, PUBACK = 3, 4


@dataclass(frozen=True)
class Packet:
    """One that came through whole.

    Attributes:
        connection: which one, counted from 1.
        from_device: else the broker sent it.
        mid: packet id; 0 for QoS 0.
    """

    connection: int
    from_device: bool
    kind: int
    mid: int
    is_dup: bool = False
    topic: str = ""
    payload: bytes = b""


@dataclass(frozen=True)
class Retold:
    """How often the device published final statuses again.

    Attributes:
        ours: unasked. answers: to a command that came again, from its sender or from the broker.
        told: all publishes, by job id.
    """

    ours: int
    answers: int
    told: Counter[str]


class Wiretap:
    """Listens to all connections of one device. Any thread."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.connections = 0
        self._lock = threading.Lock()

    def connection(self) -> tuple[Stream, Stream]:
        """For the bytes from the device, and for those from the broker."""
        with self._lock:
            self.connections += 1
            return Stream(self, self.connections, True), Stream(self, self.connections, False)

    def is_answered(self, after: int) -> bool:
        """Whether the broker has acknowledged something on a connection after the first `after` ones."""
        return any(p.connection > after and p.kind == PUBACK for p in self.packets if not p.from_device)

    def published(self) -> Iterator[Packet]:
        return (p for p in self.packets if p.kind == PUBLISH)

    def retold(self, states: tuple[str, ...]) -> Retold:
        """Who is at the root of statuses in one of these states that the device published again.

        A command that comes once more after its job's end was told is answered once more; what is told again
        without one is the device's own doing, a packet that paho sends again after a cut included.
        """
        told: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        ours = answers = 0
        for packet in self.published():
            if not packet.from_device and packet.topic.endswith("/generate"):
                job_id = json.loads(packet.payload)["id"]
                asked[job_id] += bool(told[job_id])
            elif packet.from_device and packet.topic.endswith("/status"):
                status = json.loads(packet.payload)
                if (job_id := status["id"]) and status["state"] in states:
                    is_answer = bool(told[job_id] and asked[job_id])
                    ours += bool(told[job_id]) and not is_answer
                    answers += is_answer
                    asked[job_id] -= is_answer
                    told[job_id] += 1
        return Retold(ours, answers, told)


class Stream:
    """The bytes of one direction; whole packets are noted."""

    def __init__(self, tap: Wiretap, connection: int, from_device: bool):
        self._tap = tap
        self._connection = connection
        self._from_device = from_device
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data
        while (size := packet_size(self._bytes)) and len(self._bytes) >= size:
            packet = bytes(self._bytes[:size])
            del self._bytes[:size]
            if packet[0] >> 4 in (PUBLISH, PUBACK):
                self._tap.packets.append(self._read(packet))

    def _read(self, packet: bytes) -> Packet:
        kind, flags = packet[0] >> 4, packet[0] & 0x0F
        at = read_varint(packet, 1)[1]
        if kind == PUBACK:
            return Packet(self._connection, self._from_device, kind, int.from_bytes(packet[at : at + 2]))
        end = at + 2 + int.from_bytes(packet[at : at + 2])
        topic, mid = packet[at + 2 : end].decode(), 0
        if flags & 0b0110:
            mid, end = int.from_bytes(packet[end : end + 2]), end + 2
        properties, end = read_varint(packet, end)
        is_dup = bool(flags & 0b1000)
        return Packet(
            self._connection, self._from_device, kind, mid, is_dup, topic, packet[end + properties :]
        )


def packet_size(data: bytes | bytearray) -> int | None:
    """Of the packet that begins there, header included; None: too little came to tell."""
    try:
        length, at = read_varint(data, 1)
    except IndexError:
        return None
    return at + length


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """MQTT's variable byte integer, and where it ends (5.0, 1.5.5). Raises IndexError when it is cut off."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
