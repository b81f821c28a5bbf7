"""`edgegen config set`: one key changes, all else stays, and nothing wrong is ever written."""

import pytest

from edgegen.config.store import backups


def test_set_changes_one_value_and_keeps_the_old_file(device):
    device.write_config("# the broker\n[mqtt]\nport = 1883  # plain\n")
    before = device.config.read_text()
    result = device.run("config", "set", "mqtt.port", "8883")
    assert (result.exit_code, result.stderr) == (0, "")
    (backup,) = backups(device.config)
    assert result.stdout == f"{device.config}: written; the old one is {backup}\n"
    assert device.config.read_text() == before.replace("1883  # plain", "8883  # plain")
    assert backup.read_text() == before


def test_set_several_keys_that_need_each_other(device):
    result = device.run("config", "set", "buttons.0.pin=17", 'buttons.0.prompts=["a cat"]', "mqtt.host=b")
    assert result.exit_code == 0, result.stderr
    assert device.run("config", "get", "buttons.0.prompts").stdout == '["a cat"]\n'
    assert device.run("config", "get", "mqtt.host").stdout == "b\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mqtt.port", "0"], "0 is not allowed: 1 to 65535"),
        (["mqtt.prot=1"], "did you mean port?"),
        (["mqqt.port=1"], "did you mean mqtt?"),
        (["buttons.0.pin=4"], "buttons.0.prompts: missing"),
        (["buttons.3.pin=4"], "there are 0 elements"),
        (["buttons.pin=4"], "as in buttons.0.pin"),
        (["mqtt.port.deep=4"], "name a key of a section"),
        (["mqtt=4"], "name a key of a section"),
        (["node.name", "a b"], "is not allowed"),
    ],
)
def test_nothing_wrong_is_written(device, words, said):
    before = device.config.read_bytes()
    result = device.run("config", "set", *words)
    assert (result.exit_code, result.stdout) == (78, "")
    assert said in result.stderr
    assert device.config.read_bytes() == before
    assert backups(device.config) == []


def test_a_broken_file_is_not_touched_but_can_be_mended(device):
    device.write_config("[mqtt]\nport = 0\n[limits]\nside = 1\n")
    assert device.run("config", "set", "mqtt.port=1").exit_code == 78
    assert device.run("config", "set", "mqtt.port=1", "limits.side=64").exit_code == 0
    device.config.write_text("[mqtt\n")
    result = device.run("config", "set", "mqtt.port=1")
    assert result.exit_code == 78
    assert f"{device.config}:1: is no TOML" in result.stderr


def test_set_changes_the_file_that_decides(device):
    device.write_config("[mqtt]\nport = 1\n")
    (device.home / "conf.d").mkdir()
    drop_in = device.home / "conf.d/10.toml"
    drop_in.write_text("[mqtt]\nport = 2\n")
    before = device.config.read_text()
    assert device.run("config", "set", "mqtt.port", "3").exit_code == 0
    assert (drop_in.read_text(), device.config.read_text()) == ("[mqtt]\nport = 3\n", before)
    assert device.run("config", "unset", "mqtt.port").exit_code == 0
    assert device.run("config", "get", "mqtt.port").stdout == "1883\n"


def test_set_makes_the_file_where_there_is_none(device):
    device.config.unlink()
    result = device.run("config", "set", "node.name", "kiosk")
    assert (result.exit_code, result.stdout) == (0, f"{device.config}: written\n")
    assert device.config.read_text() == '[node]\nname = "kiosk"\n'


def test_set_says_when_the_environment_overrides_it(device):
    result = device.run("config", "set", "mqtt.port", "3", env={"EDGEGEN_MQTT__PORT": "4"})
    assert result.exit_code == 0
    assert result.stderr == "EDGEGEN_MQTT__PORT still overrides mqtt.port in this shell\n"


def test_unset_of_what_is_not_set(device):
    before = device.config.read_bytes()
    result = device.run("config", "unset", "mqtt.port")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to change" in result.stderr or device.config.read_bytes() == before


def test_a_command_line_that_mixes_both_forms(device):
    result = device.run("config", "set", "mqtt.port=1", "mqtt.tls")
    assert result.exit_code == 2
    assert "KEY=VALUE for each key" in result.stderr
