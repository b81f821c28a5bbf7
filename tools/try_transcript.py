"""A transcript of `edgegen config try` rolling back by itself, with a real daemon and a real broker.

.venv/dev/bin/python tools/try_transcript.py > transcript.md

Every command runs as it is shown, each in a session of its own on a pseudo terminal, as sshd gives one to
whoever logs in. Where it says that the connection drops, the terminal's other end is closed: that is what
sshd does then, and the kernel sends SIGHUP.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import Broker, wait_for  # noqa: E402

PATIENCE_S = 60.0
CONFIG = """[node]
name = "lobby"
data_dir = "{folder}/data"
run_dir = "{folder}/run"

[engine]
pack = "tiny"
pack_dirs = ["{packs}"]

[limits]
side = 1024      # the wall is small

[mqtt]
enabled = true
host = "127.0.0.1"
port = {port}
home_assistant = false
"""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Shell:
    """Runs `edgegen ...` and prints what a person at the terminal saw, folder names made short."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._environ = {**os.environ, "EDGEGEN_CONFIG": str(folder / "config.toml"), "COLUMNS": "100"}
        self._began = time.monotonic()

    def run(self, line: str, drops_at: str | None = None) -> str:
        """One command on a terminal of its own.

        Args:
            drops_at: the connection drops as soon as this was read there.
        """
        self.say(f"$ {line}")
        process, master = self._start(shlex.split(line))
        seen = read(master, drops_at)
        os.close(master)
        code = process.wait(PATIENCE_S)
        said = self._shown(seen)
        print(said.rstrip("\n"))
        if drops_at:
            self.say(f"(the connection drops here; the command ended with {code}: SIGHUP)")
        elif code:
            self.say(f"(exit code {code})")
        return said

    def _start(self, words: list[str]) -> tuple[subprocess.Popen[bytes], int]:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", *words] if words[0] == "edgegen" else words
        process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environ,
            cwd=self._folder,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        return process, master

    def _shown(self, seen: bytes) -> str:
        text = _COLOURS.sub("", seen.decode("utf-8", "replace"))
        return text.replace(str(ROOT / "tests/packs"), "/usr/share/edgegen/packs").replace(
            str(self._folder), "/etc/edgegen"
        )

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:5.1f} s] {text}", flush=True)

    def log_since(self, start: int) -> str:
        return self._shown((self._folder / "log").read_bytes()[start:])


def take_terminal() -> None:
    """In the child: a session of its own, led by it, on the terminal that is its standard input."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read(master: int, until: str | None) -> bytes:
    """All that comes, or as far as `until`."""
    seen, give_up = b"", time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(master, 4096)
        except OSError:  # the last one on the other side is gone
            return seen
        seen += data
        if not data or (until and until.encode() in seen):
            return seen
    raise TimeoutError(f"within {PATIENCE_S:g} s only {seen!r} came")


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[None]:
    environ = {**os.environ, "EDGEGEN_CONFIG": str(folder / "config.toml")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "edgegen", "run"], env=environ, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def play(shell: Shell, folder: Path) -> None:
    wait_for(lambda: "connected" in shell.log_since(0), "the daemon is connected", PATIENCE_S)
    shell.run("edgegen config get limits.side")
    before = (folder / "log").stat().st_size
    shell.run("edgegen config try --timeout 20 limits.side=512", drops_at="again")
    shell.run("edgegen config get limits.side")
    shell.run("edgegen status")
    shell.say("(nobody confirms)")
    wait_for(lambda: "rolled back" in shell.log_since(before), "it rolls back by itself", PATIENCE_S)
    shell.run("edgegen config get limits.side")
    shell.say("what the daemon said meanwhile:")
    print(shell.log_since(before).rstrip())
    print()
    shell.run("edgegen config try mqtt.port=1")
    shell.run("edgegen config get mqtt.port")
    shell.run("edgegen config try limits.side=512")
    shell.run("edgegen config confirm")
    shell.run("edgegen config get limits.side")
    shell.run("edgegen config rollback")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="egtry-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "broker").mkdir()
        broker = Broker(folder / "broker")
        broker.start()
        config = CONFIG.format(folder=folder, packs=ROOT / "tests/packs", port=broker.port)
        (folder / "config.toml").write_text(config)
        try:
            with daemon(folder):
                play(Shell(folder), folder)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
