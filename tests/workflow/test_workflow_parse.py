from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.workflow import BadWorkflow, Link, parse_workflow
from edgegen.workflow.parse import MAX_BYTES, MAX_NODES

EXAMPLES = Path(__file__).parent / "examples"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NODE = st.fixed_dictionaries({}, optional={"class_type": JSON, "inputs": JSON, "_meta": JSON})


def refusal(raw: bytes | str) -> str:
    with pytest.raises(BadWorkflow) as caught:
        parse_workflow(raw)
    assert caught.value.response()["error"]["type"]
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_workflows_as_comfyui_saves_them(path: Path) -> None:
    data = json.loads(path.read_text("utf-8"))
    workflow = parse_workflow(path.read_bytes())
    assert workflow.as_data() == data
    sampler = workflow.nodes["3"]
    assert sampler.class_type == "KSampler"
    assert isinstance(sampler.inputs["model"], Link)


def test_as_it_is_posted_to_the_server() -> None:
    nodes = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    editor = {"nodes": [], "links": []}
    posted = {"prompt": nodes, "client_id": "x", "extra_data": {"extra_pnginfo": {"workflow": editor}}}
    workflow = parse_workflow(json.dumps(posted))
    assert (workflow.as_data(), workflow.editor) == (nodes, editor)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "is a JSON object of nodes, not list"),
        (b"{}", "has no nodes"),
        (b'{"1": {"class_type": "A"}, "1": {"class_type": "B"}}', "'1' is there twice"),
        (b'{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN is not a number"),
        (b'{"1": {"class_type": "A", "inputs": {"x": ' + b"9" * 5000 + b"}}}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 50 + b"]" * 50 + b"}", "deeper than 16 levels"),
        (b" " * (MAX_BYTES + 1), f"at most {MAX_BYTES} are allowed"),
        (json.dumps({str(k): {} for k in range(MAX_NODES + 1)}).encode(), f"at most {MAX_NODES}"),
        (b'{"nodes": [{"id": 1}], "links": [], "version": 0.4}', r'"Save \(API Format\)"'),
    ],
)
def test_what_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(BadWorkflow, match=reason):
        parse_workflow(raw)


def test_all_bad_nodes_are_named_at_once() -> None:
    said = refusal('{"1": 5, "2": {}, "3": {"class_type": "A", "inputs": []}, "4": {"class_type": "B"}}')
    assert said.count("; node ") == 2
    assert "node 3 (A): inputs is a JSON object, not list" in said


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60) | st.dictionaries(st.text(max_size=4), NODE | JSON, max_size=4))
def test_junk_is_refused_or_read_but_never_crashes(junk: object) -> None:
    raw = junk if isinstance(junk, bytes) else json.dumps(junk)
    try:
        workflow = parse_workflow(raw)
    except BadWorkflow as err:
        assert str(err).isascii() or str(err).isprintable() or "\n" not in str(err)
        json.dumps(err.response())
    else:
        assert parse_workflow(json.dumps(workflow.as_data())) == workflow
