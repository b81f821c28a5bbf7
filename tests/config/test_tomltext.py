"""Changing TOML as text: nothing moves but what was asked for, and what is written reads back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegen.config.tomltext import CannotEdit, Change, edit_toml, toml_value

FILE = """\
# the kiosk by the door
[mqtt]   # broker of the house
port = 1883   # plain
  # about the host
  host = "a"

# who we are
[node]
name="x"

[[buttons]]
pin = 4 # red
prompts = [
  "a", # first
]

[[buttons]]
pin = 5
prompts = ["b"]
# the end"""


def edited(text: str, **changes) -> str:
    """Keys are written with _ for the dots: `mqtt_port`."""
    return edit_toml(text, [Change(place(key), value) for key, value in changes.items()])


def place(key: str):
    return tuple(int(part) if part.isdecimal() else part for part in key.split("_"))


def test_a_value_is_replaced_where_it_stands():
    assert edited(FILE, mqtt_port=8883) == FILE.replace("1883   # plain", "8883   # plain")
    assert edited(FILE, node_name='a "b"') == FILE.replace('"x"', '"a \\"b\\""')
    assert edited(FILE, buttons_1_prompts=["c"]) == FILE.replace('["b"]', '["c"]')


def test_a_new_key_stands_behind_the_last_of_its_table():
    assert edited(FILE, mqtt_tls=True) == FILE.replace('host = "a"\n', 'host = "a"\n  tls = true\n')
    assert edited(FILE, buttons_0_led=27) == FILE.replace("]\n\n[[", "]\nled = 27\n\n[[")


def test_a_new_section_and_a_new_button_stand_at_the_end():
    assert edited(FILE, engine_threads=2) == FILE + "\n\n[engine]\nthreads = 2\n"
    assert edited(FILE, buttons_2_pin=6, buttons_2_prompts=["q"]) == (
        FILE + '\n\n[[buttons]]\npin = 6\nprompts = ["q"]\n'
    )
    assert edited("", node_name="x") == '[node]\nname = "x"\n'


def test_removing():
    assert edited(FILE, mqtt_port=None) == FILE.replace("port = 1883   # plain\n", "")
    assert edited(FILE, buttons_0=None) == FILE.replace(
        '[[buttons]]\npin = 4 # red\nprompts = [\n  "a", # first\n]\n', ""
    )
    assert edited("[[buttons]]\npin = 1\n", buttons_0=None) == ""
    assert edited(FILE, buttons_0_pin=None) == FILE.replace("pin = 4 # red\n", "")
    assert edited(FILE, mqtt_tls=None) == FILE
    assert edited("", mqtt_tls=None) == ""


def test_windows_lines_stay_so():
    text = "[mqtt]\r\nport = 1\r\n"
    assert edited(text, mqtt_tls=True, node_name="x") == (
        '[mqtt]\r\nport = 1\r\ntls = true\r\n\r\n[node]\r\nname = "x"\r\n'
    )


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("mqtt = { port = 1 }\n", {"mqtt_tls": True}),
        ("mqtt = { port = 1 }\n", {"mqtt_port": None}),
        ("mqtt.port = 1\n", {"mqtt_tls": True}),
        ("mqtt = 5\n", {"mqtt_port": 1}),
        ("", {"buttons_1_pin": 4}),
        ("", {"buttons_0": None}),
        ("", {"buttons_0_pin": None}),
    ],
)
def test_a_layout_beyond_us_is_refused(text, changes):
    with pytest.raises(CannotEdit):
        edited(text, **changes)


def test_values_in_inline_tables_and_dotted_keys():
    assert edited("mqtt = { port = 1 } # x\n", mqtt_port=2) == "mqtt = { port = 2 } # x\n"
    assert edited("mqtt.port = 1 # x\n", mqtt_port=2) == "mqtt.port = 2 # x\n"


names = st.sampled_from(["a", "b c", "d"])
scalars = st.one_of(st.integers(-5, 5), st.booleans(), st.text(max_size=4), st.lists(st.text(max_size=3)))
documents = st.dictionaries(names, st.dictionaries(names, scalars, max_size=3), max_size=3)
comments = st.sampled_from(["", "# note", "   # [x] = 1"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents, names, names, st.one_of(st.none(), scalars), comments)
def test_what_is_written_reads_back(document, section, name, value, comment):
    lines = []
    for head, table in document.items():
        lines += [f"[{toml_value(head)}] {comment}", comment]
        lines += [f"  {toml_value(key)} = {toml_value(inner)} {comment}" for key, inner in table.items()]
    text = "\n".join(lines)
    after = edit_toml(text, [Change((section, name), value)])
    table = tomllib.loads(after).get(section, {})
    assert table.get(name) == value
    assert after.count("#") >= text.count("#") - (value is None or "#" in str(document))
