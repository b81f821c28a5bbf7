"""Configuration from file and environment: what is taken, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.config.files import (
    data_dir,
    database_path,
    find_config_file,
    gallery_dir,
    load_settings,
    run_dir,
    socket_path,
)
from edgegen.errors import ConfigError
from edgegen.settings import NodeSettings, Settings

KNOWN = ", ".join(sorted(Settings.model_fields))


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path | None, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ or {})
    return {
        problem.field: str(problem).removeprefix(f"{problem.field}: ") for problem in caught.value.problems
    }


def test_file_then_environment(tmp_path):
    path = write(
        tmp_path,
        """
        [mqtt]
        enabled = true
        host = "broker"
        port = 1884
        [[buttons]]
        pin = 17
        prompts = ["a cat", "a dog"]
        [gallery]
        dir = "~/pictures"
        """,
    )
    environ = {
        "EDGEGEN_MQTT__PORT": "8883",
        "EDGEGEN_MQTT__TLS": "true",
        "EDGEGEN_NODE__NAME": "007",
        "EDGEGEN_NODE__DATA_DIR": str(tmp_path),
        "EDGEGEN_ENGINE__PACK_DIRS": '["/srv/packs"]',
        "EDGEGEN_ENGINE__STEP_TIMEOUT_S": "30",
        "EDGEGEN_DEBUG": "1",
        "HOME": "/root",
    }
    settings = load_settings(path, environ)
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.tls) == ("broker", 8883, True)
    assert settings.node.name == "007"
    assert settings.engine.pack_dirs == (Path("/srv/packs"),)
    assert settings.engine.step_timeout_s == 30.0
    assert settings.buttons[0].prompts == ("a cat", "a dog")
    assert data_dir(settings.node) == tmp_path
    assert gallery_dir(settings) == Path("~/pictures").expanduser()


def test_no_file_means_defaults(tmp_path):
    assert load_settings(None, {"XDG_CONFIG_HOME": str(tmp_path)}) == Settings()


def test_the_default_places(tmp_path):
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = tmp_path / "edgegen" / "config.toml"
    path.parent.mkdir()
    path.write_text("[node]\nname = 'kiosk'\n")
    assert find_config_file(environ) == path
    assert load_settings(None, environ).node.name == "kiosk"
    assert find_config_file({**environ, "EDGEGEN_CONFIG": "/x.toml"}) == Path("/x.toml")


def test_every_problem_at_once(tmp_path):
    path = write(
        tmp_path,
        """
        nonsense = 1
        [mqtt]
        port = "1883"
        hots = "x"
        keepalive_s = 4
        image_format = "gif"
        [engin]
        [limits]
        guidance = nan
        steps = 2.5
        [queue]
        max_jobs = true
        [[buttons]]
        pin = 99
        prompts = []
        """,
    )
    found = problems(path, {"EDGEGEN_LIMITS__SIDE": "many", "EDGEGEN_NODE__NAME": "a b"})
    assert found == {
        "nonsense": f"unknown key; known are {KNOWN} ({path}:2)",
        "mqtt.port": f'must be a whole number, 1 to 65535, not "1883" ({path}:4)',
        "mqtt.hots": f"unknown key; did you mean host? ({path}:5)",
        "mqtt.keepalive_s": f"4 is not allowed: 5 to 3600 ({path}:6)",
        "mqtt.image_format": f"\"gif\" is not one of 'jpeg', 'webp' or 'png' ({path}:7)",
        "engin": f"unknown key; did you mean engine? ({path}:8)",
        "limits.guidance": found["limits.guidance"],
        "limits.steps": f"must be a whole number, 1 to 1000, not 2.5 ({path}:11)",
        "limits.side": 'must be a whole number, 64 to 4096, not "many" (EDGEGEN_LIMITS__SIDE)',
        "node.name": found["node.name"],
        "queue.max_jobs": f"must be a whole number, 1 to 100000, not true ({path}:13)",
        "buttons.0.pin": f"99 is not allowed: 0 to 27 ({path}:15)",
        "buttons.0.prompts": found["buttons.0.prompts"],
    }
    assert "not allowed: 1 to 100" in found["limits.guidance"] or "NaN" in found["limits.guidance"]
    assert found["node.name"].startswith('"a b" is not allowed: ')
    assert found["node.name"].endswith("(EDGEGEN_NODE__NAME)")


def test_unknown_environment_keys_are_told():
    found = problems(
        None, {"EDGEGEN_MQTT__PROT": "1", "EDGEGEN_BUTTONS__PIN": "4", "XDG_CONFIG_HOME": "/nowhere"}
    )
    assert "did you mean port?" in found["mqtt.prot"]
    assert "EDGEGEN_BUTTONS__PIN cannot set" in found["buttons.pin"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mqtt\n", "line 1, column 6"),
        (b"[mqtt]\nhost = '\xff'\n", "config.toml:2: is not UTF-8 text (byte 0xff at offset 15)"),
        ("[mqtt]".encode("utf-16"), "it looks like UTF-16"),
        ("[mqtt]\nhost = ", "config.toml:2: is no TOML: Invalid value at the end of the file"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("#" * 1_048_577, "larger than 1048576 bytes"),
        ("[mqtt]\nport = 1\nport = 2\n", "is no TOML"),
        ("mqtt = 5", "must be a [table]"),
    ],
)
def test_a_broken_file(tmp_path, text, said):
    path = write(tmp_path, text)
    assert said in " ".join(problems(path).values())


def test_a_missing_file(tmp_path):
    assert "cannot be read: No such file" in problems(tmp_path / "none.toml")[""]


def test_a_pin_has_one_use(tmp_path):
    buttons = '[[buttons]]\npin = 17\nled = 27\nprompts = ["x"]\n[[buttons]]\npin = 27\nprompts = ["x"]\n'
    found = problems(write(tmp_path, buttons))
    assert "pin 27 is used by buttons.0.led already" in found["buttons.1.pin"]


def test_where_the_socket_is(tmp_path):
    node = NodeSettings(data_dir=tmp_path)
    assert run_dir(node, {}) == tmp_path / "run"
    assert run_dir(node, {"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/edgegen")
    assert run_dir(node, {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/x"}) == Path("/run/a")
    chosen = NodeSettings(run_dir=Path("/run/edgegen"))
    assert socket_path(chosen, {"RUNTIME_DIRECTORY": "/run/a"}) == Path("/run/edgegen/edgegen.sock")
    assert database_path(node) == tmp_path / "edgegen.db"


def test_a_socket_path_that_is_too_long():
    node = NodeSettings(run_dir=Path("/tmp") / ("x" * 100))
    with pytest.raises(ConfigError, match=r"node\.run_dir: .* has 118 bytes; at most 107 fit"):
        run_dir(node)


def test_every_style_has_a_name_of_its_own(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[[styles]]\nname = "ink"\n[[styles]]\nname = "Ink "\n[[styles]]\nname = "None"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {})
    assert [p.field for p in caught.value.problems] == ["styles.1.name", "styles.2.name"]
    assert f"{path}:4" in str(caught.value)
