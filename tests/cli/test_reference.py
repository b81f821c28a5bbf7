"""The documentation of the settings is made from the settings, and what it shows is valid."""

import re
import tomllib
from pathlib import Path

import pytest

from edgegen.cli import reference
from edgegen.settings import Settings


def entry(key):
    return next(e for e in reference.entries() if e.key == key)


def test_every_setting_is_there_with_a_meaning():
    for name, model, _ in reference.sections():
        keys = [e.name for e in reference.entries() if e.section == name]
        assert keys == list(model.model_fields)
    assert all(e.meaning and e.kind for e in reference.entries())


@pytest.mark.parametrize(
    ("key", "kind", "allowed", "default"),
    [
        ("engine.threads", "whole number", "0 to 256", "0"),
        ("engine.provider", "choice", "auto | cpu | openvino", '"auto"'),
        ("gallery.dir", "path", "", "empty"),
        ("mqtt.tls", "true or false", "", "false"),
        ("buttons.pin", "whole number", "0 to 27", "must be given"),
        ("buttons.led", "whole number", "0 to 27", "empty"),
        ("buttons.steps", "whole number", "at least 1", "empty"),
        ("node.name", "text", "1 to 64 characters, matching `^[A-Za-z0-9_-]+$`", '"edgegen"'),
    ],
)
def test_kind_range_and_default(key, kind, allowed, default):
    found = entry(key)
    assert (found.kind, found.allowed, found.default_text) == (kind, allowed, default)


def test_example_as_printed_is_all_defaults():
    assert Settings.model_validate(tomllib.loads(reference.example_toml())) == Settings()


def test_example_with_every_key_uncommented_is_valid():
    text = re.sub(r"^#(?! )", "", reference.example_toml(), flags=re.MULTILINE)
    given = tomllib.loads(text)
    assert Settings.model_validate(given).buttons[0].pin == 17
    for name, model, listed in reference.sections():
        assert set(given[name][0] if listed else given[name]) == set(model.model_fields)


@pytest.mark.parametrize("value", ["", 'a "b" \\ c\n\t\x7f é', "🍎", True, 3, 0.5, [1, 2], ["a", "b"]])
def test_toml_values_read_back(value):
    assert tomllib.loads(f"x = {reference.toml_value(value)}")["x"] == value


def test_the_reference_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs/CONFIG.md"
    assert page.read_text(encoding="utf-8") == reference.markdown(), (
        "run: python -m edgegen config reference > docs/CONFIG.md"
    )
