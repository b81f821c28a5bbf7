"""Payloads and configurations that nobody would write are read, or refused with reasons."""

from __future__ import annotations

import json
import os

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from edgegen.config.files import load_effective
from edgegen.errors import BadRequest, ConfigError
from edgegen.frontends.mqtt.messages import rejection, to_json
from edgegen.jobs.job import JOB_ID, parse_request, peek_identity
from edgegen.jobs.service import new_job_id
from edgegen.settings import LimitSettings, Settings

SEED = int(os.environ.get("TORTURE_SEED", "1"))
EXAMPLES = int(os.environ.get("TORTURE_EXAMPLES", "60"))
BOUNDS = settings(max_examples=EXAMPLES, deadline=None, database=None)
LIMITS = LimitSettings()
KEYS = (
    "id",
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance",
    "width",
    "sampler",
    "pack",
    "deadline",
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
OBJECTS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), VALUES, max_size=8)
PAYLOADS = st.binary(max_size=300) | st.text(max_size=200).map(lambda s: s.encode("utf-8", "replace"))


def check(payload: bytes) -> None:
    try:
        request = parse_request(payload, LIMITS, source="mqtt", new_id=new_job_id)
    except BadRequest as err:
        job_id, transaction = peek_identity(payload)
        status = json.loads(to_json(rejection(err, job_id or "new", transaction)))
        assert status["reason"]
        assert len(to_json(status)) < 20_000, "a refusal is not longer than what it refuses needs"
        return
    assert JOB_ID.fullmatch(request.id)
    assert request.prompt.strip()
    assert request.steps is None or 1 <= request.steps <= LIMITS.steps


@seed(SEED)
@BOUNDS
@given(PAYLOADS)
def test_any_bytes(payload):
    check(payload)


@seed(SEED)
@BOUNDS
@given(OBJECTS)
def test_any_object(value):
    check(json.dumps(value).encode())


SECTIONS = st.sampled_from([*Settings.model_fields, "mqqt", ""])
NAMES = st.sampled_from(["name", "port", "enabled", "reserve_mb", "steps", "prompts", "pin", "dir", "x-y"])
TOML_VALUES = st.sampled_from(
    ['"a"', "1", "-1", "1e400", "true", "[]", "{}", "nan", "1979-05-27", '"\\u0000"', "["]
)
LINES = st.tuples(NAMES, TOML_VALUES).map(" = ".join) | SECTIONS.map("[{}]".format) | st.text(max_size=20)


@seed(SEED)
@BOUNDS
@given(lines=st.lists(LINES, max_size=8))
def test_any_configuration(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
    try:
        effective = load_effective(path, {})
    except ConfigError as err:
        assert str(err), "a refusal says why"
    else:
        assert isinstance(effective.settings, Settings)
