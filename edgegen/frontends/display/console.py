"""The kernel's text console behind the picture: its cursor and messages must not show through.

Only where standard input is a virtual terminal: the unit's is, a shell over SSH has none.
Source: ioctl_console(2). A terminal in graphics mode that takes no part in switching (VT_PROCESS) cannot be
left any more, so whoever stands at the keyboard would be locked out.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import struct
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

KDGETMODE, KDSETMODE, KD_GRAPHICS = 0x4B3B, 0x4B3A, 1
VT_SETMODE, VT_GETSTATE, VT_RELDISP = 0x5602, 0x5603, 0x5605
VT_AUTO, VT_PROCESS = 0, 1
LET_GO, TAKEN = 1, 2  # of VT_RELDISP
LEAVE, COME = signal.SIGUSR1, signal.SIGUSR2  # what the kernel asks with


class Console:
    """Has a virtual terminal in graphics mode until `close`; does nothing for any other file.

    Main thread only. The kernel's questions wait for `attend`: nothing is drawn once a terminal is let go.

    Attributes:
        name: `tty1`; empty for what is no virtual terminal, or not ours to take.
        is_in_view: False while somebody looks at another terminal of this screen.

    Args:
        fd: the terminal. wake: called when there is something to `attend` to.
    """

    def __init__(self, fd: int, wake: Callable[[], object]):
        self._fd = fd
        self._wake = wake
        self._before: int | None = None
        self._asked: list[int] = []
        self._handlers: dict[int, Any] = {}
        self.name = ""
        self.is_in_view = True

    def open(self) -> None:
        """Never fails: without it pictures are shown all the same. Safe to call twice."""
        if self._before is not None or (before := self._mode()) is None:
            return
        name = os.path.basename(os.ttyname(self._fd))  # noqa: PTH119 - a name, not a place
        try:
            self._handlers = {number: signal.signal(number, self._ask) for number in (LEAVE, COME)}
            self._before = before
            self._switch_by(VT_PROCESS)
            fcntl.ioctl(self._fd, KDSETMODE, KD_GRAPHICS)
        except OSError as err:
            log.warning("%s stays a text console, its cursor may show: %s", name, err.strerror)
            self.close()
        else:
            self.name, self.is_in_view = name, self._is_active(name)

    def attend(self) -> None:
        """Between two drawings: let the terminal go, or take it, as the kernel has asked."""
        while self._asked:
            self.is_in_view = self._asked.pop(0) == COME
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, VT_RELDISP, TAKEN if self.is_in_view else LET_GO)

    def close(self) -> None:
        """The mode that was; safe to call twice."""
        before, self._before = self._before, None
        if before is None:
            return
        self.attend()
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, KDSETMODE, before)
            self._switch_by(VT_AUTO)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN)  # discards one that is on its way, whose default is the end
            signal.signal(number, handler)
        self.name, self.is_in_view = "", True

    def _mode(self) -> int | None:
        try:
            return int(struct.unpack("i", fcntl.ioctl(self._fd, KDGETMODE, struct.pack("i", 0)))[0])
        except (OSError, ValueError):
            return None

    def _switch_by(self, mode: int) -> None:
        fcntl.ioctl(self._fd, VT_SETMODE, struct.pack("bbhhh", mode, 0, LEAVE, COME, 0))

    def _is_active(self, name: str) -> bool:
        state = struct.unpack("HHH", fcntl.ioctl(self._fd, VT_GETSTATE, bytes(6)))
        return name == f"tty{state[0]}"

    def _ask(self, number: int, frame: object) -> None:  # noqa: ARG002 - signal's signature
        self._asked.append(number)
        self._wake()
