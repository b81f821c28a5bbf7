"""Files beside the main one, and where every value comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgegen.config.files import check_config, find_config_file, load_effective
from edgegen.errors import ConfigError
from edgegen.settings import Settings


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "edgegen/config.toml"
    (path.parent / "conf.d").mkdir(parents=True)
    path.write_text('[mqtt]\nhost = "a"\nport = 1884\n[[buttons]]\npin = 4\nprompts = ["x"]\n')
    return path


def drop_in(config: Path, name: str, text: str) -> Path:
    path = config.parent / "conf.d" / name
    path.write_text(text)
    return path


def told(config: Path, environ: dict[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in check_config(config, environ or {})]


def test_later_names_win_key_by_key_and_lists_whole(config):
    first = drop_in(config, "10-broker.toml", '[mqtt]\nhost = "b"\ntls = true\n')
    last = drop_in(config, "20-buttons.toml", '# pins\n[[buttons]]\nprompts = ["y"]\npin = 5\n')
    drop_in(config, "30-editor.toml~", "[mqtt]\nhost = 'never'\n")
    effective = load_effective(config, {"EDGEGEN_MQTT__PORT": "8883"})
    mqtt = effective.settings.mqtt
    assert (mqtt.host, mqtt.port, mqtt.tls) == ("b", 8883, True)
    assert [button.pin for button in effective.settings.buttons] == [5]
    assert effective.layers.files == (config, first, last)
    assert str(effective.origin("mqtt", "host")) == f"{first}:2"
    assert str(effective.origin("mqtt", "port")) == "EDGEGEN_MQTT__PORT"
    assert str(effective.origin("mqtt", "base")) == "default"
    assert str(effective.origin("buttons", 0, "pin")) == f"{last}:4"


def test_drop_ins_need_no_main_file(config, tmp_path):
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    drop_in(config, "10.toml", '[node]\nname = "kiosk"\n')
    config.unlink()
    assert find_config_file(environ) == config
    assert load_effective(None, environ).settings.node.name == "kiosk"


def test_a_main_file_that_leads_nowhere_is_told(config, tmp_path):
    config.unlink()
    config.symlink_to(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_effective(None, {"XDG_CONFIG_HOME": str(tmp_path)})


def test_problems_of_all_layers_at_once(config):
    config.write_text("[mqtt]\nport = 0\nhost = 5\n")
    broken = drop_in(config, "10.toml", "[mqtt\n")
    latin = config.parent / "conf.d/20.toml"
    latin.write_bytes("[node]\n# caf\u00e9\n".encode("latin-1"))
    hides = drop_in(config, "30.toml", "[mqtt]\nport = 1884\nprot = 1\n")
    assert told(config, {"EDGEGEN_LIMITS__STEPS": "0", "EDGEGEN_BUTTONS__X": "1"}) == [
        f"{broken}:1: is no TOML: Expected ']' at the end of a table declaration (line 1, column 6)",
        f"{latin}:2: is not UTF-8 text (byte 0xe9 at offset 12): save it as UTF-8",
        "buttons.x: EDGEGEN_BUTTONS__X cannot set a [[list of tables]]: use the file (EDGEGEN_BUTTONS__X)",
        "limits.steps: 0 is not allowed: 1 to 1000 (EDGEGEN_LIMITS__STEPS)",
        f"mqtt.host: must be text in quotes, not 5 ({config}:3)",
        f"mqtt.prot: unknown key; did you mean port? ({hides}:3)",
        f"mqtt.port: 0 is not allowed: 1 to 65535; hidden by {hides}:2 ({config}:2)",
    ]


def test_a_hidden_mistake_does_not_keep_the_device_from_starting(config):
    config.write_text("[mqtt]\nport = 0\n")
    drop_in(config, "30.toml", "[mqtt]\nport = 1884\n")
    assert load_effective(config, {}).settings.mqtt.port == 1884
    assert len(told(config)) == 1


def test_what_is_missing_is_told_at_its_table(config):
    config.write_text("\n\n[[buttons]]\npin = 4\n")
    assert told(config) == [f"buttons.0.prompts: missing: this key must be given ({config}:3)"]


@pytest.mark.parametrize("name", ["10.toml", "../config.toml"])
def test_a_pipe_or_a_folder_is_no_file(config, name):
    path = (config.parent / "conf.d" / name).resolve()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert told(config) == [f"{path}: cannot be read: it is no regular file"]
    path.unlink()
    path.mkdir()
    assert told(config) == [f"{path}: cannot be read: Is a directory"] or "no regular file" in told(config)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(config):
    config.chmod(0)
    assert told(config) == [f"{config}: cannot be read: Permission denied"]


def test_texts_that_replace_files(config):
    new = config.parent / "conf.d/90.toml"
    replaced = {config: "[mqtt]\nport = 1", new: '[node]\nname = "n"\n'}
    effective = load_effective(config, {}, replaced)
    assert (effective.settings.mqtt.port, effective.settings.node.name) == (1, "n")
    assert load_effective(config, {}).settings.node == Settings().node
