"""What only says a value is worked out before a workflow is checked, so that every bound still holds."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from edgegen.jobs.workflowjob import words_in
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow, CheckedWorkflow, Link, catalogue, check_workflow
from edgegen.workflow.bounds import bound_problems
from edgegen.workflow.declare import MAX_TEXT_CHARS
from edgegen.workflow.parse import workflow_from
from tests.support import text_to_image_graph


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def check(nodes: dict[str, Any]) -> CheckedWorkflow:
    limits = LimitSettings()
    return check_workflow(
        workflow_from(nodes), catalogue(), lambda kind, plain: bound_problems(plain, limits, kind)
    )


def problems(nodes: dict[str, Any]) -> list[str]:
    with pytest.raises(BadWorkflow) as caught:
        check(nodes)
    return [str(problem) for problem in caught.value.found]


def told(**said: dict[str, Any]) -> dict[str, Any]:
    """The example, with nodes that say its words, steps and width."""
    nodes = text_to_image_graph() | said
    links = {"text": ("6", "words"), "steps": ("3", "steps"), "width": ("5", "width"), "cfg": ("3", "cfg")}
    for name, (node_id, source) in links.items():
        if source in said:
            nodes[node_id]["inputs"][name] = [source, 0]
    return nodes


def test_values_take_the_place_of_links_and_the_graph_is_kept_as_written() -> None:
    checked = check(
        told(
            words=node("StringConcatenate", string_a=["head", 0], string_b="apple", delimiter=" "),
            head=node("PrimitiveStringMultiline", value="a red"),
            steps=node("PrimitiveInt", value=3, control_after_generate="fixed"),
            cfg=node("PrimitiveFloat", value=2.5),
        )
    )
    inputs = checked.nodes["3"].inputs
    assert (inputs["steps"], inputs["cfg"], checked.nodes["6"].inputs["text"]) == (3, 2.5, "a red apple")
    assert checked.written.nodes["3"].inputs["steps"] == Link("steps", 0)
    assert (set(checked.nodes) & {"words", "head", "steps", "cfg"}, checked.unused) == (set(), [])


@pytest.mark.parametrize(("value", "other"), [(True, False), (False, True)])
def test_booleans_too(value: bool, other: bool) -> None:
    nodes = text_to_image_graph()
    nodes["said"] = node("PrimitiveBoolean", value=value)
    nodes["20"] = node("SolidMask", value=1.0, width=64, height=64)
    nodes["21"] = node("GrowMask", mask=["20", 0], expand=1, tapered_corners=["said", 0])
    nodes["22"] = node("MaskToImage", mask=["21", 0])
    nodes["23"] = node("PreviewImage", images=["22", 0])
    assert check(nodes).nodes["21"].inputs["tapered_corners"] is value is not other


def test_texts_are_replaced_as_there() -> None:
    said = node("StringReplace", string="a red apple", find="red", replace="green")
    assert check(told(words=said)).nodes["6"].inputs["text"] == "a green apple"
    said = node("StringReplace", string="ab", find="", replace="-")
    assert check(told(words=said)).nodes["6"].inputs["text"] == "-a-b-"


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"steps": node("PrimitiveInt", value=100_000)}, "node 3 (KSampler) steps: 100000 is too big"),
        ({"width": node("PrimitiveInt", value=8192)}, "node 5 (EmptyLatentImage) width: 8192 is not allowed"),
        ({"words": node("PrimitiveString", value="x" * 9999)}, "node 6 (CLIPTextEncode) text: has 9999"),
        ({"steps": node("PrimitiveInt", value="x")}, "node steps (PrimitiveInt) value: 'x' must be"),
        ({"steps": node("PrimitiveInt", value=sys.maxsize + 1)}, "node steps (PrimitiveInt) value"),
        (
            {"steps": node("PrimitiveFloat", value=3.0)},
            "node 3 (KSampler) steps: takes INT, but is linked to",
        ),
        ({"words": node("PrimitiveInt", value=3)}, "node 6 (CLIPTextEncode) text: takes STRING, but is"),
    ],
)
def test_what_they_say_is_bounded_where_it_is_used(said: dict[str, Any], where: str) -> None:
    assert [text[: len(where)] for text in problems(told(**said))] == [where]


def test_a_circle_of_texts_is_told_of() -> None:
    nodes = told(words=node("StringConcatenate", string_a=["words", 0], string_b="b", delimiter=""))
    assert any("wait for each other in a circle: words <- words" in text for text in problems(nodes))


def test_no_chain_makes_texts_without_bound() -> None:
    nodes = told(words=node("PrimitiveString", value="x" * 1000))
    for k in range(60):
        before = f"t{k - 1}" if k else "words"
        nodes[f"t{k}"] = node("StringReplace", string=[before, 0], find="x", replace="x" * 1000)
    nodes["6"]["inputs"]["text"] = ["t59", 0]
    checked = check(nodes)  # nothing wrong is known of it before it runs
    texts = [v for n in checked.nodes.values() for v in n.inputs.values() if isinstance(v, str)]
    assert max(map(len, texts)) <= MAX_TEXT_CHARS


def test_lists_of_words_see_what_is_joined() -> None:
    halves = node("StringConcatenate", string_a="forb", string_b="idden", delimiter="")
    assert "forbidden" in words_in(workflow_from(told(words=halves)))


def test_leftovers_of_extensions_are_no_inputs() -> None:
    nodes = text_to_image_graph()
    nodes["6"]["inputs"]["speak_and_recognation"] = True
    assert check(nodes).nodes["6"].inputs.keys() == {"text", "clip"}
