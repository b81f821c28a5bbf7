"""The front as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegen.daemon import FrontEnds
from edgegen.jobs.link import FrontError, ShellLink
from edgegen.settings import Settings

from .jobs.test_hub import PATIENCE_S, eventually

RUN = """
import sys
from edgegen.daemon import run_front
from edgegen.settings import Settings
code = run_front(Settings.model_validate_json(sys.argv[1]), with_engine=sys.argv[2] == "True")
heavy = {"numpy", "PIL", "onnxruntime", "torch"} & set(sys.modules)
print("heavy:", sorted(heavy))
sys.exit(code)
"""


class Appliance:
    """A front in a process, its folder, and a shell to talk to it."""

    def __init__(self, folder: Path, **sections):
        self.settings = Settings.model_validate(
            {"node": {"data_dir": folder / "data", "run_dir": folder / "run"}, **sections}
        )
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "log"

    def start(self, with_engine: bool) -> None:
        arguments = (self.settings.model_dump_json(), str(with_engine))
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.ask("status"))
        except FrontError:
            return False

    def ask(self, question: str, **fields) -> dict:
        with ShellLink(self.settings.node.run_dir / "edgegen.sock", PATIENCE_S) as shell:
            return shell.ask(question, **fields)

    def submit(self, prompt: str = "a red apple", **fields) -> dict:
        return self.ask("submit", request={"prompt": prompt, **fields})["job"]

    def stop(self, with_signal: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it printed."""
        assert self.process is not None
        self.process.send_signal(with_signal)
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, printed


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="eg-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_appliance(folder):
    made: list[Appliance] = []

    def make(**sections) -> Appliance:
        made.append(Appliance(folder, **sections))
        return made[-1]

    yield make
    for appliance in made:
        if appliance.process and appliance.process.poll() is None:
            appliance.process.kill()
            appliance.process.wait()


def test_the_front_stays_light_and_stops_cleanly(make_appliance):
    appliance = make_appliance()
    appliance.start(with_engine=False)
    assert appliance.submit(id="a")["state"] == "queued"
    mapped = Path(f"/proc/{appliance.process.pid}/maps").read_text()
    assert not [name for name in ("numpy", "onnxruntime", "PIL") if f"/{name}/" in mapped]
    code, printed = appliance.stop()
    assert (code, printed) == (0, "heavy: []\n"), appliance.log.read_text()
    assert not (appliance.settings.node.run_dir / "edgegen.sock").exists()


def test_a_restart_loses_nothing(make_appliance):
    appliance = make_appliance()
    appliance.start(with_engine=False)
    appliance.submit(id="a")
    appliance.process.kill()
    appliance.process.wait()
    appliance.start(with_engine=False)
    assert appliance.ask("status")["jobs"]["queued"] == 1
    assert appliance.ask("cancel", id="a")["job"]["state"] == "cancelled"
    assert appliance.stop(signal.SIGINT)[0] == 0


def test_a_second_front_is_refused(make_appliance):
    first, second = make_appliance(), make_appliance()
    first.start(with_engine=False)
    with pytest.raises(AssertionError, match="another `edgegen run` serves it"):
        second.start(with_engine=False)
        second.process.wait(PATIENCE_S)
        second._answers()
    assert first.ask("status")


def test_systemd_hears_that_we_are_ready(make_appliance, folder, monkeypatch):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        appliance = make_appliance()
        appliance.start(with_engine=False)
        said = [manager.recv(4096).decode() for _ in range(3)]
        assert said[0].startswith("READY=1\n")
        assert said[1:] == ["WATCHDOG=1", "WATCHDOG=1"]
        appliance.process.send_signal(signal.SIGTERM)
        while said[-1] != "STOPPING=1":
            said.append(manager.recv(4096).decode())


class Fickle:
    """A front end that starts at the second try."""

    def __init__(self, log: list[str]):
        self.log = log

    def start(self) -> None:
        self.log.append("start")
        if len(self.log) < 3:
            raise OSError("no pins here")

    def close(self) -> None:
        self.log.append("close")


def test_a_front_end_that_cannot_start_takes_nothing_down(caplog):
    log: list[str] = []
    good: list[str] = ["", ""]
    front_ends = FrontEnds({"buttons": lambda: Fickle(log), "mqtt": lambda: Fickle(good)})
    front_ends.start_missing()
    assert list(front_ends.missing) == ["buttons"]
    assert "front end buttons cannot start, tried again every 30 s: OSError: no pins here" in caplog.text
    front_ends.start_missing()
    assert front_ends.missing == {}
    front_ends.close()
    front_ends.close()
    assert log == ["start", "close", "start", "close"]
    assert good == ["", "", "start", "close"]


def test_settings_reach_the_engine_unchanged():
    settings = Settings.model_validate(
        {"buttons": [{"pin": 4, "prompts": ["x"]}], "node": {"data_dir": "/x"}}
    )
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert json.loads(settings.model_dump_json())["node"]["data_dir"] == "/x"
    assert os.fspath(settings.node.data_dir) == "/x"
