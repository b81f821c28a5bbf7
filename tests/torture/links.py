"""The broker restarts, is killed, and the link to it is cut in the middle of packets, under load."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import replace

from edgegen.frontends.mqtt.connection import STABLE_AFTER_S
from tests.support import Broker, wait_for

from .rig import FINAL, PATIENCE_S, Rig, make_rig, pause
from .tally import Row
from .wiretap import Stream, Wiretap

FEW_BLOWS = 5
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that sends RST and forgets what was on its way


class Link:
    """A relay on a loopback port that can be cut, and is listened to."""

    def __init__(self, target_port: int, tap: Wiretap | None = None):
        self._tap = tap or Wiretap()
        self._target = ("127.0.0.1", target_port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
        self._open = []

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target, timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open += [near, far]
                device, other = self._tap.connection()
                for ends in ((near, far, device), (far, near, other)):
                    threading.Thread(target=relay, args=ends, daemon=True).start()


def relay(source: socket.socket, sink: socket.socket, stream: Stream) -> None:
    """Bytes in small pieces, so that a cut falls into the middle of a packet; noted when they are through."""
    with contextlib.suppress(OSError):
        while data := source.recv(700):
            sink.sendall(data)
            stream.feed(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.close()


def run(seed: int, jobs: int = 200, blows: int = 20) -> Row:
    """A killed broker forgets what it had taken: the sender asks again, and is answered again.

    Every blow falls on a connection that is made and busy. Where there are many, each connection first lives
    long enough to count as stable, or the device would wait longer and longer before it tries again.
    """
    rng = random.Random(seed)
    tap = Wiretap()
    with make_rig() as (direct, broker), contextlib.closing(Link(broker.port, tap)) as link:
        direct.sender.close()
        rig = Rig(direct.log.parent, broker.port, link.port)
        with contextlib.closing(rig):
            rig.start()
            rig.wait_online()
            share, ended = -(-jobs // (blows + 1)), 0
            for first in range(0, jobs, share):
                wait_answered(tap, ended, rig)
                if blows > FEW_BLOWS:
                    pause(rng, STABLE_AFTER_S, STABLE_AFTER_S + 1)
                for number in range(first, min(jobs, first + share)):
                    rig.sender.send(f"b{number}", steps=rng.randint(1, 8))
                pause(rng, 0.0, 1.0)
                if first + share < jobs:
                    rig.crashes, ended = rig.crashes + 1, tap.connections
                    strike(rng, link, broker)
            rig.wait_ends(ask_every_s=15)
            return told_apart(rig.row("broker restarts, cut links", seed), tap, rig.sender.ends())


def wait_answered(tap: Wiretap, ended: int, rig: Rig) -> None:
    """Until the broker answers on a connection after the first `ended` ones."""
    wait_for(lambda: tap.is_answered(ended), rig.told("the broker answers"), PATIENCE_S)


def strike(rng: random.Random, link: Link, broker: Broker) -> None:
    match rng.choice(("cut", "cut", "restart", "kill")):
        case "cut":
            link.cut()
        case how:
            broker.stop(kill=how == "kill")
            pause(rng, 0.0, 1.0)
            broker.start()


def told_apart(row: Row, tap: Wiretap, heard: Counter[str]) -> Row:
    """Who repeated what: by the packets, for a killed broker delivers again what it had delivered."""
    retold = tap.retold(FINAL)
    by_broker = sum((heard - retold.told).values())
    return replace(row, repeated=retold.ours, answered_again=retold.answers, by_broker=by_broker)
