"""`edgegen setup` as a person meets it: a real terminal, a real broker, and nothing written before a yes."""

from __future__ import annotations

import stat
import subprocess
import tomllib

import pytest

from edgegen.config.store import backups

from .terminal import Terminal

PASSWORD = "sesame-0pen"
PASSWORD_QUESTION = "Password, not shown"


@pytest.fixture
def locked_broker(make_broker, tmp_path):
    """A broker that lets in `pi` alone."""
    users = tmp_path / "users"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(users), "pi", PASSWORD], check=True, capture_output=True
    )
    users.chmod(0o600)
    return make_broker(f"allow_anonymous false\npassword_file {users}")


@pytest.fixture
def sit_down(device):
    """Starts a command at a terminal of its own."""
    terminals = []

    def start(*args, **environ):
        terminals.append(Terminal(device.command(*args), device.home, {**device.environ(), **environ}))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def all_files(device):
    found = {}
    for path in sorted(device.home.iterdir()):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


def answer_up_to_the_password(terminal, broker):
    terminal.answer("Name [edgegen]: ", "lobby")
    terminal.answer("Take jobs from an MQTT broker? (y/n) [n]: ", "y")
    terminal.answer("Host [localhost]: ", "127.0.0.1")
    terminal.answer("TLS? (y/n) [n]: ", "")
    terminal.answer("Port [1883]: ", str(broker.port))
    terminal.answer("User", "pi")


def answer_the_rest(terminal):
    terminal.answer("Announce it to Home Assistant? (y/n) [y]: ", "")
    terminal.answer("Pack, by number or name [tiny]: ", "")
    terminal.answer("Buttons [n]: ", "")
    terminal.answer("Screen [-]: ", "")


def test_question_by_question_to_a_configuration_that_works(device, sit_down, locked_broker):
    device.config.write_text("# the box in the lobby\n" + device.config.read_text())
    before = device.config.read_text()
    terminal = sit_down("setup", TERM="dumb")
    answer_up_to_the_password(terminal, locked_broker)
    terminal.answer(PASSWORD_QUESTION, "wrong")
    assert "Not authorized" in terminal.answer("Change the answers? (y/n) [y]: ", "")
    for question in ("Host [127.0.0.1]", "TLS?", f"Port [{locked_broker.port}]", "User (- for none) [pi]"):
        terminal.answer(question, "")
    terminal.answer(PASSWORD_QUESTION, PASSWORD)
    terminal.answer("Announce it to Home Assistant?", "?")
    assert "It finds the device by itself then." in terminal.answer("Announce it to Home Assistant?", "n")
    assert "login accepted" in terminal.screen
    terminal.answer("Pack, by number or name [tiny]: ", "nosuch")
    assert "no pack is called 'nosuch'" in terminal.answer("Pack, by number or name [tiny]: ", "")
    terminal.answer("Buttons [n]: ", "a")
    terminal.answer("Pin of the button (0 to 27): ", "99")
    assert "0 to 27" in terminal.answer("Pin of the button (0 to 27): ", "17")
    terminal.answer("Pin of its LED", "17")
    assert "pin 17 is used by buttons.0.pin already" in terminal.answer("Pin of its LED", "27")
    terminal.answer("Prompt 1: ", 'an "owl"')
    terminal.answer("Prompt 2 (Enter: no more): ", "")
    terminal.answer("Buttons [n]: ", "")
    terminal.answer("Screen [-]: ", "")
    assert device.config.read_text() == before, "nothing is written before the last answer"
    assert '+host = "127.0.0.1"' in terminal.answer("What now [t]: ", "w")
    assert terminal.end() == 0

    text = device.config.read_text()
    assert text.startswith("# the box in the lobby\n")
    assert set(before.splitlines()) <= set(text.splitlines())
    assert [path.read_text() for path in backups(device.config)] == [before]
    mqtt, (button,) = tomllib.loads(text)["mqtt"], tomllib.loads(text)["buttons"]
    secret = device.home / "mqtt-password"
    assert mqtt == {
        "enabled": True, "host": "127.0.0.1", "port": locked_broker.port, "username": "pi",
        "password_file": str(secret), "home_assistant": False,
    }  # fmt: skip
    assert button == {"pin": 17, "led": 27, "prompts": ['an "owl"']}
    assert secret.read_text() == f"{PASSWORD}\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert PASSWORD not in text + terminal.screen
    assert "\x1b" not in terminal.screen, "a dumb terminal gets plain lines"


