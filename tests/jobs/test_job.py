"""Requests from outside: what is taken, and what is said about the rest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.errors import BadRequest
from edgegen.jobs.job import JobRequest, parse_request, peek_identity
from edgegen.settings import LimitSettings

LIMITS = LimitSettings()


def parse(payload, limits=LIMITS) -> JobRequest:
    return parse_request(payload, limits, source="mqtt", new_id=lambda: "ours")


def problems(payload) -> dict[str, str]:
    with pytest.raises(BadRequest) as caught:
        parse(payload)
    return {problem.field: problem.message for problem in caught.value.problems}


def test_a_bare_prompt():
    assert parse(b"  a red apple\n") == JobRequest(id="ours", prompt="a red apple", source="mqtt")
    assert parse("ein Café".encode()).prompt == "ein Café"
    assert parse(b"\xef\xbb\xbfbyte order mark").prompt == "byte order mark"
    assert parse(b"42").prompt == "42"


def test_every_field_of_the_contract():
    fields = {
        "id": "ha-1",
        "prompt": "a red apple",
        "negative_prompt": "blurry",
        "seed": 7,
        "steps": 20,
        "guidance": 7,
        "width": 256,
        "height": 512,
        "sampler": "euler",
        "schedule": "karras",
        "pack": "pocket",
        "priority": -5,
        "deadline": 1_800_000_000,
        "transaction": "t1",
    }
    request = parse(json.dumps(fields))
    assert request == JobRequest(source="mqtt", **fields)
    assert isinstance(request.guidance, float)


def test_guidance_0_says_none():
    assert parse('{"prompt": "x", "guidance": 0}').guidance == 0.0
    for wrong in ("false", "0.5", "-0.5"):
        assert "guidance" in problems(f'{{"prompt": "x", "guidance": {wrong}}}')


def test_null_means_the_default():
    assert parse('{"prompt": "x", "seed": null, "id": null}') == JobRequest("ours", "x", source="mqtt")


def test_every_problem_at_once():
    found = problems(
        '{"prompt": " ", "stepz": 3, "steps": "20", "width": 9000, "seed": true, "sampler": "eular", '
        '"schedule": "carras"}'
    )
    assert found == {
        "prompt": "is empty: say what to draw",
        "stepz": "unknown key; did you mean steps?",
        "steps": 'must be a whole number from 1 to 100, not text ("20")',
        "width": "9000 is not allowed: 8 to 1024",
        "seed": "must be a whole number from 0 to 9223372036854775807, not a boolean (true)",
        "sampler": '"eular" is no sampler; did you mean euler?',
        "schedule": '"carras" is no schedule; did you mean karras?',
    }


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "not UTF-8 text: byte 0xff at offset 0"),
        (b'{"prompt": "x",}', "broken JSON: "),
        (b'{"prompt": "x"', "line 1, column 15"),
        (b'{"prompt": "x", "guidance": NaN}', "NaN"),
        (b'{"prompt": "x", "guidance": 1e999}', "not allowed: 1 to 30"),
        (b'{"prompt": "x", "seed": -Infinity}', "-Infinity"),
        (b'{"prompt": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"seed": ' + b"9" * 4000 + b', "prompt": "x"}', "not allowed: 0 to"),
        (b'{"prompt": "x", "prompt": "y"}', '"prompt" twice'),
        (b"{}", "missing: say what to draw"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "a\\u0000b"}', "control character U+0000"),
        (b"a\x00b", "control character U+0000"),
        (b'{"prompt": ["x"]}', "must be text, not a list"),
        (b'{"prompt": "x", "steps": 2.0}', "must be a whole number"),
        (b'{"prompt": "x", "steps": 0}', "0 is not allowed: 1 to 100"),
        (b'{"prompt": "x", "id": "a/b"}', '"a/b" must be 1 to 64'),
        (b'{"prompt": "x", "id": "a\\n"}', "must be 1 to 64"),
        (b'{"prompt": "x", "id": ""}', "must be 1 to 64"),
        (b'{"prompt": "x", "pack": "../etc"}', "no path"),
        (b'{"prompt": "x", "priority": 101}', "-100 to 100"),
        (b'{"prompt": "x", "deadline": "soon"}', "must be a number"),
        (b'{"workflow": {}}', "the workflow has no nodes"),
        (b'{"workflow": "../x"}', "or the name of a stored one"),
        (b'{"workflow": "x"}', "no workflows are stored here"),
        (b'{"workflow": [1]}', "must be a workflow in ComfyUI's API format"),
        (b'{"prompt": "x", "inputs": {"6.text": "y"}}', "goes with a workflow only"),
        (b'{"workflow": {}, "inputs": {"text": "y"}}', "names no node and input"),
        (b'{"workflow": {}, "values": {"seed": "y"}}', "is no name"),
        (b"x" * 1001, "has 1001 characters; at most 1000 are allowed"),
    ],
)
def test_says_what_is_wrong(payload, said):
    assert said in "; ".join(f"{key}: {message}" for key, message in problems(payload).items())


def test_limits_come_from_the_settings():
    limits = LimitSettings(steps=4, side=256, guidance=2, prompt_chars=5)
    with pytest.raises(BadRequest) as caught:
        parse({"prompt": "abcdef", "steps": 5, "width": 264, "guidance": 2.5}, limits)
    assert [problem.field for problem in caught.value.problems] == ["guidance", "prompt", "steps", "width"]


def test_identity_of_a_wrong_request():
    assert peek_identity('{"id": "a", "transaction": "t", "steps": "many"}') == ("a", "t")
    assert peek_identity('{"id": "a/b", "transaction": 5}') == (None, None)
    assert peek_identity(b"\xff") == (None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
known_keys = st.sampled_from([*JobRequest.__dataclass_fields__, "workflow", "promt"])


@settings(deadline=None)
@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(known_keys | st.text(), json_values).map(lambda data: json.dumps(data).encode())
)
def test_any_bytes_parse_or_are_refused(payload):
    try:
        request = parse(payload)
    except BadRequest as err:
        assert str(err).encode()
        assert err.problems
    else:
        assert 1 <= len(request.prompt) <= LIMITS.prompt_chars
        json.dumps(vars(request), allow_nan=False).encode()
    peek_identity(payload)


@settings(deadline=None)
@given(st.dictionaries(known_keys | st.text(), json_values))
def test_any_dictionary_parses_or_is_refused(data):
    try:
        parse(data)
    except BadRequest as err:
        assert err.problems
