"""Waits that cost nothing and that signal handlers may end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
from collections.abc import Iterable


class Wakeup:
    """One thread waits, any thread or signal handler wakes it; a wake-up before the wait counts.

    `threading.Event` will not do: setting it from a signal handler can lock up with its own `wait`.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)

    def wake(self) -> None:
        """Ends the wait going on, or the next one."""
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            os.write(self._write, b"\0")

    def heed_signals(self) -> None:
        """Have every handled signal wake us; main thread only.

        A handler in Python runs when the main thread next runs Python. A signal that the kernel gives to
        another thread, or that comes just before `wait` begins to sleep, would else not end its sleep.
        """
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when somebody woke us, False when the time was over."""
        ready = self._poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000)
        if ready:
            os.read(self._read, 4096)
        return bool(ready)


class StopRequest:
    """Set by SIGTERM, SIGINT or `ask`; wakes its waiter.

    The first signal asks; the handlers then go back to what they were, so that a second one ends a
    process that hangs.

    Args:
        end_within_s: a process that still lives so long after the signal says where each of its threads
            stands, and ends; None: nobody watches.
    """

    def __init__(self, wakeup: Wakeup, end_within_s: float | None = None):
        self._wakeup = wakeup
        self._end_within_s = end_within_s
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
            self._watch_the_end()
            self.ask()

        self._wakeup.heed_signals()
        for number in before:
            signal.signal(number, handle)

    def _watch_the_end(self) -> None:
        """By a thread without Python: whatever holds up this process does not hold up that."""
        if self._end_within_s is not None and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(self._end_within_s, exit=True, file=sys.__stderr__)


class ReloadRequest:
    """Set by SIGHUP; wakes its waiter."""

    def __init__(self, wakeup: Wakeup):
        self._wakeup = wakeup
        self._is_asked = False

    def install(self) -> None:
        """Main thread only."""
        self._wakeup.heed_signals()
        signal.signal(signal.SIGHUP, lambda *_: self.ask())

    def ask(self) -> None:
        self._is_asked = True
        self._wakeup.wake()

    def take(self) -> bool:
        """Whether it was asked for since the last time."""
        was_asked, self._is_asked = self._is_asked, False
        return was_asked
