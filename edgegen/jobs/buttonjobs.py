"""What a button asks for: a prompt of its own, or a stored workflow filled in with it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import BadRequest, Problem
from ..settings import ButtonSettings, LimitSettings, Settings
from .job import JobRequest, parse_request
from .workflowjob import ReadStored


def button_request(
    button: ButtonSettings,
    prompt: str | None,
    limits: LimitSettings,
    new_id: Callable[[], str],
    read_stored: ReadStored,
) -> JobRequest:
    """A press as a request.

    Args:
        prompt: None: the button has none.
    Raises:
        BadRequest: lists every problem, as of a request from outside; a BadWorkflow those of its workflow.
    """
    source = f"button:{button.pin}"
    if button.workflow is None:
        return JobRequest(
            id=new_id(), prompt=prompt or "", steps=button.steps, pack=button.pack, source=source
        )
    asked: dict[str, Any] = {"workflow": button.workflow, "prompt": prompt}
    asked |= {"steps": button.steps, "pack": button.pack, "values": dict(button.values) or None}
    return parse_request(asked, limits, source=source, new_id=new_id, read_stored=read_stored)


def button_problems(settings: Settings, read_stored: ReadStored) -> Iterator[tuple[str, Problem]]:
    """(key, what is wrong) of the workflows that buttons name: is each stored, and does it run once it is
    filled in with every prompt. Each problem once."""
    for index, button in enumerate(settings.buttons):
        told: set[str] = set()
        for prompt in button.prompts or (None,):
            try:
                button_request(button, prompt, settings.limits, lambda: "press", read_stored)
            except BadRequest as err:
                for problem in err.problems:
                    if str(problem) not in told:
                        told.add(str(problem))
                        yield f"buttons.{index}.workflow", problem
