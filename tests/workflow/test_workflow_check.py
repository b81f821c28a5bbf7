from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.workflow import (
    BadWorkflow,
    CheckedWorkflow,
    Input,
    Link,
    NodeSpec,
    check_workflow,
    fill_placeholders,
    override_inputs,
    parse_workflow,
)
from edgegen.workflow.parse import workflow_from

SPECS = {
    "Empty": NodeSpec("Empty", {"width": Input("INT", 512, 16, 16384)}, ("LATENT",)),
    "Mix": NodeSpec(
        "Mix",
        {
            "one": Input("LATENT"),
            "other": Input("LATENT", optional=True),
            "how": Input("COMBO", choices=("add", "blend")),
            "factor": Input("FLOAT", 0.5, 0, 1),
        },
        ("LATENT", "IMAGE"),
    ),
    "Save": NodeSpec("Save", {"images": Input("IMAGE"), "name": Input("STRING", "x")}, (), True),
}


def graph(**changes: Any) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "1": {"class_type": "Empty", "inputs": {"width": 64}},
        "2": {"class_type": "Mix", "inputs": {"one": ["1", 0], "how": "add", "factor": 1}},
        "3": {"class_type": "Save", "inputs": {"images": ["2", 1], "name": "a"}},
    }
    for where, value in changes.items():
        node, _, name = where.removeprefix("n").partition("_")
        if value is None:
            del nodes[node]["inputs"][name]
        else:
            nodes[node]["inputs"][name] = value
    return nodes


def check(data: dict[str, Any]) -> CheckedWorkflow:
    return check_workflow(workflow_from(data), SPECS)


def problems(data: dict[str, Any]) -> BadWorkflow:
    with pytest.raises(BadWorkflow) as caught:
        check(data)
    json.dumps(caught.value.response(), allow_nan=False)
    return caught.value


def test_a_right_one_comes_in_order_with_its_values_typed() -> None:
    data = dict(reversed(graph(n1_width="64", n2_factor="0.25").items()))
    checked = check(data)
    assert list(checked.nodes) == ["1", "2", "3"]
    assert checked.nodes["1"].inputs == {"width": 64}
    assert checked.nodes["2"].inputs == {"one": Link("1", 0), "how": "add", "factor": 0.25}
    assert checked.outputs == ["3"]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        (
            {"n1_width": 8},
            "value_smaller_than_min",
            "node 1 (Empty) width: 8 is too small; allowed are 16 to",
        ),
        ({"n1_width": 10**30}, "value_bigger_than_max", "too big; allowed are 16 to 16384"),
        ({"n1_width": 64.5}, "invalid_input_type", "64.5 must be a whole number, 16 to 16384"),
        ({"n1_width": True}, "invalid_input_type", "must be a whole number"),
        ({"n1_width": None}, "required_input_missing", "width: is missing; it takes 16 to 16384"),
        ({"n1_wdith": 64}, "unknown_input", "Empty has no such input; did you mean width?"),
        ({"n2_factor": "1e999"}, "invalid_input_type", "must be a number, 0 to 1"),
        ({"n2_how": "ad"}, "value_not_in_list", "'ad' is none of those allowed: add, blend"),
        ({"n2_one": 5}, "bad_linked_input", "5 needs a link to an output of type LATENT"),
        ({"n2_one": [1, 2, 3]}, "bad_linked_input", "is no link"),
        ({"n2_one": ["9", 0]}, "bad_linked_input", "linked to node '9', which is missing"),
        (
            {"n2_one": ["1", 1]},
            "bad_linked_input",
            "output 1 of node '1' (Empty), whose outputs are 0 (LATENT)",
        ),
        ({"n3_images": ["2", 0]}, "return_type_mismatch", "takes IMAGE, but is linked to LATENT of node '2'"),
        ({"n3_name": ["1", 0]}, "return_type_mismatch", "takes STRING"),
        ({"n2_one": ["2", 0]}, "dependency_cycle", "in a circle: 2 <- 2"),
    ],
)
def test_each_problem_names_node_field_value_and_what_is_allowed(changes, kind: str, said: str) -> None:
    found = problems(graph(**changes))
    assert [problem.kind for problem in found.found] == [kind]
    assert said in str(found)
    (node,) = found.node_errors.values()
    (error,) = node["errors"]
    assert (error["type"], node["dependent_outputs"]) == (kind, ["3"])
    assert set(error) == {"type", "message", "details", "extra_info"}
    assert error["extra_info"]["input_name"] in error["details"]


