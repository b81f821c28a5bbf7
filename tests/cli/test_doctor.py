"""`edgegen doctor`: real pack, real broker, gpiozero's mock pins, fake /proc and /sys."""

import json
import os
import subprocess

import pytest

from edgegen.cli import services
from edgegen.cli.app import App
from edgegen.cli.doctor import all_checks
from edgegen.cli.machine import Roots
from edgegen.config.files import load_settings
from tests.support import free_port


def checks(device, tmp_path):
    roots = Roots(proc=tmp_path / "proc", sys=tmp_path / "sys")
    return {check.name: check for check in all_checks(App(device.config), roots)}


def test_a_healthy_device(device):
    result = device.run("doctor", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0, told
    names = [check["name"] for check in told["checks"]]
    assert names == [
        "config", "board", "temperature", "throttling", "python", "packages", "clock", "disk", "database",
        "data_dir", "gallery", "run_dir", "provider", "pack", "memory", "memory mode", "daemon", "broker",
        "pins", "display",
    ]  # fmt: skip
    assert told["ok"] is True
    assert all(check["state"] in ("ok", "warn") for check in told["checks"])
    assert not (device.home / "data").exists(), "looking changes nothing"


def test_the_same_to_read(device):
    result = device.run("doctor")
    lines = result.stdout.splitlines()
    assert all(line.startswith(("ok    ", "warn  ", "      ")) for line in lines)
    assert any("all files intact" in line for line in lines)
    assert any(line.lstrip().startswith("-> ") for line in lines), "no daemon runs: there is advice"


def test_a_machine_that_tells_nothing_is_not_ill(device, tmp_path):
    found = checks(device, tmp_path)
    assert found["memory"].state == "warn"
    assert found["temperature"].state == found["throttling"].state == "ok"
    assert not [check for check in found.values() if check.state == "bad"]


def test_too_little_memory_for_the_pack_is_bad(device, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000 kB\nMemAvailable: 8000 kB\n")
    assert checks(device, tmp_path)["memory"].state == "bad"


def test_a_broken_configuration_does_not_stop_the_other_checks(device):
    device.write_config("[mqtt]\nport = 0\n")
    result = device.run("doctor", "--json")
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 1
    assert found["config"]["state"] == "bad"
    assert "1 to 65535" in found["config"]["message"]
    assert found["python"]["state"] == "ok"


def test_a_damaged_pack_is_bad(device, own_pack, tmp_path):
    (own_pack / "tokenizer.json").write_text("{}")
    found = checks(device, tmp_path)["pack"]
    assert found.state == "bad"
    assert "tokenizer.json" in found.message
    assert device.run("doctor").exit_code == 1


def test_an_unknown_pack_and_a_run_dir_too_long(device, tmp_path):
    device.config.write_text(
        f'[node]\nrun_dir = "/tmp/{"x" * 120}"\n[engine]\npack = "nothing"\nprovider = "cpu"\n'
    )
    found = checks(device, tmp_path)
    assert found["pack"].state == "bad"
    assert "Unix socket" in found["folders"].message
    assert found["folders"].state == "bad"
    assert "python" in found


def mqtt(device, more, port):
    device.write_config(f"[mqtt]\nenabled = true\nhost = '127.0.0.1'\nport = {port}\n{more}")
    return services.check_broker(load_settings(device.config).mqtt)


def test_broker_reached(device, broker):
    found = mqtt(device, "", broker.port)
    assert (found.state, found.message) == ("ok", f"127.0.0.1:{broker.port}: connected, login accepted")


def test_what_a_broker_cannot_is_told(device, make_broker):
    broker = make_broker("retain_available false\nmax_qos 0\nmax_packet_size 5000")
    found = mqtt(device, "", broker.port)
    assert found.state == "warn"
    for said in ("no retained messages", "QoS 0 only", "at most 5000 bytes"):
        assert said in found.message
    found = mqtt(device, "", make_broker("max_packet_size 1500000").port)
    assert found.state == "ok", "pictures of mqtt.image_max_bytes fit"


def test_broker_that_wants_another_password(device, make_broker):
    users = device.home / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "edge", "right"], check=True, capture_output=True)
    users.chmod(0o644)
    broker = make_broker(f"allow_anonymous false\npassword_file {users}")
    secret = device.home / "secret"
    for password, state in (("right", "ok"), ("wrong", "bad")):
        secret.write_text(f"{password}\n")
        found = mqtt(device, f"username = 'edge'\npassword_file = '{secret}'\n", broker.port)
        assert found.state == state, found
    assert "Not authorized" in found.message or "Bad user name" in found.message
    assert "password" in found.advice


def test_no_broker_there(device):
    found = mqtt(device, "", free_port())
    assert found.state == "bad"
    assert "refused" in found.message


def test_a_password_file_that_is_missing(device, tmp_path):
    found = mqtt(device, "username = 'edge'\npassword_file = '/nowhere/secret'\n", free_port())
    assert found.state == "bad"
    assert "/nowhere/secret" in found.message


BUTTONS = '[[buttons]]\npin = 17\nled = 27\nprompts = ["a cat"]\n'


@pytest.mark.parametrize(("factory", "state"), [("mock", "ok"), ("lgpio", "bad")])
def test_pins(device, factory, state):
    if (
        factory == "lgpio"
        and list(os.scandir("/dev"))
        and any(p.name.startswith("gpiochip") for p in os.scandir("/dev"))
    ):
        state = "ok"
    device.write_config(BUTTONS)
    environ = {**device.environ(), "GPIOZERO_PIN_FACTORY": factory}
    result = subprocess.run(
        device.command("doctor", "--json"), capture_output=True, text=True, timeout=240, env=environ,
        cwd=device.home, check=False,
    )  # fmt: skip
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}["pins"]
    assert found["state"] == state, found
    assert "GPIO 17, 27" in found["message"]
    assert result.returncode == (0 if state == "ok" else 1)


def test_pins_in_the_hands_of_the_daemon_are_not_touched(device):
    device.write_config(BUTTONS)
    found = services.check_pins(load_settings(device.config).buttons, daemon_runs=True)
    assert (found.state, "daemon" in found.message) == ("ok", True)
