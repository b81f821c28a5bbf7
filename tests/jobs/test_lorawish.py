"""LoRA in a job's request, checked at the door."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from edgegen.errors import BadRequest
from edgegen.jobs.job import JobRequest, parse_request
from edgegen.settings import LimitSettings


def parse(loras: Any, **more: Any) -> JobRequest:
    data = json.dumps({"prompt": "a cat", "loras": loras, **more})
    return parse_request(data, LimitSettings(), source="mqtt", new_id=lambda: "x")


@pytest.mark.parametrize(
    "loras",
    [
        [],
        [{"name": "ink"}],
        [
            {"name": "Ink style (v2).safetensors", "strength": -0.5},
            {"name": "a/b/c", "strength": 1, "clip": 0},
        ],
    ],
)
def test_what_is_asked_is_kept(loras: list[dict[str, Any]]) -> None:
    request = parse(loras)
    assert request.loras == loras
    assert JobRequest(**json.loads(json.dumps(asdict(request)))) == request


@pytest.mark.parametrize(
    ("loras", "says"),
    [
        ("ink", "must be a list"),
        ({"name": "ink"}, "must be a list"),
        ([{"name": "x"}] * 9, "at most 8"),
        (["ink"], "no object with a name"),
        ([{"strength": 1}], "no object with a name"),
        ([{"name": "ink", "weight": 1}], "weight.* is not known there"),
        ([{"name": 5}], "no LoRA's name"),
        ([{"name": ""}], "no LoRA's name"),
        ([{"name": "../ink"}], "no LoRA's name"),
        ([{"name": "a/../ink"}], "no LoRA's name"),
        ([{"name": "/etc/passwd"}], "no LoRA's name"),
        ([{"name": "a\\b"}], "no LoRA's name"),
        ([{"name": "a\0b"}], "no LoRA's name"),
        ([{"name": "x" * 101}], "no LoRA's name"),
        ([{"name": "ink", "strength": 101}], "-100 to 100"),
        ([{"name": "ink", "strength": True}], "-100 to 100"),
        ([{"name": "ink", "clip": "1"}], "-100 to 100"),
        ([{"name": "ink", "strength": None}], "-100 to 100"),
        ([{"name": "ink", "strength": 10**400}], "-100 to 100"),
    ],
)
def test_the_rest_is_refused(loras: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=f"^loras: .*{says}"):
        parse(loras)


def test_a_workflow_has_nodes_for_it() -> None:
    with pytest.raises(BadRequest, match="goes with a prompt only: a workflow has LoraLoader"):
        parse([{"name": "ink"}], workflow={"1": {"class_type": "X", "inputs": {}}})
