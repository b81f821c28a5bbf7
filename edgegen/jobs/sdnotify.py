"""Tells systemd how we are, over the datagram socket it names in $NOTIFY_SOCKET. Elsewhere: nothing.

Source: sd_notify(3). A name that begins with @ is in the abstract namespace.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class SystemdNotifier:
    """Sends states to the service manager; does nothing without one, and never raises.

    Attributes:
        watchdog_s: send `alive` at least this often (half of WatchdogSec); None when nobody watches.
    """

    def __init__(self, environ: Mapping[str, str] | None = None):
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environ)

    def ready(self, status: str = "") -> None:
        self._send("READY=1", status)

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send("", status)

    def alive(self) -> None:
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def expect(self, longest_s: float) -> None:
        """Let the watchdog of this unit allow so long a silence, whatever the unit's file says."""
        if self.watchdog_s is not None:
            self.watchdog_s = longest_s / 2
            self._send(f"WATCHDOG_USEC={int(longest_s * 1e6)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, state: str, status: str = "") -> None:
        if not self._address.startswith(("/", "@")):
            return
        line = f"STATUS={' '.join(status.split())}" if status else ""
        text = "\n".join(part for part in (state, line) if part)
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1)
                sender.sendto(text.encode(), address)
        except OSError as err:
            log.warning("systemd was not told %s: %s", text, err)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of the time that systemd allows between two signs of life of this very process."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 2e6
