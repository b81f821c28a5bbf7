"""`edgegen config`: every problem at once, every key explained, what is printed can be read back."""

import json
import tomllib

import pytest

from edgegen.cli import reference
from edgegen.jobs.configfile import load_settings
from edgegen.settings import Settings


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
    assert [(p["key"], p["value"]) for p in told["problems"]] == [("mqtt.port", 0)]
    assert json.loads(device.run("config", "validate", "--json").stdout) == {"ok": True, "problems": []}


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
