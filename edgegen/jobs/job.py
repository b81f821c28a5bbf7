"""A job: what was asked, and what became of it. Pure: no clock, no disk, no network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from ..errors import BadRequest, Problem, shorten
from ..settings import PROMPT_SYNTAXES, SAMPLERS, SCHEDULES, LimitSettings
from .lorawish import check_loras
from .payload import decode_payload
from .workflowjob import (
    INLINE,
    ReadStored,
    check_given,
    check_inputs,
    check_values,
    nothing_stored,
    prepare_workflow,
    workflow_text,
)

JOB_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
PACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_SEED = 2**63 - 1
MAX_DEADLINE = 253_402_300_799  # the last second of the year 9999
MAX_TRANSACTION_CHARS = 256
MIN_SIDE = 8


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class JobRequest:
    """What somebody asked for; None means the pack's own default.

    Attributes:
        id: the sender's unique id, or ours: 1 to 64 of A-Z a-z 0-9 _ . -
        priority: -100 to 100; higher goes first.
        deadline: Unix seconds after which nobody wants it any more.
        source: where it came from (`mqtt`, `button:17`, `cli`).
        transaction: echoed in every status (MQTT 3.1.1's stand-in for Correlation Data).
        response_topic, correlation: where an MQTT 5 sender wants statuses too, and its Correlation
            Data in hexadecimal; kept with the job so that a restart still answers.
        loras: files to merge into the pack, by name and strength, see `lorawish`.
        workflow: a ComfyUI workflow as JSON, filled in and checked; then the other fields only tell what
            it was filled in with, and `prompt` may be empty.
        workflow_name: the stored workflow's name, or `inline`.
    """

    id: str
    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    prompt_syntax: str | None = None
    loras: list[dict[str, Any]] | None = None
    pack: str | None = None
    priority: int = 0
    deadline: float | None = None
    source: str = "cli"
    transaction: str | None = None
    response_topic: str | None = None
    correlation: str | None = None
    workflow: str | None = None
    workflow_name: str | None = None

    @property
    def title(self) -> str:
        """What to call it before people: its prompt, else its workflow's name."""
        return self.prompt or f"workflow {self.workflow_name}"


@dataclass(frozen=True)
class Job:
    """One accepted request.

    Attributes:
        created, started, finished: Unix seconds by this device's clock, which may be wrong.
        attempts: times an engine claimed it.
        seed: the seed that was used, once done.
        picture: file name in the gallery, once done.
        code, reason: why it failed, for machines and for people.
    """

    request: JobRequest
    state: JobState
    created: float
    attempts: int = 0
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None
    seed: int | None = None
    picture: str | None = None
    code: str | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        return self.request.id


def parse_request(
    payload: bytes | bytearray | str | dict[str, Any],
    limits: LimitSettings,
    *,
    source: str,
    new_id: Callable[[], str],
    read_stored: ReadStored = nothing_stored,
) -> JobRequest:
    """What a payload asks for: a JSON object, or a bare UTF-8 prompt.

    Strict: "20" is no number and true is no integer; null means the default.

    Args:
        new_id: makes the id when the sender gave none.
        read_stored: the bytes of a stored workflow; raises BadRequest when there is none of that name.
    Raises:
        BadRequest: lists every problem at once; a BadWorkflow those of its workflow.
    """
    data = {key: value for key, value in decode_payload(payload).items() if value is not None}
    checks = _checks(limits)
    problems = [_unknown_key(key, checks) for key in data if key not in checks]
    if "prompt" not in data and "workflow" not in data:
        problems.append(Problem("prompt", None, "missing: say what to draw, or send a workflow"))
    problems += [
        Problem(key, data[key], message)
        for key in data.keys() & checks.keys()
        if (message := checks[key](data[key]))
    ]
    if "workflow" not in data:
        alone = [key for key in ("inputs", "values") if key in data]
        problems += [Problem(key, None, "goes with a workflow only") for key in alone]
    else:
        told = {"prompt_syntax": "workflows are ComfyUI's", "loras": "a workflow has LoraLoader"}
        problems += [
            Problem(key, None, f"goes with a prompt only: {why}") for key, why in told.items() if key in data
        ]
    if problems:
        raise BadRequest(sorted(problems, key=lambda p: p.field))
    if "workflow" in data:
        data = _with_workflow(data, limits, read_stored)
    return _build_request(data, source, new_id)


def _with_workflow(data: dict[str, Any], limits: LimitSettings, read_stored: ReadStored) -> dict[str, Any]:
    """The workflow ready to be kept; what filled it in is in it now."""
    graph, added = prepare_workflow(data, limits, read_stored)
    kept = {key: value for key, value in data.items() if key not in ("inputs", "values")}
    name = data["workflow"] if isinstance(data["workflow"], str) else INLINE
    return {**kept, **added, "workflow": workflow_text(graph), "workflow_name": name}


def peek_identity(payload: bytes | bytearray | str | dict[str, Any]) -> tuple[str | None, str | None]:
    """The id and the transaction of a payload that may be wrong otherwise, to answer its sender."""
    try:
        data = decode_payload(payload)
    except BadRequest:
        return None, None
    job_id, transaction = data.get("id"), data.get("transaction")
    return (
        None if _check_id(job_id) else job_id,
        None if _check_text(transaction, MAX_TRANSACTION_CHARS) else transaction,
    )


def _build_request(data: dict[str, Any], source: str, new_id: Callable[[], str]) -> JobRequest:
    fields = dict(data)
    for key in ("guidance", "deadline"):
        if key in fields:
            fields[key] = float(fields[key])
    fields["prompt"] = fields.get("prompt", "").strip()
    fields["id"] = fields.get("id") or new_id()
    return JobRequest(source=source, **fields)


_Check = Callable[[Any], str | None]


def _checks(limits: LimitSettings) -> dict[str, _Check]:
    """For every key of a request, what says what is wrong with a value (None: nothing)."""
    return {
        "id": _check_id,
        "prompt": lambda value: _check_text(value, limits.prompt_chars) or _check_not_blank(value),
        "workflow": check_given,
        "inputs": check_inputs,
        "values": check_values,
        "negative_prompt": lambda value: _check_text(value, limits.prompt_chars),
        "seed": lambda value: _check_integer(value, 0, MAX_SEED),
        "steps": lambda value: _check_integer(value, 1, limits.steps),
        "guidance": lambda value: _check_guidance(value, limits.guidance),
        "width": lambda value: _check_integer(value, MIN_SIDE, limits.side),
        "height": lambda value: _check_integer(value, MIN_SIDE, limits.side),
        "sampler": lambda value: _check_name(value, SAMPLERS, "sampler"),
        "schedule": lambda value: _check_name(value, SCHEDULES, "schedule"),
        "prompt_syntax": lambda value: _check_name(value, PROMPT_SYNTAXES, "prompt syntax"),
        "loras": check_loras,
        "pack": _check_pack,
        "priority": lambda value: _check_integer(value, -100, 100),
        "deadline": lambda value: _check_number(value, 0, MAX_DEADLINE),
        "transaction": lambda value: _check_text(value, MAX_TRANSACTION_CHARS),
    }


def _unknown_key(key: object, known: dict[str, _Check]) -> Problem:
    near = get_close_matches(str(key)[:100], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return Problem(shorten(str(key))[1:-1], None, f"unknown key; {hint}")


def _check_id(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_type_name(value)}"
    if JOB_ID.fullmatch(value):
        return None
    return f"{shorten(value)} must be 1 to 64 of the characters A-Z a-z 0-9 _ . -"


def _check_text(value: Any, max_chars: int) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_type_name(value)}"
    if len(value) > max_chars:
        return f"has {len(value)} characters; at most {max_chars} are allowed"
    for char in value:
        if "\ud800" <= char <= "\udfff":
            return f"holds half a surrogate pair (U+{ord(char):04X}), which is no character"
        if char < " " and char not in "\t\n\r":
            return f"holds the control character U+{ord(char):04X}"
    return None


def _check_not_blank(value: str) -> str | None:
    return None if value.strip() else "is empty: say what to draw"


def _check_integer(value: Any, low: int, high: int) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number from {low} to {high}, not {_type_name(value)}"
    return None if low <= value <= high else f"{shorten(value)} is not allowed: {low} to {high}"


def _check_number(value: Any, low: float, high: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number from {low:g} to {high:.15g}, not {_type_name(value)}"
    finite = isinstance(value, int) or math.isfinite(value)
    if finite and low <= value <= high:
        return None
    return f"{shorten(value)} is not allowed: {low:g} to {high:.15g}"


def _check_guidance(value: Any, high: float) -> str | None:
    """0 is how the cards of distilled models say: none, as 1."""
    is_none = not isinstance(value, bool) and value == 0
    return None if is_none else _check_number(value, 1, high)


def _check_name(value: Any, known: tuple[str, ...], kind: str) -> str | None:
    if isinstance(value, str) and value in known:
        return None
    near = get_close_matches(str(value)[:100].lower(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
    return f"{shorten(value)} is no {kind}; {hint}"


def _check_pack(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_type_name(value)}"
    if PACK_NAME.fullmatch(value):
        return None
    return f"{shorten(value)} is no pack's name: 1 to 64 of A-Z a-z 0-9 . _ -, no path"


def _type_name(value: Any) -> str:
    """What JSON calls a value's type, and the value when it is short."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    name = names.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({shorten(value, 30)})" if isinstance(value, bool | int | float | str) else name
