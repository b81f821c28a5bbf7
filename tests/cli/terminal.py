"""A person at a terminal: a program on a real pty, what it shows, and what is typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

ROWS, COLUMNS = 24, 80
PATIENCE_S = 60.0


class Terminal:
    """80 columns, 24 rows. Attributes: screen: everything shown so far."""

    def __init__(self, command: Sequence[str], cwd: Path, environ: dict[str, str]):
        self._here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=there, stdout=there, stderr=there, cwd=cwd, env=environ,
            start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(there)
        self.screen = ""
        self._seen = 0

    def wait_for(self, text: str) -> str:
        """What was shown since the last wait, up to and with `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.screen[self._seen :]:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.screen}"
            assert self._read(0.2) or self.process.poll() is None, f"ended without {text!r}:\n{self.screen}"
        end = self.screen.index(text, self._seen) + len(text)
        part, self._seen = self.screen[self._seen : end], end
        return part

    def answer(self, question: str, line: str) -> str:
        """Type a line when the question is there; returns what stood before it."""
        shown = self.wait_for(question)
        self.type(line + "\n")
        return shown

    def type(self, keys: str) -> None:
        os.write(self._here, keys.encode())

    def end(self) -> int:
        """The exit code, when the program has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(0.2) or self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end:\n{self.screen}"
        return self.process.wait(1)

    def interrupt(self) -> int:
        """Ctrl-C until it ends (one that comes while readline prepares is seen with the next key)."""
        while self.process.poll() is None:
            self.type("\x03")
            patience = time.monotonic() + 5  # a second one on the way out would be rude
            while time.monotonic() < patience and self.process.poll() is None:
                self._read(0.1)
        return self.end()

    def hang_up(self) -> int:
        """The connection breaks; the program's exit code."""
        os.close(self._here)
        self._here = -1
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._here >= 0:
            os.close(self._here)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._here], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._here, 65536)
        except OSError:  # the last one there has closed it
            return False
        self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
