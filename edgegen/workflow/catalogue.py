"""Which classes of nodes this version knows, for those that must not load the engine to check a workflow.

`catalogue.json` is made from the nodes themselves: `python -m edgegen.engine.nodes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from .declare import Input, NodeSpec

FILE = Path(__file__).with_name("catalogue.json")


@cache
def catalogue() -> dict[str, NodeSpec]:
    """The specs by class, read once."""
    return {name: _spec(name, data) for name, data in json.loads(FILE.read_text("utf-8")).items()}


def catalogue_text(specs: Mapping[str, NodeSpec]) -> str:
    """What `catalogue.json` has to hold: a class a line, what is default left out."""
    lines = (f"{json.dumps(name)}: {json.dumps(_data(spec))}" for name, spec in sorted(specs.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _data(spec: NodeSpec) -> dict[str, Any]:
    plain = asdict(Input(""))
    inputs = {
        name: {key: value for key, value in asdict(declared).items() if value != plain[key]}
        for name, declared in spec.inputs.items()
    }
    return {"inputs": inputs, "outputs": spec.outputs, "is_output": spec.is_output}


def _spec(name: str, data: dict[str, Any]) -> NodeSpec:
    inputs = {
        key: Input(**{**declared, "choices": tuple(declared.get("choices", ()))})
        for key, declared in data["inputs"].items()
    }
    return NodeSpec(name, inputs, tuple(data["outputs"]), data["is_output"])
