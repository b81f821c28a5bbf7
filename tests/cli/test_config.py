"""`edgegen config`: every problem at once, every key explained, what is printed can be read back."""

import json
import tomllib

import pytest

from edgegen.cli import reference
from edgegen.config.files import load_settings
from edgegen.settings import Settings
from tests.support import text_to_image_graph


def test_show_can_be_used_as_a_file(device):
    device.write_config('[[buttons]]\npin = 17\nprompts = ["a \\"red\\" apple"]\n')
    shown = device.run("config", "show").stdout
    other = device.home / "shown.toml"
    other.write_text(shown)
    assert load_settings(other) == load_settings(device.config)


def test_show_json_has_every_key(device):
    told = json.loads(device.run("config", "show", "--json").stdout)
    assert set(told) == set(Settings.model_fields)
    assert told["engine"]["pack"] == "tiny"


def test_diff_shows_only_what_differs(device):
    told = json.loads(
        device.run("config", "show", "--diff", "--json", env={"EDGEGEN_MQTT__PORT": "1884"}).stdout
    )
    assert set(told) == {"node", "engine", "mqtt"}
    assert told["mqtt"] == {"port": 1884}
    assert tomllib.loads(device.run("config", "show", "--diff").stdout)["engine"]["threads"] == 1


def test_diff_of_nothing_is_nothing(device):
    device.config.write_text("")
    assert device.run("config", "show", "--diff").stdout == ""


def test_diff_is_show_diff(device):
    assert device.run("config", "diff").stdout == device.run("config", "show", "--diff").stdout != ""
    assert (
        device.run("config", "diff", "--json").stdout
        == device.run("config", "show", "--diff", "--json").stdout
    )


def test_show_says_where_each_value_comes_from(device):
    device.write_config('[[buttons]]\npin = 17\nprompts = ["x"]\n')
    (device.home / "conf.d").mkdir()
    drop_in = device.home / "conf.d/10-broker.toml"
    drop_in.write_text('# the broker\n[mqtt]\nhost = "broker"\n')
    shown = device.run("config", "show", env={"EDGEGEN_MQTT__PORT": "1884"}).stdout.splitlines()
    for line in [
        f"{'host = ' + chr(34) + 'broker' + chr(34):<40}  # {drop_in}:3",
        f"{'port = 1884':<40}  # EDGEGEN_MQTT__PORT",
        f"{'keepalive_s = 30':<40}  # default",
        f"{'threads = 1':<40}  # {device.config}:8",
        f"{'pin = 17':<40}  # {device.config}:10",
        f"{'# led is empty':<40}  # default",
    ]:
        assert line in shown
    told = json.loads(device.run("config", "show", "--json", "--origins").stdout)
    assert told["mqtt.host"] == {"value": "broker", "origin": f"{drop_in}:3"}
    assert told["buttons.0.prompts"] == {"value": ["x"], "origin": f"{device.config}:11"}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("engine.pack", "tiny\n"),
        ("engine.threads", "1\n"),
        ("mqtt.tls", "false\n"),
        ("gallery.dir", ""),
        ("buttons.0.prompts", '["a cat", "a dog"]\n'),
        ("queue", "max_jobs = 1000\nmax_attempts = 3\nkeep_finished = 1000\n"),
    ],
)
def test_get_a_value(device, key, said):
    device.write_config('[[buttons]]\npin = 17\nprompts = ["a cat", "a dog"]\n')
    result = device.run("config", "get", key)
    assert (result.exit_code, result.stdout) == (0, said)


def test_get_as_json_and_its_origin(device):
    assert json.loads(device.run("config", "get", "engine", "--json").stdout)["threads"] == 1
    assert device.run("config", "get", "engine.threads", "--origin").stdout == f"{device.config}:8\n"
    assert device.run("config", "get", "mqtt.port", "--origin").stdout == "default\n"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("mqtt.prot", "did you mean mqtt.port or"),
        ("port", "did you mean mqtt.port?"),
        ("buttons.0.pin", "no such element: buttons has 0"),
        ("mqtt.port.x", "no such key"),
    ],
)
def test_get_an_unknown_key(device, key, said):
    result = device.run("config", "get", key)
    assert (result.exit_code, result.stdout) == (78, "")
    assert said in result.stderr


def test_validate_says_what_it_checked(device):
    result = device.run("config", "validate")
    assert (result.exit_code, result.stdout) == (0, f"{device.config}: fine\n")