def test_all_problems_at_once_also_of_unknown_classes_and_circles() -> None:
    data = graph(n1_width=1, n2_how="x", n2_factor=7, n3_name=5, n2_other=["4", 0])
    data["4"] = {"class_type": "Mixx", "inputs": {"one": ["5", 0]}}
    data["5"] = {"class_type": "Mix", "inputs": {"one": ["4", 0], "how": "add", "factor": 1}}
    found = problems(data)
    assert sorted(problem.kind for problem in found.found) == [
        "dependency_cycle", "invalid_input_type", "missing_node_type", "value_bigger_than_max",
        "value_not_in_list", "value_smaller_than_min",
    ]  # fmt: skip
    assert "class 'Mixx' is not supported; did you mean Mix?" in str(found)
    assert found.response()["error"]["type"] == "prompt_outputs_failed_validation"


def test_what_no_output_needs_is_neither_checked_nor_run() -> None:
    data = graph() | {"9": {"class_type": "Unheard", "inputs": {"x": ["10", 0]}}}
    assert (list(check(data).nodes), check(data).unused) == (["1", "2", "3"], ["9"])
    del data["3"]
    assert {problem.kind for problem in problems(data).found} == {
        "prompt_no_outputs", "missing_node_type",
    }  # fmt: skip


def test_what_the_editor_leaves_behind_is_passed_over() -> None:
    assert "upload" not in check(graph(n1_upload="image")).nodes["1"].inputs


def test_a_class_may_have_more_to_say() -> None:
    def custom(class_type: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if class_type == "Empty" and values["width"] % 64:
            yield "width", f"{values['width']} is no multiple of 64"

    check_workflow(workflow_from(graph()), SPECS, custom)
    with pytest.raises(BadWorkflow, match=r"node 1 \(Empty\) width: 65 is no multiple of 64"):
        check_workflow(workflow_from(graph(n1_width=65)), SPECS, custom)


def test_placeholders_and_overrides() -> None:
    form = workflow_from(graph(n1_width="%side%", n3_name="%subject% 100% %width%"))
    filled = fill_placeholders(form, {"side": "96", "subject": "%side%", "width": "w"})
    assert check_workflow(filled, SPECS).nodes["1"].inputs["width"] == 96
    assert filled.nodes["3"].inputs["name"] == "%side% 100% w"
    with pytest.raises(BadWorkflow) as caught:
        fill_placeholders(form, {"sid": "1", "width": "2"})
    said = str(caught.value)
    assert "node 1 (Empty) width: the placeholder %side% has no value" in said
    assert "no placeholder %sid%; it has %side%, %subject%, %width%" in said
    changed = override_inputs(workflow_from(graph()), {("1", "width"): "128"})
    assert check_workflow(changed, SPECS).nodes["1"].inputs["width"] == 128
    with pytest.raises(BadWorkflow, match="no node 'x'"):
        override_inputs(form, {("x", "width"): 1})


@st.composite
def dags(draw: st.DrawFn) -> dict[str, Any]:
    """A right graph whose ids tell nothing of the order."""
    count = draw(st.integers(1, 12))
    ids = draw(st.permutations([str(k) for k in range(count)]))
    nodes: dict[str, Any] = {}
    for k, node_id in enumerate(ids):
        earlier = st.sampled_from(ids[:k]) if k else st.nothing()
        if k == 0 or draw(st.booleans()):
            nodes[node_id] = {"class_type": "Empty", "inputs": {"width": draw(st.integers(16, 16384))}}
        else:
            inputs = {"one": [draw(earlier), 0], "other": [draw(earlier), 0], "how": "add", "factor": 0}
            nodes[node_id] = {"class_type": "Mix", "inputs": inputs}
    last = next((i for i in reversed(ids) if nodes[i]["class_type"] == "Mix"), None)
    if last is None:
        last = "mix"
        nodes[last] = {"class_type": "Mix", "inputs": {"one": [ids[0], 0], "how": "add", "factor": 0}}
    nodes["save"] = {"class_type": "Save", "inputs": {"images": [last, 1], "name": ""}}
    return dict(draw(st.permutations(list(nodes.items()))))


@settings(max_examples=40, deadline=None)
@given(dags())
def test_every_node_runs_after_those_it_needs(data: dict[str, Any]) -> None:
    checked = check_workflow(parse_workflow(json.dumps(data)), SPECS)
    order = list(checked.nodes)
    assert set(order) | set(checked.unused) == set(data)
    assert not set(order) & set(checked.unused)
    for node in checked.nodes.values():
        for link in (value for value in node.inputs.values() if isinstance(value, Link)):
            assert order.index(link.node) < order.index(node.id)
