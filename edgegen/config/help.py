"""What is wrong with a configuration, in words a person can act on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import shorten
from ..settings import Settings
from .problem import ConfigProblem, Origin
from .tomllines import Loc

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list in [brackets]",
    "model_type": "a [table]",
    "model_attributes_type": "a [table]",
}


def describe_problems(err: ValidationError, origin: Callable[[Loc], Origin]) -> list[ConfigProblem]:
    """One problem for each error of pydantic.

    Args:
        origin: says where the value at a place stands.
    """
    found: dict[str, ConfigProblem] = {}
    for error in err.errors(include_url=False):
        loc = tuple(part for part in error["loc"] if not str(part).startswith(("function-", "constrained-")))
        key, allowed = ".".join(map(str, loc)), allowed_values(field_of(loc))
        problem = ConfigProblem(key, error["input"], _message(error, loc), origin(loc), allowed)
        found.setdefault(key, problem)
    return list(found.values())


def _message(error: Any, loc: Loc) -> str:
    kind, value = error["type"], shorten(error["input"])
    if kind == "extra_forbidden":
        return unknown_key(str(loc[-1]), keys_beside(loc))
    if kind == "missing":
        return "missing: this key must be given"
    allowed = allowed_range(field_of(loc))
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}{f', {allowed}' if allowed else ''}, not {value}"
    if kind == "literal_error":
        return f"{value} is not one of {error['ctx']['expected']}{_near_choice(error['input'], loc)}"
    if allowed and kind.startswith(("greater", "less", "finite")):
        return f"{value} is not allowed: {allowed}"
    return f"{value} is not allowed: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _near_choice(value: object, loc: Loc) -> str:
    """`; did you mean png?`"""
    near = get_close_matches(str(value).lower()[:100], choices_of(field_of(loc)), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def choices_of(field: FieldInfo | None) -> list[str]:
    """The words that a choice takes; none for other fields."""
    if field is None or get_origin(field.annotation) is not Literal:
        return []
    return [str(choice) for choice in get_args(field.annotation)]


def allowed_values(field: FieldInfo | None) -> str:
    """Choices or range in words; empty where neither is known."""
    return " | ".join(choices_of(field)) or allowed_range(field)


def unknown_key(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(key[:100], list(known), n=1)
    return "unknown key; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}")


def keys_beside(loc: Loc) -> list[str]:
    """The keys that a section knows, for the place of an unknown one."""
    model: type[BaseModel] | None = Settings
    for part in loc[:-1]:
        if model is not None and isinstance(part, str):
            model = _section(model.model_fields.get(part))
    return list(model.model_fields) if model else []


def field_of(loc: Loc) -> FieldInfo | None:
    """The field that a place in the configuration means, None for an unknown one."""
    model: type[BaseModel] | None = Settings
    field = None
    for part in loc:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = _section(field)
    return field


def is_listed(section: str) -> bool:
    """Whether it is a [[list of tables]]."""
    field = Settings.model_fields.get(section)
    return field is not None and get_origin(field.annotation) is tuple


def allowed_range(field: FieldInfo | None) -> str:
    """`1 to 65535`; empty where there are no bounds."""
    if field is None:
        return ""
    bounds: dict[str, Any] = {}
    for rule in (*field.metadata, *_nested_metadata(field.annotation)):
        for inner in (rule, *getattr(rule, "metadata", ())):
            bounds |= {name: getattr(inner, name) for name in ("ge", "le") if hasattr(inner, name)}
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _nested_metadata(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        if get_origin(part) is not None or hasattr(part, "__metadata__"):
            yield from _nested_metadata(part)


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    if field is None:
        return None
    candidates = (field.annotation, *get_args(field.annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
