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


def test_a_signal_that_another_thread_gets_ends_the_wait():
    """Else the main thread sleeps on until something else happens, and SIGTERM is as if it had not come."""
    wakeup = Wakeup()
    stop = StopRequest(wakeup)
    before = signal.getsignal(signal.SIGUSR2)
    sender = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR2))
    try:
        stop.install((signal.SIGUSR2,))
        sender.start()
        assert wakeup.wait(5)
        assert stop.is_asked
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_more_wake_ups_than_a_pipe_holds_are_one():
    wakeup = Wakeup()
    for _ in range(100_000):
        wakeup.wake()
    while wakeup.wait(0):
        pass
    assert not wakeup.wait(0)
