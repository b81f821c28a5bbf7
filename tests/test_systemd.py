"""The units are what systemd understands, and keep both processes locked in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgegen.config.credentials import MQTT_KEY, MQTT_KEY_PASSWORD, MQTT_PASSWORD
from edgegen.jobs.supervisor import engine_environ

UNITS = Path(__file__).resolve().parent.parent / "systemd"
pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")


def analyze(*args: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_units_verify(tmp_path: Path):
    for unit in UNITS.glob("edgegen*.*"):
        if unit.is_file():  # the program is not installed where the device has it
            text = unit.read_text().replace("/opt/edgegen/bin/edgegen", sys.executable)
            (tmp_path / unit.name).write_text(text)
    done = analyze("verify", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "most"), [("front", 1.5), ("engine", 0.5), ("display", 0.5)])
def test_the_units_are_locked_in(unit: str, most: float):
    threshold = round(most * 10)  # systemd counts tenths
    path = UNITS / f"edgegen-{unit}.service"
    done = analyze("security", "--offline=true", f"--threshold={threshold}", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [MQTT_PASSWORD, MQTT_KEY, MQTT_KEY_PASSWORD])
def test_secrets_are_found_where_the_unit_puts_them(name):
    text = (UNITS / "edgegen-front.service").read_text()
    assert f"LoadCredential={name}" in text.splitlines()


def test_the_engine_s_environment_is_the_one_a_front_gives_its_own():
    lines = (UNITS / "edgegen-engine.service").read_text().splitlines()
    for name, value in engine_environ({}).items():
        assert f"Environment={name}={value}" in lines


def test_the_engine_reports_nothing_and_sees_nobody():
    text = (UNITS / "edgegen-engine.service").read_text()
    for line in ("Environment=ORT_DISABLE_TELEMETRY=1", "PrivateNetwork=yes", "PrivateDevices=yes"):
        assert line in text.splitlines()


def test_the_display_reaches_a_screen_and_nothing_else():
    lines = (UNITS / "edgegen-display.service").read_text().splitlines()
    assert [line for line in lines if line.startswith("Device")] == [
        "DevicePolicy=closed",
        "DeviceAllow=char-fb rw",
        "DeviceAllow=/dev/tty1 rw",
    ]
    assert {"PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "SupplementaryGroups=video"} <= set(
        lines
    )
    groups = (UNITS / "sysusers.d/edgegen.conf").read_text().split()
    assert "video" in groups