def test_validate_tells_every_problem_with_key_value_and_allowed(device):
    bad = device.home / "bad.toml"
    bad.write_text('[engine]\nthreads = -1\nprovider = "cuda"\npakc = "x"\n[limits]\nside = "big"\n')
    result = device.run("config", "validate", str(bad))
    assert result.exit_code == 78
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    for key, words in {
        "engine.threads": ("-1", "0 to 256"),
        "engine.provider": ("cuda", "openvino"),
        "engine.pakc": ("did you mean pack?",),
        "limits.side": ("big", "whole number"),
    }.items():
        line = next(line for line in lines if line.startswith(f"edgegen: {key}: "))
        assert all(word in line for word in words), line


def test_validate_json_names_key_and_value(device):
    result = device.run("config", "validate", "--json", env={"EDGEGEN_MQTT__PORT": "0"})
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (78, False)
    assert told["problems"] == [
        {
            "file": "EDGEGEN_MQTT__PORT",
            "line": None,
            "key": "mqtt.port",
            "value": 0,
            "allowed": "1 to 65535",
            "message": "0 is not allowed: 1 to 65535",
        }
    ]
    assert json.loads(device.run("config", "validate", "--json").stdout) == {"ok": True, "problems": []}


def test_validate_sees_the_files_beside_it(device):
    (device.home / "conf.d").mkdir()
    drop_in = device.home / "conf.d/10.toml"
    drop_in.write_text("")
    assert device.run("config", "validate").stdout == f"{device.config} with 1 in conf.d: fine\n"
    drop_in.write_text('[gallery]\nformat = "pngg"\n')
    result = device.run("config", "validate", "--json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert (result.exit_code, problem["file"], problem["line"]) == (78, str(drop_in), 2)
    assert (problem["allowed"], problem["value"]) == ("png | webp | jpeg", "pngg")
    assert "did you mean png?" in problem["message"]


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_validate_of_what_is_no_file(device, name):
    result = device.run("config", "validate", name)
    assert result.exit_code == 78
    assert len(result.stderr.splitlines()) == 1


def test_explain_lists_every_key_with_its_variable(device):
    told = device.run("config", "explain").stdout
    assert all(entry.key in told for entry in reference.entries())
    assert "EDGEGEN_ENGINE__THREADS" in told


def test_explain_one_key_or_one_section(device):
    assert device.run("config", "explain", "mqtt.port").stdout.splitlines() == [
        "mqtt.port",
        "    Broker's port (8883 is usual for TLS).",
        "    type     whole number",
        "    allowed  1 to 65535",
        "    default  1883",
        "    env      EDGEGEN_MQTT__PORT",
    ]
    keys = [entry["key"] for entry in json.loads(device.run("config", "explain", "gallery", "--json").stdout)]
    assert keys[:4] == ["gallery.dir", "gallery.format", "gallery.max_pictures", "gallery.max_mb"]
    assert all(key.startswith("gallery.") for key in keys)


@pytest.mark.parametrize(
    ("key", "hint"), [("mqtt.prot", "mqtt.port"), ("port", "mqtt.port"), ("xyzzy", "lists all")]
)
def test_explain_an_unknown_key(device, key, hint):
    result = device.run("config", "explain", key)
    assert result.exit_code == 78
    assert hint in result.stderr


def test_every_variable_that_is_documented_works(device):
    for entry in reference.entries():
        if entry.env and entry.default is not None:
            load_settings(device.config, {entry.env: reference.toml_value(entry.default).strip('"')})


def test_example_is_valid_as_printed(device):
    example = device.home / "example.toml"
    example.write_text(device.run("config", "example").stdout)
    assert device.run("config", "validate", str(example)).exit_code == 0


def test_validate_looks_at_the_workflows_that_buttons_name(device):
    device.write_config('[[buttons]]\npin = 4\nworkflow = "portrait"\nprompts = ["a fox"]\n')
    result = device.run("config", "validate")
    assert result.exit_code == 78
    assert "buttons.0.workflow: " in result.stderr
    assert 'no workflow "portrait" is stored here' in result.stderr
    assert f"({device.config}:" in result.stderr
    assert device.run("config", "validate", "--no-files").exit_code == 0
    folder = device.home / "data" / "workflows"
    folder.mkdir(parents=True)
    nodes = text_to_image_graph(steps=2)
    nodes["6"]["inputs"]["text"] = "%prompt%"
    (folder / "portrait.json").write_text(json.dumps(nodes))
    assert device.run("config", "validate").exit_code == 0
    doctor = device.run("doctor", "--json").stdout
    assert "of buttons: portrait" in doctor
