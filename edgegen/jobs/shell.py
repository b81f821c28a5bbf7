"""What a shell may ask of the running front, and how jobs look in JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..errors import BadRequest, EdgegenError
from .events import JobEvent
from .job import Job
from .service import JobService
from .wire import Message

ASKABLE = ("status", "submit", "cancel", "watch")


def answer_shell(
    message: Message, service: JobService, submit: Callable[[Message], Message], about: Message
) -> Message:
    """The one answer to a shell's message; whatever goes wrong becomes an `error` answer.

    Args:
        about: what the front says of itself, for its status.
    """
    try:
        return {"type": message["type"], **_answer(message, service, submit, about)}
    except EdgegenError as err:
        return {"type": "error", "code": err.code, "reason": str(err)}


def _answer(
    message: Message, service: JobService, submit: Callable[[Message], Message], about: Message
) -> Message:
    match message["type"]:
        case "status":
            return {**service.status(), **about}
        case "submit":
            return submit(_dict(message.get("request")))
        case "cancel":
            return {"job": describe_job(service.cancel(str(message.get("id"))))}
        case unknown:
            raise BadRequest(f"{unknown!r} is no question: ask one of {', '.join(ASKABLE)}")


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("submit needs a request, a JSON object")
    return value


def describe_job(job: Job) -> dict[str, Any]:
    """A job ready for JSON: the request's fields and its own, side by side.

    `seed` is the one that was used; until then the one that was asked for. A workflow is only named.
    """
    fields = {key: value for key, value in asdict(job).items() if key != "request"}
    asked = {key: value for key, value in asdict(job.request).items() if key != "workflow"}
    seed = job.request.seed if job.seed is None else job.seed
    return {**asked, **fields, "state": job.state.value, "seed": seed}


def describe_event(event: JobEvent) -> dict[str, Any]:
    """An event ready for JSON; what it does not say is left out."""
    extra = {key: getattr(event, key) for key in ("place", "step", "steps", "eta_s", "note")}
    known = {key: value for key, value in extra.items() if value is not None}
    return {"kind": event.kind, "job": describe_job(event.job), **known}
