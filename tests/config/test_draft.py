"""A draft: answers on top of what is configured; only what differs becomes a change."""

import tomllib

import pytest

from edgegen.config.draft import Draft
from edgegen.config.edit import parse_change
from edgegen.errors import ConfigError

BUTTONS = """
[[buttons]]
pin = 4      # the red one
led = 5
prompts = ["a cat"]

[[buttons]]
pin = 6
prompts = ["a dog"]
"""


@pytest.fixture
def draft(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f"[mqtt]\nport = 1884  # ours\n{BUTTONS}")
    return Draft(path, {})


def test_an_answer_as_configured_is_no_change(draft):
    draft.take([parse_change("mqtt.port", "1884"), parse_change("mqtt.host", "localhost")])
    assert (draft.texts, draft.diff()) == ({}, "")


def test_an_answer_taken_back_is_no_change(draft):
    draft.take([parse_change("mqtt.port", "1885")])
    assert draft.settings.mqtt.port == 1885
    draft.take([parse_change("mqtt.port", "1884")])
    assert draft.texts == {}


def test_a_wrong_answer_leaves_the_draft_as_it_was(draft):
    draft.take([parse_change("mqtt.port", "1885")])
    with pytest.raises(ConfigError, match="1 to 65535"):
        draft.take([parse_change("mqtt.port", "0")])
    assert draft.settings.mqtt.port == 1885
    assert "+port = 1885  # ours" in draft.diff().splitlines()


def test_a_button_goes_and_another_comes(draft):
    draft.take_buttons([{"pin": 6, "prompts": ["a dog"]}])
    assert [button.pin for button in draft.settings.buttons] == [6]
    draft.take_buttons([{"pin": n, "prompts": ["x"]} for n in (7, 8, 9)])
    assert [(button.pin, button.led) for button in draft.settings.buttons] == [
        (7, None),
        (8, None),
        (9, None),
    ]
    draft.take_buttons([])
    (text,) = draft.texts.values()
    assert tomllib.loads(text) == {"mqtt": {"port": 1884}}


def test_buttons_that_clash_are_refused(draft):
    with pytest.raises(ConfigError, match="pin 4 is used"):
        draft.take_buttons([{"pin": 4, "prompts": ["a"]}, {"pin": 4, "prompts": ["b"]}])
    assert draft.changes == []


def test_a_broken_configuration_has_to_be_mended_first(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[mqtt]\nport = 0\n")
    with pytest.raises(ConfigError, match="1 to 65535"):
        Draft(path, {})


def test_what_the_environment_overrides_is_said(tmp_path):
    draft = Draft(tmp_path / "config.toml", {"EDGEGEN_MQTT__HOST": "b"})
    draft.take([parse_change("mqtt.host", "c")])
    assert draft.notes == ("EDGEGEN_MQTT__HOST still overrides mqtt.host in this shell",)
