"""An engine with a broken configuration waits for a whole one, and to systemd it is up."""

from __future__ import annotations

import socket
import threading

from edgegen.config.reload import ConfigSource
from edgegen.jobs.configwait import wait_for_settings
from edgegen.jobs.sdnotify import SystemdNotifier
from edgegen.jobs.wakeup import StopRequest, Wakeup


def test_it_waits_until_the_file_is_mended(tmp_path, caplog):
    config = tmp_path / "config.toml"
    config.write_text("[engine]\nthreads = -1\n")
    wakeup = Wakeup()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "n"))
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        got: list = []
        waiter = threading.Thread(
            target=lambda: got.append(
                wait_for_settings(ConfigSource(config), wakeup, StopRequest(wakeup), notifier, 0.05)
            )
        )
        waiter.start()
        said = manager.recv(4096).decode()
        assert said.startswith("READY=1\nSTATUS=waits, the configuration is broken: ")
        assert "threads" in said
        config.write_text("[engine]\nthreads = 1\n")
        waiter.join(60)
    assert got[0].engine.threads == 1
    assert caplog.text.count("the engine waits until the configuration is mended") == 1


def test_a_stop_ends_the_wait(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[engine\n")
    wakeup = Wakeup()
    stop = StopRequest(wakeup)
    threading.Timer(0.2, stop.ask).start()
    assert wait_for_settings(ConfigSource(config), wakeup, stop, look_every_s=60) is None
