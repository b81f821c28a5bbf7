"""Workflows as jobs, at the door: stored ones found, forms filled in, all checked without the engine."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import BadRequest, Problem, shorten
from ..settings import LimitSettings
from ..workflow import (
    Workflow,
    catalogue,
    check_workflow,
    fill_placeholders,
    override_inputs,
    parse_workflow,
    placeholders_of,
)
from ..workflow.bounds import bound_problems
from ..workflow.constants import fold_constants
from ..workflow.declare import STRING
from ..workflow.parse import MAX_BYTES, workflow_from
from ..workflow.problems import whole

MAX_BYTES_OF_JOB = 65_536  # as JSON: the lines of the control socket and the rows of the queue are bounded
INLINE = "inline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
VALUE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
FILLS = (
    *("prompt", "negative_prompt", "seed", "steps", "guidance"),
    *("width", "height", "sampler", "schedule", "pack"),
)
MAX_VALUES = 100
_SUFFIX = ".json"

ReadStored = Callable[[str], bytes]


@dataclass(frozen=True)
class WorkflowFolder:
    """The stored workflows of a device: `NAME.json` in a folder. Read anew for every job."""

    folder: Path

    def names(self) -> list[str]:
        """Those that may be named, sorted."""
        try:
            found = [path.stem for path in self.folder.iterdir() if path.suffix == _SUFFIX and path.is_file()]
        except OSError:
            return []
        return sorted(name for name in found if NAME.fullmatch(name))

    def read(self, name: str) -> bytes:
        """A stored workflow's bytes. Raises BadRequest: there is none of that name."""
        path = self.folder / f"{name}{_SUFFIX}"
        try:
            if NAME.fullmatch(name) and path.is_file():  # never a pipe, whose reading would not end
                with path.open("rb") as file:
                    return file.read(MAX_BYTES + 1)
        except OSError as err:
            raise BadRequest([Problem("workflow", name, f"cannot be read: {err.strerror or err}")]) from None
        names = self.names()
        near = get_close_matches(name, names, n=1)
        known = ", ".join(names[:20]) or "none"
        hint = f"did you mean {near[0]}?" if near else f"stored are {known}"
        raise BadRequest([Problem("workflow", name, f"no workflow {shorten(name)} is stored here; {hint}")])


def nothing_stored(name: str) -> bytes:
    """For triggers without stored workflows. Raises BadRequest."""
    raise BadRequest([Problem("workflow", name, "no workflows are stored here: send the workflow itself")])


def prepare_workflow(
    data: Mapping[str, Any],
    limits: LimitSettings,
    read_stored: ReadStored,
    new_seed: Callable[[], int] = lambda: secrets.randbelow(2**32),
) -> tuple[Workflow, dict[str, Any]]:
    """A request's workflow, filled in and checked, and what was filled in beyond the request.

    Args:
        data: the request's keys, each right in itself; `workflow` is a graph or a stored one's name.
    Raises:
        BadWorkflow: lists every problem. BadRequest: no workflow of that name.
    """
    given = data["workflow"]
    graph = parse_workflow(read_stored(given)) if isinstance(given, str) else workflow_from(given)
    overrides = {(node, name): value for node, name, value in _overrides(data.get("inputs", {}))}
    graph = override_inputs(graph, overrides)
    added = _added(data, placeholders_of(graph), new_seed)
    values = {name: str(value) for name, value in {**data, **added}.items() if name in FILLS}
    values |= {name: str(value) for name, value in data.get("values", {}).items()}
    graph = fill_placeholders(graph, values)
    check_workflow(graph, catalogue(), lambda kind, plain: bound_problems(plain, limits, kind))
    _check_text(workflow_text(graph))
    return graph, added


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise whole("invalid_prompt", "the workflow holds half a surrogate pair, no character") from None
    if size > MAX_BYTES_OF_JOB:
        message = f"the workflow has {size} bytes; at most {MAX_BYTES_OF_JOB} are taken as a job"
        raise whole("invalid_prompt", message)


def _added(data: Mapping[str, Any], asked: set[str], new_seed: Callable[[], int]) -> dict[str, Any]:
    """A form that asks for a seed or a negative prompt gets one, when the request names none."""
    named = {*data, *data.get("values", {})}
    defaults: dict[str, Callable[[], Any]] = {"seed": new_seed, "negative_prompt": str}
    return {name: make() for name, make in defaults.items() if name in asked and name not in named}


def _overrides(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for key, value in inputs.items():
        node, _, name = key.rpartition(".")
        yield node, name, value


def workflow_text(graph: Workflow) -> str:
    """A workflow as a job carries it: JSON, as it is posted to ComfyUI."""
    data: dict[str, Any] = graph.as_data()
    if graph.editor is not None:
        data = {"prompt": data, "extra_data": {"extra_pnginfo": {"workflow": graph.editor}}}
    return json.dumps(data, ensure_ascii=False)


def words_in(graph: Workflow) -> list[str]:
    """Every text that may say what to draw, of unused nodes too, joined where nodes join them; names of files
    to write are none."""
    specs = catalogue()
    return [
        node.inputs[name]
        for node in fold_constants(graph, specs).nodes.values()
        if (spec := specs.get(node.class_type)) and not spec.is_output
        for name, declared in spec.inputs.items()
        if declared.kind == STRING and isinstance(node.inputs.get(name), str)
    ]


def check_given(value: Any) -> str | None:
    """What is wrong with a request's `workflow` by itself; None: nothing."""
    if isinstance(value, dict) or (isinstance(value, str) and NAME.fullmatch(value)):
        return None
    return 'must be a workflow in ComfyUI\'s API format, or the name of a stored one, as "portrait"'


def check_inputs(value: Any) -> str | None:
    """The same of `inputs`: {"node.input": plain value}."""
    if not isinstance(value, dict) or len(value) > MAX_VALUES:
        return f'must be an object of at most {MAX_VALUES} inputs, as {{"6.text": "a red apple"}}'
    for key, item in value.items():
        node, dot, name = key.rpartition(".")
        if not (node and dot and name):
            return f"{shorten(key)} names no node and input, as 6.text does"
        if not isinstance(item, str | int | float):
            return f"{shorten(key)} must be text, a number or a boolean"
    return None


def check_values(value: Any) -> str | None:
    """The same of `values`: {"name": text or number} for placeholders that no key of a request has."""
    if not isinstance(value, dict) or len(value) > MAX_VALUES:
        return f'must be an object of at most {MAX_VALUES} values, as {{"subject": "a red apple"}}'
    for key, item in value.items():
        if not VALUE_NAME.fullmatch(key) or key in FILLS:
            return f"{shorten(key)} is no name: 1 to 32 of a-z 0-9 _, and none of {', '.join(FILLS)}"
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            return f"{shorten(key)} must be text or a number"
    return None
