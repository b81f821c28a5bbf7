"""SIGTERM ends the front, whatever holds it up. Each case is a process with one thing in it made to hang."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegen.config.files import database_path, socket_path
from edgegen.settings import Settings
from tests.support import WAIT_S, wait_for

RUN = """
import sys, threading
from edgegen import daemon
from edgegen.settings import Settings
{change}
sys.exit(daemon.run_front(Settings.model_validate_json(sys.argv[1]), with_engine=False))
"""
HANGING_FRONT_ENDS = """
daemon.FrontEnds.close = lambda self: threading.Event().wait()
daemon.FRONT_ENDS_END_S = 0.2
"""
HANGING_THREAD = """
threading.Thread(target=threading.Event().wait).start()
daemon.END_WITHIN_S = 0.5
"""


@pytest.fixture
def settings() -> Iterator[Settings]:
    folder = Path(tempfile.mkdtemp(prefix="eg-", dir="/tmp"))  # a socket's path must stay short
    yield Settings.model_validate({"node": {"data_dir": folder / "data", "run_dir": folder / "run"}})
    shutil.rmtree(folder, ignore_errors=True)


def front(settings: Settings, change: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN.format(change=change), settings.model_dump_json()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def terminated(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and log."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=WAIT_S)
    return process.returncode, log


def test_a_stage_that_hangs_is_named_and_left(settings):
    process = front(settings, HANGING_FRONT_ENDS)
    wait_for(socket_path(settings.node).exists, "the front serves")
    code, log = terminated(process)
    assert code == 1
    assert "the front ends did not end within 0.2 s: left behind" in log
    assert not socket_path(settings.node).exists(), "the others ended"


def test_a_start_that_hangs_ends_and_says_where(settings):
    database = database_path(settings.node)
    database.parent.mkdir(parents=True)
    lock = database.with_name(f"{database.name}.lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = front(settings, "daemon.END_WITHIN_S = 0.5")
        wait_for(lambda: lock in open_files(process.pid), "it waits for the lock")
        code, log = terminated(process)
    assert code == 1
    assert "_opening_lock" in log, "where it stood"


def test_a_thread_that_never_ends_does_not_keep_the_process(settings):
    process = front(settings, HANGING_THREAD)
    wait_for(socket_path(settings.node).exists, "the front serves")
    code, log = terminated(process)
    assert code == 1
    assert "Timeout" in log and "_shutdown" in log


def open_files(pid: int) -> set[Path]:
    """What a process has open now."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(entry.readlink())
        except OSError:  # closed meanwhile
            continue
    return found
