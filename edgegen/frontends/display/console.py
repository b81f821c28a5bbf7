"""The kernel's text console behind the picture: its cursor and messages must not show through.

Only where standard input is a virtual terminal: the unit's is, a shell over SSH has none.
Source: ioctl_console(2) (KDGETMODE, KDSETMODE); drivers/tty/vt/vt.c tells readers of `active` of a switch.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

KDGETMODE, KDSETMODE = 0x4B3B, 0x4B3A
KD_TEXT, KD_GRAPHICS = 0, 1
ACTIVE = Path("/sys/class/tty/tty0/active")


class Console:
    """Puts a virtual terminal into graphics mode until `close`; does nothing for any other file.

    Attributes:
        name: `tty1`; empty for what is no virtual terminal.

    Args:
        fd: the terminal. on_switch: called, on a thread of ours, when somebody switched terminals.
        active: the file in which the kernel names the terminal in view.
    """

    def __init__(self, fd: int, on_switch: Callable[[], object], active: Path = ACTIVE):
        self._fd = fd
        self._on_switch = on_switch
        self._active = active
        self._before: int | None = None
        self.name = ""

    def open(self) -> None:
        """Never fails: without it pictures are shown all the same."""
        try:
            mode = struct.unpack("i", fcntl.ioctl(self._fd, KDGETMODE, struct.pack("i", 0)))[0]
        except (OSError, ValueError):
            return
        self.name = os.path.basename(os.ttyname(self._fd))  # noqa: PTH119 - a name, not a place
        try:
            fcntl.ioctl(self._fd, KDSETMODE, KD_GRAPHICS)
        except OSError as err:
            log.warning("%s stays a text console, its cursor may show: %s", self.name, err.strerror)
        else:
            self._before = mode
        threading.Thread(target=self._watch, name="console", daemon=True).start()

    @property
    def is_in_view(self) -> bool:
        """False while somebody looks at another terminal of this screen."""
        if not self.name:
            return True
        try:
            return self._active.read_text().strip() == self.name
        except OSError:
            return True

    def close(self) -> None:
        """The mode that was; safe to call twice."""
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, KDSETMODE, before)

    def _watch(self) -> None:
        """Asleep until the kernel says that the file has another content."""
        with contextlib.suppress(OSError), self._active.open() as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI | select.POLLERR)
            while True:
                file.seek(0)
                file.read()
                poll.poll()
                self._on_switch()
