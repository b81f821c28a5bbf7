"""Workflows as jobs, at the door: filled in, checked, refused with every reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgegen.errors import BadRequest, BlockedPrompt
from edgegen.jobs.admission import PromptRules, check_words
from edgegen.jobs.job import Job, JobRequest, JobState, parse_request
from edgegen.jobs.shell import describe_job
from edgegen.jobs.workflowjob import WorkflowFolder
from edgegen.settings import LimitSettings, PromptSettings
from edgegen.workflow import BadWorkflow
from tests.support import text_to_image_graph as graph


@pytest.fixture
def stored(tmp_path: Path) -> WorkflowFolder:
    (tmp_path / "portrait.json").write_text(
        json.dumps(graph("a portrait of %subject%, %prompt%", seed="%seed%"))
    )
    return WorkflowFolder(tmp_path)


def parse(folder: WorkflowFolder, **data: Any) -> JobRequest:
    payload = json.dumps(data).encode()
    return parse_request(
        payload, LimitSettings(), source="mqtt", new_id=lambda: "ours", read_stored=folder.read
    )


def nodes_of(request: JobRequest) -> dict[str, Any]:
    assert request.workflow is not None
    return json.loads(request.workflow)


def refusal(folder: WorkflowFolder, **data: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(folder, **data)
    return caught.value


def test_a_graph_is_kept_as_it_came(stored: WorkflowFolder) -> None:
    request = parse(stored, workflow=graph(), priority=3, transaction="t")
    assert nodes_of(request) == graph()
    assert (request.prompt, request.workflow_name, request.title) == ("", "inline", "workflow inline")
    assert (request.id, request.priority, request.transaction, request.seed) == ("ours", 3, "t", None)


def test_a_stored_form_is_filled_in_from_the_payload(stored: WorkflowFolder) -> None:
    request = parse(stored, workflow="portrait", prompt="in oil", seed=5, values={"subject": "a cat"})
    nodes = nodes_of(request)
    assert nodes["6"]["inputs"]["text"] == "a portrait of a cat, in oil"
    assert nodes["3"]["inputs"]["seed"] == "5", "a number when it is checked"
    assert (request.title, request.workflow_name, request.seed) == ("in oil", "portrait", 5)


def test_a_form_without_a_seed_gets_one_that_is_kept_with_the_job(stored: WorkflowFolder) -> None:
    asked = {"workflow": "portrait", "prompt": "x", "values": {"subject": "a cat"}}
    seeds = {parse(stored, **asked).seed for _ in range(3)}
    assert len(seeds) == 3
    request = parse(stored, **asked)
    assert nodes_of(request)["3"]["inputs"]["seed"] == str(request.seed)


def test_inputs_override_nodes_and_links(stored: WorkflowFolder) -> None:
    request = parse(stored, workflow=graph(), inputs={"6.text": "a blue cat", "3.steps": 9, "5.width": 32})
    nodes = nodes_of(request)
    assert (nodes["6"]["inputs"]["text"], nodes["3"]["inputs"]["steps"]) == ("a blue cat", 9)


def test_what_is_posted_to_comfyui_keeps_the_editors_form(stored: WorkflowFolder) -> None:
    posted = {"prompt": graph(), "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [1]}}}}
    assert nodes_of(parse(stored, workflow=posted)) == posted


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"workflow": "portrat"}, "did you mean portrait?"),
        ({"workflow": "nothing like it"}, "stored are portrait"),
        ({"workflow": "portrait", "prompt": "x"}, "the placeholder %subject% has no value"),
        ({"workflow": graph(), "prompt": "x"}, "has no placeholder %prompt%; it has none"),
        ({"workflow": graph(), "inputs": {"66.text": "x"}}, "has no node '66'; did you mean 6?"),
        ({"workflow": graph(), "inputs": {"6.txt": "x"}}, "did you mean text?"),
        ({"workflow": graph(steps=101)}, "101 is not allowed here: 1 to 100 (limits.steps)"),
        ({"workflow": graph("x" * 1001)}, "at most 1000 are allowed (limits.prompt_chars)"),
        ({"workflow": graph(), "inputs": {"5.width": 2048}}, "at most 1024 (limits.side)"),
        ({"workflow": graph("\ud800")}, "half a surrogate pair"),
        ({"workflow": {**graph(), "1" * 60: {"class_type": "x" * 70_000}}}, "at most 65536 are taken"),
        ({"workflow": {"nodes": [], "links": []}}, "Save (API Format)"),
        ({"workflow": {"1": {"class_type": "Sampler"}}}, "has no output"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(stored: WorkflowFolder, data: dict[str, Any], says: str) -> None:
    assert says in str(refusal(stored, **data))


def test_every_problem_at_once_in_comfyuis_shape(stored: WorkflowFolder) -> None:
    error = refusal(stored, workflow=graph(steps=0, sampler_name="eulr"), inputs={"5.width": "wide"})
    assert isinstance(error, BadWorkflow)
    assert error.code == "bad_workflow"
    found = {node: [e["type"] for e in told["errors"]] for node, told in error.node_errors.items()}
    assert found == {"3": ["value_smaller_than_min", "value_not_in_list"], "5": ["invalid_input_type"]}
    assert error.node_errors["3"]["dependent_outputs"] == ["9"]


def test_only_plain_files_of_the_folder_are_read(tmp_path: Path, stored: WorkflowFolder) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "bad name!.json").touch()
    (tmp_path / "big.json").write_bytes(b" " * ((1 << 20) + 1))
    assert stored.names() == ["big", "portrait"]
    for name in ("pipe", "folder"):
        assert "is stored here" in str(refusal(stored, workflow=name))
    assert "at most 1048576" in str(refusal(stored, workflow="big"))
    assert WorkflowFolder(tmp_path / "none").names() == []


@pytest.mark.parametrize("node", ["6", "7", "12"])
def test_word_lists_see_every_text_of_a_workflow(stored: WorkflowFolder, node: str) -> None:
    nodes = graph()
    nodes["12"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "unused", "clip": ["4", 1]}}
    nodes[node]["inputs"]["text"] = "a (GÜN:1.2)"
    rules = PromptRules(PromptSettings(block=("gun",)))
    with pytest.raises(BlockedPrompt):
        check_words(rules, parse(stored, workflow=nodes))
    check_words(rules, parse(stored, workflow=graph()))


def test_an_allow_list_is_asked_for_words_to_draw_only(stored: WorkflowFolder) -> None:
    rules = PromptRules(PromptSettings(allow=("a red apple", "dog")))
    check_words(rules, parse(stored, workflow=graph()))
    with pytest.raises(BlockedPrompt):
        check_words(rules, parse(stored, workflow=graph("a red car")))
    with pytest.raises(BlockedPrompt):
        check_words(rules, JobRequest("a", "a dog", negative_prompt="a car"))


def test_shells_are_told_its_name_not_all_of_it(stored: WorkflowFolder) -> None:
    told = describe_job(Job(parse(stored, workflow=graph()), JobState.QUEUED, 0.0))
    assert (told["workflow_name"], "workflow" in told) == ("inline", False)
