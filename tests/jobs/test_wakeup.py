"""Waits that threads and signals end."""

from __future__ import annotations

import os
import signal
import threading

from edgegen.jobs.wakeup import StopRequest, Wakeup


def test_wake_before_and_during_the_wait():
    wakeup = Wakeup()
    assert not wakeup.wait(0)
    wakeup.wake()
    wakeup.wake()
    assert wakeup.wait(60)
    assert not wakeup.wait(0)
    threading.Timer(0.05, wakeup.wake).start()
    assert wakeup.wait(60)


def test_the_first_signal_asks_and_the_second_is_itself_again():
    wakeup = Wakeup()
    stop = StopRequest(wakeup)
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        stop.install((signal.SIGUSR2,))
        os.kill(os.getpid(), signal.SIGUSR2)
        assert wakeup.wait(60)
        assert stop.is_asked
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