def test_ctrl_c_leaves_everything_as_it_was(device, sit_down, locked_broker):
    before = all_files(device)
    terminal = sit_down("setup")
    answer_up_to_the_password(terminal, locked_broker)
    terminal.answer(PASSWORD_QUESTION, PASSWORD)
    terminal.wait_for("Announce it")
    assert terminal.interrupt() == 130
    assert "stopped: everything is as it was" in terminal.screen
    assert all_files(device) == before


def test_a_connection_that_breaks_during_the_trial_undoes_it(device, sit_down, locked_broker):
    before = all_files(device)
    terminal = sit_down("setup")
    answer_up_to_the_password(terminal, locked_broker)
    terminal.answer(PASSWORD_QUESTION, PASSWORD)
    answer_the_rest(terminal)
    terminal.answer("What now [t]: ", "")
    terminal.wait_for("Keep it?")
    assert all_files(device) != before, "the trial's file and the password's are there"
    terminal.hang_up()
    assert all_files(device) == before


def test_a_trial_that_is_kept(device, sit_down, locked_broker):
    terminal = sit_down("setup")
    answer_up_to_the_password(terminal, locked_broker)
    terminal.answer(PASSWORD_QUESTION, PASSWORD)
    answer_the_rest(terminal)
    terminal.answer("What now [t]: ", "t")
    terminal.answer("Keep it?", "y")
    assert terminal.end() == 0
    assert device.run("config", "get", "mqtt.username").stdout == "pi\n"
    assert (device.home / "mqtt-password").read_text() == f"{PASSWORD}\n"


def test_answers_from_a_file_are_checked_before_they_are_written(device, locked_broker):
    answers = device.home / "answers.toml"
    layout = '[mqtt]\nenabled = true\nhost = "127.0.0.1"\nport = {}\nusername = "pi"\npassword = "{}"\n'
    answers.write_text(layout.format(locked_broker.port, "wrong"))
    before = all_files(device)
    refused = device.run("setup", "--answers", "answers.toml")
    assert (refused.exit_code, all_files(device)) == (1, before)
    assert "Not authorized" in refused.stdout
    answers.write_text(layout.format(locked_broker.port, PASSWORD))
    before = all_files(device)
    dry = device.run("setup", "--answers", "answers.toml", "--dry-run")
    assert (dry.exit_code, all_files(device)) == (0, before)
    assert '+username = "pi"' in dry.stdout
    written = device.run("setup", "--answers", "answers.toml", "--set", "node.name=hall")
    assert written.exit_code == 0, written.output
    assert PASSWORD not in dry.output + written.output + device.config.read_text()
    assert (device.home / "mqtt-password").read_text() == f"{PASSWORD}\n"
    assert device.run("config", "get", "node.name").stdout == "hall\n"
    again = device.run("setup", "--set", "node.name=hall")
    assert "nothing to change" in again.stdout


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ("[mqtt]\nport = 0\n", "mqtt.port: 0 is not allowed: 1 to 65535"),
        ("[mqtt]\nhots = 1\n", "did you mean host?"),
        ('[[buttons]]\npin = 4\nprompts = ["a"]\n[[buttons]]\npin = 4\nprompts = ["b"]\n', "pin 4 is used"),
        ("host = 1\n", "answers stand in [sections]"),
        ("port: 1\n", "is no TOML"),
    ],
)
def test_wrong_answers_are_told_and_not_written(device, answers, said):
    before = all_files(device)
    result = device.run("setup", "--answers", "-", stdin=answers)
    assert (result.exit_code, all_files(device)) == (78, before)
    assert said in result.stderr


def test_without_a_terminal_it_says_what_to_do(device):
    result = device.run("setup")
    assert result.exit_code == 2
    assert "run it in a terminal, or give --answers FILE" in result.stderr


def test_a_failed_check_can_be_overruled(device):
    words = ("setup", "--set", "mqtt.enabled=true", "--set", "mqtt.port=9")
    assert device.run(*words).exit_code == 1
    assert device.run(*words, "--force").exit_code == 0
    assert device.run("config", "get", "mqtt.port").stdout == "9\n"
