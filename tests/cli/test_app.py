"""The root command: help that teaches, one line for every failure, a light start."""

import json
import os
import signal
import subprocess
import sys

import click
import pytest

from edgegen.cli import main
from edgegen.cli.app import COMMANDS
from edgegen.errors import EdgegenError

HEAVY = ("numpy", "onnxruntime", "paho", "PIL", "gpiozero")


def commands(group=main, path=()):
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_teaches_by_example(device):
    for path, command in commands():
        result = device.run(*path, "--help")
        assert result.exit_code == 0
        assert "Example" in result.stdout, path
        assert "edgegen" in result.stdout
        assert command.get_short_help_str(), path


def test_help_without_arguments_names_every_command(device):
    assert all(name in device.run().stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["qeue"], "edgegen: no command named qeue; did you mean queue?\n"),
        (["xyzzy"], "edgegen: no command named xyzzy; one of: generate"),
        (["status", "--jsno"], "edgegen: No such option"),
        (["cancel"], "edgegen: give the ids of jobs, or --all\nTry: edgegen cancel --help\n"),
        (["config", "expalin"], "edgegen: No such command 'expalin'."),
    ],
)
def test_mistakes_on_the_command_line(device, args, said):
    result = device.run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert result.stdout == ""


def test_version_with_and_without_packages(device):
    assert device.run("--version").stdout.startswith("edgegen 0.")
    told = device.run("-v", "--version").stdout
    assert "onnxruntime 1." in told
    assert "python 3." in told


def test_a_broken_configuration_is_one_line_per_problem(device):
    device.write_config("[mqtt]\nport = 70000\nhots = 'broker'\n")
    result = device.run("pack", "list")
    assert result.exit_code == 78
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("edgegen: mqtt.") for line in lines)
    assert "did you mean host?" in result.stderr
    assert "1 to 65535" in result.stderr


@pytest.fixture
def broken_command(monkeypatch):
    def install(error):
        @click.command()
        def fails():
            raise error

        get = type(main).get_command
        monkeypatch.setattr(
            type(main),
            "get_command",
            lambda self, ctx, name: fails if name == "status" else get(self, ctx, name),
        )

    return install


def test_an_unexpected_fault_is_one_line_and_says_how_to_see_more(device, broken_command):
    broken_command(RuntimeError("two\nlines"))
    result = device.run("status")
    assert result.exit_code == 1
    assert result.stderr == "edgegen: unexpected RuntimeError: two lines (EDGEGEN_DEBUG=1 shows the trace)\n"
    assert "Traceback" in device.run("status", env={"EDGEGEN_DEBUG": "1"}).stderr


def test_an_expected_error_exits_with_its_own_code(device, broken_command):
    error = EdgegenError("the thing is broken")
    error.exit_code = 42
    broken_command(error)
    result = device.run("status")
    assert (result.exit_code, result.stderr) == (42, "edgegen: the thing is broken\n")


def test_interrupt_is_130(device, broken_command):
    broken_command(KeyboardInterrupt())
    assert device.run("status").exit_code == 130


def test_a_closed_pipe_ends_quietly(device):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        device.command("config", "explain"), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120,
        cwd=device.home, env=device.environ(), check=False,
    )  # fmt: skip
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode in (141, -signal.SIGPIPE, 1)


def test_no_colour_where_none_is_wanted(device):
    for result in (device.spawn("config", "explain", "mqtt"), device.spawn("pack", "list")):
        assert "\x1b" not in result.stdout + result.stderr


def test_startup_stays_light(device):
    lines = [["--help"], ["--version"], ["status"], ["queue"], ["config", "show"], ["config", "explain"]]
    code = (
        "import json, sys\nfrom edgegen.cli import main\n"
        f"codes = [main(line, standalone_mode=False) for line in {lines!r}]\n"
        f"print(json.dumps([codes, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=device.home,
        env={**device.environ(), "EDGEGEN_CONFIG": str(device.config)}, check=False,
    )  # fmt: skip
    assert json.loads(result.stderr.splitlines()[-1]) == [[0] * len(lines), []], result.stderr


def test_help_does_not_even_read_the_settings(device):
    code = "import sys; from edgegen.cli import main; main(['--help'], standalone_mode=False)\n"
    code += "assert not {'pydantic', 'sqlite3', 'asyncio'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, env=device.environ(), capture_output=True
    )


def test_module_and_completion(device):
    assert device.spawn("--version").stdout.startswith("edgegen ")
    result = subprocess.run(
        [sys.executable, "-m", "edgegen"], capture_output=True, text=True, timeout=120, check=False,
        env={**device.environ(), "_EDGEGEN_COMPLETE": "zsh_source"},
    )  # fmt: skip
    assert "compdef" in result.stdout
