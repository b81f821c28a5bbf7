"""systemd's datagrams on real sockets."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from edgegen.jobs.sdnotify import SystemdNotifier


@pytest.fixture(params=["path", "abstract"])
def manager(request):
    with (
        tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        name = f"{folder}/notify"
        listener.settimeout(30)
        listener.bind(f"\0{name}" if request.param == "abstract" else name)
        yield listener, f"@{name}" if request.param == "abstract" else name


def test_states(manager):
    listener, address = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    assert notifier.watchdog_s == 1.5
    notifier.ready("2 jobs\nwait")
    notifier.status("idle")
    notifier.alive()
    notifier.stopping()
    said = [listener.recv(4096).decode() for _ in range(4)]
    assert said == ["READY=1\nSTATUS=2 jobs wait", "STATUS=idle", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    "address", ["", "relative", "/nowhere/at/all", "@nobody-listens-here", "/" + "x" * 300]
)
def test_without_a_manager_nothing_happens(address):
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.alive()
    assert notifier.watchdog_s is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_this_process(environ, expected):
    assert SystemdNotifier(environ).watchdog_s == expected


def test_defaults_to_the_environment(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    SystemdNotifier().ready(str(Path()))


def test_the_watchdog_is_told_how_long_a_silence_to_allow(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "n"))
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "600000000"})
        notifier.expect(1200)
        assert manager.recv(100) == b"WATCHDOG_USEC=1200000000"
        assert notifier.watchdog_s == 600
    unwatched = SystemdNotifier({})
    unwatched.expect(1200)
    assert unwatched.watchdog_s is None
