"""Lines of TOML keys: those of every form of TOML, and for whatever text tomllib takes."""

from __future__ import annotations

import tomllib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegen.cli.reference import toml_value
from edgegen.config.tomllines import key_lines

EVERY_FORM = '''# a comment with = and [brackets]
top = 1 # [not.a.table]
"quoted \\" key" = "a # b"
a.b . c = 'lit'
[mqtt]
host = """
port = 1
\\""" still inside"""
port = 1883
pins = [ # comment ]
  17,
  [1, 2],
  "]",
]
inline = { x = 1, y = { z = "}" } }
[[buttons]]
pin = 4
[buttons.more]
deep = true
[[buttons]]
pin = 5
[ "spaced" . table ]
when = 1979-05-27 07:32:00Z
text = \'\'\'
pin = 9
\'\'\'
last = -1'''


def test_every_form_of_toml():
    tomllib.loads(EVERY_FORM)
    assert key_lines(EVERY_FORM) == {
        ("top",): 2,
        ('quoted " key',): 3,
        ("a",): 4,
        ("a", "b"): 4,
        ("a", "b", "c"): 4,
        ("mqtt",): 5,
        ("mqtt", "host"): 6,
        ("mqtt", "port"): 9,
        ("mqtt", "pins"): 10,
        ("mqtt", "pins", 0): 11,
        ("mqtt", "pins", 1): 12,
        ("mqtt", "pins", 1, 0): 12,
        ("mqtt", "pins", 1, 1): 12,
        ("mqtt", "pins", 2): 13,
        ("mqtt", "inline"): 15,
        ("mqtt", "inline", "x"): 15,
        ("mqtt", "inline", "y"): 15,
        ("mqtt", "inline", "y", "z"): 15,
        ("buttons",): 16,
        ("buttons", 0): 16,
        ("buttons", 0, "pin"): 17,
        ("buttons", 0, "more"): 18,
        ("buttons", 0, "more", "deep"): 19,
        ("buttons", 1): 20,
        ("buttons", 1, "pin"): 21,
        ("spaced",): 22,
        ("spaced", "table"): 22,
        ("spaced", "table", "when"): 23,
        ("spaced", "table", "text"): 24,
        ("spaced", "table", "last"): 27,
    }


def places(value, place=()):
    """Every place of what tomllib read."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
scalars = st.one_of(st.integers(-9, 9), st.booleans(), texts)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3), max_leaves=6)
tables = st.dictionaries(texts, values, max_size=4)


@PATIENT
@given(st.dictionaries(texts, st.one_of(tables, st.lists(tables, min_size=1, max_size=3)), max_size=3))
def test_no_key_is_missed_and_none_invented(document):
    lines = []
    for section, content in document.items():
        listed = isinstance(content, list)
        for table in content if listed else [content]:
            name = toml_value(section)
            lines.append(f"[[{name}]]" if listed else f"[{name}]")
            lines += [f"{toml_value(key)} = {toml_value(value)}" for key, value in table.items()]
    text = "\n".join(lines)
    assert tomllib.loads(text) == document
    assert set(key_lines(text)) == set(places(document))


@PATIENT
@given(st.text(alphabet="ab=.\"[]{},#\\\n'1 ", max_size=40))
def test_whatever_tomllib_takes_can_be_walked(text):
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        key_lines(text)  # ends, and does not raise
        return
    assert set(key_lines(text)) == set(places(document))
