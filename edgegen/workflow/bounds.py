"""This device's own bounds on a node's plain values, by the names that ComfyUI's classes share. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

MAX_BATCH = 16
TEXTS = ("text", "text_g", "text_l")
ONLY_SPEAKS_OF_SIZES = ("CLIPTextEncodeSDXL", "ConditioningSetArea")  # makes no picture of them


class Bounds(Protocol):
    """What the configuration's `limits` say."""

    @property
    def steps(self) -> int: ...
    @property
    def side(self) -> int: ...
    @property
    def prompt_chars(self) -> int: ...


def bound_problems(
    values: Mapping[str, Any], limits: Bounds, class_type: str = ""
) -> Iterator[tuple[str, str]]:
    """(input, what is wrong) of values that ComfyUI would take and this device does not.

    A side of 0 stands for one yet unknown.
    """
    steps = values.get("steps", 1)
    if steps > limits.steps:
        yield "steps", f"{steps} is not allowed here: 1 to {limits.steps} (limits.steps)"
    for name in () if class_type in ONLY_SPEAKS_OF_SIZES else ("width", "height"):
        if values.get(name, 0) > limits.side:
            yield name, f"{values[name]} is not allowed here: at most {limits.side} (limits.side)"
    most = limits.prompt_chars
    for name in TEXTS:
        if (count := len(values.get(name, ""))) > most:
            yield name, f"has {count} characters; at most {most} are allowed (limits.prompt_chars)"
    if values.get("batch_size", 1) > MAX_BATCH:
        yield "batch_size", f"{values['batch_size']} is not allowed here: 1 to {MAX_BATCH}"
