"""What a shell may ask of the running front, and how jobs look in JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any

from ..errors import BadRequest, EdgegenError
from .events import JobEvent
from .job import Job, JobRequest, JobState
from .service import JobService
from .wire import Message, encode

ASKABLE = ("status", "jobs", "submit", "cancel", "watch")
MAX_JOBS_BYTES = 200_000  # of an answer; a line of the wire holds 256 KiB


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
        case "jobs":
            return {"jobs": list(_fitting(_asked_jobs(message, service)))}
        case "cancel":
            return {"job": describe_job(service.cancel(str(message.get("id"))))}
        case unknown:
            raise BadRequest(f"{unknown!r} is no question: ask one of {', '.join(ASKABLE)}")


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("submit needs a request, a JSON object")
    return value


def _asked_jobs(message: Message, service: JobService) -> list[Job]:
    """`states`: a list, empty for all; `limit`: at most so many."""
    states, limit = message.get("states", []), message.get("limit", 100)
    if not isinstance(states, list) or not set(states) <= {state.value for state in JobState}:
        raise BadRequest(f"states must be a list of {', '.join(state.value for state in JobState)}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise BadRequest("limit must be a whole number from 0")
    return service.jobs(*map(JobState, states), limit=min(limit, 1000))


def _fitting(jobs: list[Job]) -> Iterator[dict[str, Any]]:
    """As many of the first as one answer holds."""
    size = 0
    for told in map(describe_job, jobs):
        size += len(encode(told))
        if size > MAX_JOBS_BYTES:
            return
        yield told


def job_of(told: dict[str, Any]) -> Job:
    """The way back from `describe_job`; keys that a newer front adds are left out."""
    asked = {field.name: told[field.name] for field in fields(JobRequest) if field.name in told}
    own = {field.name for field in fields(Job)} - {"request", "state"}
    return Job(JobRequest(**asked), JobState(told["state"]), **{key: told[key] for key in own & told.keys()})


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
