"""The front as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from edgegen.daemon import FrontEnds
from edgegen.errors import BadRequest
from edgegen.settings import Settings
from tests.support import PATIENCE_S


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
    appliance.kill()
    appliance.start(with_engine=False)
    assert appliance.ask("status")["jobs"]["queued"] == 1
    assert appliance.ask("cancel", id="a")["job"]["state"] == "cancelled"
    assert appliance.stop(signal.SIGINT)[0] == 0


def test_the_front_refuses_blocked_prompts_and_too_many_jobs(make_appliance):
    appliance = make_appliance(prompts={"block": ["gun"]}, rate={"cli_per_min": 1, "burst": 2})
    appliance.start(with_engine=False)
    with pytest.raises(BadRequest) as blocked:
        appliance.submit("a GÜN")
    assert blocked.value.code == "blocked_prompt"
    appliance.submit(id="a")
    appliance.submit(id="b")
    with pytest.raises(BadRequest, match="try again in") as limited:
        appliance.submit(id="c")
    assert limited.value.code == "rate_limited"
    assert appliance.submit(id="a")["state"] == "queued", "a redelivery is never refused"


def test_a_second_front_is_refused(make_appliance):
    first, second = make_appliance(), make_appliance()
    first.start(with_engine=False)
    with pytest.raises(AssertionError, match="another `edgegen run` serves it"):
        second.start(with_engine=False)
        second.process.wait(PATIENCE_S)
        second.is_up()
    assert first.ask("status")


def test_systemd_hears_that_we_are_ready(make_appliance, folder, monkeypatch):

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
