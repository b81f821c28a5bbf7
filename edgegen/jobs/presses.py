"""Presses of the device's own buttons, told to whoever wants to know: front ends never call each other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Press:
    """A finger on the button at a BCM pin: a press, or a hold that is none."""

    pin: int
    kind: Literal["press", "hold"]


PressListener = Callable[[Press], object]


class Presses:
    """Any thread may call any method; a listener runs on the button's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[PressListener] = []

    def subscribe(self, listener: PressListener) -> Callable[[], None]:
        """Have `listener(press)` called from now on; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def tell(self, press: Press) -> None:
        """A listener that fails harms neither the others nor the press itself."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener(press)
            except Exception:
                log.exception("a listener failed on the %s of GPIO%d", press.kind, press.pin)
