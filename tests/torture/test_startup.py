"""A device whose configuration was cut off or bit-flipped always starts: as it was, or in safe mode, where it
says over SSH what is wrong; mended it serves again. TORTURE_ROUNDS=100 for more, TORTURE_SEED for others."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgegen.config import trials
from edgegen.config.files import load_settings
from edgegen.errors import ConfigError
from edgegen.jobs.job import JobRequest
from edgegen.jobs.link import FrontError, ShellLink
from edgegen.jobs.queue import JobQueue
from tests.support import wait_for

from .damage import harm
from .rig import PATIENCE_S, ROOT

ROUNDS = int(os.environ.get("TORTURE_ROUNDS", "6"))
MAIN = """# the kiosk in the hall
[node]
name = "kiosk"

[limits]
side = 512   # the board is small

[mqtt]
enabled = true
host = "127.0.0.1"
port = 9
username = "pi"
"""
DROP_IN = '[gallery]\nmax_pictures = 500\n[prompts]\nblock = ["héron", "b"]\n'


class Box:
    """The front as its unit starts it: data and socket are named by systemd, not by the file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "etc/config.toml"
        self.drop_in = folder / "etc/conf.d/10-site.toml"
        self.drop_in.parent.mkdir(parents=True)
        self.log = folder / "log"
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EDGEGEN_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "EDGEGEN_NODE__DATA_DIR": str(folder / "data"),
            "EDGEGEN_NODE__RUN_DIR": str(folder / "run"),
        }
        self.write()

    def write(self) -> None:
        self.config.write_text(MAIN)
        self.drop_in.write_text(DROP_IN)
        trials.trial_file(self.config).unlink(missing_ok=True)

    def is_right(self) -> bool:
        try:
            load_settings(self.config, self.environ)
        except ConfigError as err:
            assert str(err), "a refusal says why"
            return False
        return True

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgegen", "--config", str(self.config), "run", "--front-only"]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stderr=log, env=self.environ, cwd=self.folder)

    def exit_code(self, front: subprocess.Popen[bytes]) -> int:
        """One that does not end in time says where each of its threads stands."""
        try:
            return front.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            front.send_signal(signal.SIGABRT)
            front.wait()
            pytest.fail(f"the front did not end in {PATIENCE_S:g} s: {self.log.read_text()[-6000:]}")

    def status(self) -> dict | None:
        try:
            with ShellLink(self.folder / "run/edgegen.sock", 10) as link:
                return link.ask("status")
        except FrontError:
            return None

    def wait_status(self, *, safe_mode: bool) -> dict:
        def is_so() -> bool:
            told = self.status()
            return told is not None and bool(told.get("safe_mode")) == safe_mode

        wanted = "safe mode" if safe_mode else "service"
        wait_for(is_so, f"{wanted}; {self.log.read_text()[-2000:]}", PATIENCE_S)
        return self.status() or {}


@pytest.fixture
def box():
    folder = Path(tempfile.mkdtemp(prefix="egt-", dir="/tmp"))  # a socket's path must stay short
    yield Box(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(1800)
def test_no_damage_to_the_configuration_bricks_the_device(box):
    rng = random.Random(int(os.environ.get("TORTURE_SEED", "7")))
    queue = JobQueue(box.folder / "data/edgegen.db")
    queue.enqueue(JobRequest("waits", "a red apple"))
    queue.close()
    began_safely = 0
    for round_ in range(ROUNDS):
        box.write()
        trials.begin(box.config, {box.config: MAIN.replace("512", "256")}, 600) if round_ % 3 == 2 else None
        harm((box.config, box.drop_in, trials.trial_file(box.config))[round_ % 3], rng)
        is_right = box.is_right()
        front = box.start()
        try:
            told = box.wait_status(safe_mode=not is_right)
            assert is_right or told["config"]["problems"], "it says what is wrong"
            assert told["jobs"]["queued"] == 1, "what waits stays"
            box.write()
            front.send_signal(signal.SIGHUP)
            mended = box.wait_status(safe_mode=False)
            assert not mended["config"].get("problems"), json.dumps(mended)
        finally:
            front.terminate()
        assert box.exit_code(front) == 0
        began_safely += not is_right
    assert 0 < began_safely < ROUNDS, "some damage is harmless, some is not"


def test_every_cut_of_the_file_is_read_or_refused(box):
    """Each of its ends, so that no lucky seed is needed."""
    whole, began = box.config.read_bytes(), time.monotonic()
    refused = 0
    for end in range(len(whole)):
        box.config.write_bytes(whole[:end])
        refused += not box.is_right()
    assert 10 < refused < len(whole)
    assert time.monotonic() - began < 60
