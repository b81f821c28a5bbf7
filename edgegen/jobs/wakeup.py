"""Waits that cost nothing and that signal handlers may end."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable


class Wakeup:
    """One thread waits, any thread or signal handler wakes it; a wake-up before the wait counts.

    `threading.Event` will not do: setting it from a signal handler can lock up with its own `wait`.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wake(self) -> None:
        """Ends the wait going on, or the next one."""
        os.eventfd_write(self._fd, 1)

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when somebody woke us, False when the time was over."""
        ready = self._poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000)
        if ready:
            os.eventfd_read(self._fd)
        return bool(ready)


class StopRequest:
    """Set by SIGTERM, SIGINT or `ask`; wakes its waiter.

    The first signal asks; the handlers then go back to what they were, so that a second one ends a
    process that hangs.
    """

    def __init__(self, wakeup: Wakeup):
        self._wakeup = wakeup
        self.is_asked = False

    def ask(self) -> None:
        self.is_asked = True
        self._wakeup.wake()

    def install(self, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Main thread only."""
        before = {number: signal.getsignal(number) for number in signals}

        def handle(number: int, frame: object) -> None:  # noqa: ARG001 - signal's signature
            for known, handler in before.items():
                signal.signal(known, handler)
            self.ask()

        for number in before:
            signal.signal(number, handle)


class ReloadRequest:
    """Set by SIGHUP; wakes its waiter."""

    def __init__(self, wakeup: Wakeup):
        self._wakeup = wakeup
        self._is_asked = False

    def install(self) -> None:
        """Main thread only."""
        signal.signal(signal.SIGHUP, lambda *_: self.ask())

    def ask(self) -> None:
        self._is_asked = True
        self._wakeup.wake()

    def take(self) -> bool:
        """Whether it was asked for since the last time."""
        was_asked, self._is_asked = self._is_asked, False
        return was_asked
