"""What is said over MQTT, as values. Pure: no client, no clock, no disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BadRequest, EdgegenError, Problem
from ...jobs.events import JobEvent
from ...jobs.job import Job, JobRequest
from ...workflow import BadWorkflow
from .topics import Topics

JSON = "application/json"
MAX_CORRELATION_BYTES = 1024
MAX_PROBLEMS = 50
MAX_REASON_CHARS = 2000
_SHOWN_VALUE_CHARS = 200


@dataclass(frozen=True)
class Command:
    """A message as it arrived on a command topic.

    Attributes:
        response_topic, correlation, expiry_s: MQTT 5 properties; None from a 3.1.1 client.
    """

    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None


@dataclass(frozen=True)
class Outgoing:
    """A message to be sent.

    Attributes:
        payload: bytes, or what makes them when it is this message's turn (None: send nothing).
        qos: 1 is kept until the broker has it; 0 is dropped while the broker is away.
        is_intermediate: a later message about the same job says more; the first to go when too many wait.
        expires: a status that nobody fetched for `mqtt.status_expiry_s` is not worth delivering.
        is_event: each one counts, so a later one on its topic does not take its place.
        on_sent: called once when the broker has acknowledged it, or it was found that it cannot be sent.
    """

    topic: str
    payload: bytes | Callable[[], bytes | None]
    qos: int = 1
    retain: bool = False
    content_type: str | None = None
    correlation: bytes | None = None
    is_intermediate: bool = False
    expires: bool = False
    is_event: bool = False
    on_sent: Callable[[], object] | None = None

    @property
    def slot(self) -> str | None:
        """Of waiting messages with the same slot only the newest is worth sending."""
        if self.on_sent is not None or self.is_event:
            return None  # this very one is wanted
        return self.topic if self.retain or self.qos == 0 else None


def with_properties(request: JobRequest, command: Command, topics: Topics, now: float) -> JobRequest:
    """The request with what MQTT 5 properties add: where to answer, and a deadline.

    Raises:
        BadRequest: a Response Topic or Correlation Data that is not allowed.
    """
    check_reply(command, topics)
    deadline = request.deadline
    if command.expiry_s is not None:
        deadline = min(now + command.expiry_s, deadline if deadline is not None else float("inf"))
    correlation = command.correlation.hex() if command.correlation is not None else None
    return replace(request, deadline=deadline, response_topic=command.response_topic, correlation=correlation)


def check_reply(command: Command, topics: Topics) -> None:
    """Raises BadRequest when the sender asks for an answer that may not be given."""
    problems = []
    if command.response_topic is not None and (why := topics.response_problem(command.response_topic)):
        problems.append(Problem("Response Topic", command.response_topic, why))
    if command.correlation is not None and len(command.correlation) > MAX_CORRELATION_BYTES:
        size = len(command.correlation)
        why = f"has {size} bytes; at most {MAX_CORRELATION_BYTES} are allowed"
        problems.append(Problem("Correlation Data", None, why))
    if problems:
        raise BadRequest(problems)


def status_of(event: JobEvent, topics: Topics) -> dict[str, Any]:
    """The status object of one event; keys without a value are left out."""
    job = event.job
    status: dict[str, Any] = {"id": job.id, "state": event.kind, "transaction": job.request.transaction}
    if event.kind == "queued":
        status |= {"place": event.place, "eta_s": _rounded(event.eta_s)}
    elif event.kind == "running":
        status |= {"step": event.step, "steps": event.steps, "eta_s": _rounded(event.eta_s)}
        status |= {"note": event.note}
    elif event.kind == "done":
        status |= {"image": topics.last_image, "file": job.picture, "seed": job.seed}
        status |= {"seconds": _rounded(job.seconds)}
    else:
        status |= {"code": job.code, "reason": job.reason}
    return _without_none(status)


def meta_of(job: Job, size: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `last/meta` says about the picture in `last/image`; `size` as `picture_size` gives it."""
    request = job.request
    return _without_none(
        {
            "id": job.id,
            "prompt": request.prompt or None,
            "negative_prompt": request.negative_prompt or None,
            "workflow": request.workflow_name,
            "seed": job.seed,
            "seconds": _rounded(job.seconds),
            "finished": _rounded(job.finished),
            "file": job.picture,
            "pack": request.pack,
            "source": request.source,
            **(size or {}),
        }
    )


def picture_size(picture_bytes: int | None, room_bytes: int) -> dict[str, Any]:
    """For `last/meta`, where a broker's packets hold less than `mqtt.image_max_bytes`.

    Args:
        picture_bytes: None: there is no picture.
        room_bytes: the largest picture that the broker takes.
    """
    told: dict[str, Any] = {"image_limit_bytes": room_bytes}
    if picture_bytes is None or picture_bytes > room_bytes:
        size = "" if picture_bytes is None else f" of {picture_bytes} bytes"
        told["image_omitted"] = f"the picture{size} does not fit into the broker's packets"
    return told


def rejection(error: EdgegenError, job_id: str, transaction: str | None = None) -> dict[str, Any]:
    """The status object that tells a sender what was wrong with every field."""
    problems = [
        _without_none({"field": p.field, "value": shown(p.value), "message": p.message})
        for p in getattr(error, "problems", [])[:MAX_PROBLEMS]
    ]
    reason = str(shown(str(error), MAX_REASON_CHARS))
    status = {"id": job_id, "state": "rejected", "code": error.code, "reason": reason}
    retry = _rounded(getattr(error, "retry_after_s", None))
    told = {**status, "problems": problems or None, "retry_after_s": retry, "transaction": transaction}
    return _without_none({**told, "node_errors": _node_errors(error)})


def _node_errors(error: EdgegenError) -> dict[str, Any] | None:
    """A refused workflow's problems by node, in ComfyUI's shape, values shortened; None for other errors."""
    if not isinstance(error, BadWorkflow):
        return None
    return BadWorkflow(
        [replace(p, value=shown(p.value), extra={}) for p in error.found[:MAX_PROBLEMS]], error.outputs_of
    ).node_errors


def shown(value: object, limit: int = _SHOWN_VALUE_CHARS) -> object:
    """A value from outside, small and safe enough to be sent back."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 1e15:
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def to_json(value: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON; lone surrogates from broken senders become replacement marks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def status_messages(
    status: dict[str, Any], topics: Topics, response_topic: str | None, correlation: bytes | None
) -> list[Outgoing]:
    """One status on the job's own topic, and on the Response Topic where one was given.

    Progress goes with QoS 0: the next one tells the same better. That it runs goes with QoS 1: nothing else
    says so, and a listener answers, so that mosquitto does not hold the first step back for up to 40 ms.
    """
    qos = 0 if status["state"] == "running" and status.get("step") != 0 else 1
    is_intermediate = status["state"] in ("queued", "running")
    places = [topics.status(status["id"])] + ([response_topic] if response_topic else [])
    return [
        Outgoing(
            place,
            to_json(status),
            qos=qos,
            content_type=JSON,
            correlation=correlation,
            is_intermediate=is_intermediate,
            expires=True,
        )
        for place in places
    ]


def picture_type(data: bytes) -> str:
    """The media type of picture bytes, by their first bytes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
