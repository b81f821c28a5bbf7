"""TOML written and changed as text: comments and layout stay. Pure.

The text is changed where the value stands and nowhere else, then read again and compared with what it
should say: a change that cannot be made so is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .tomllines import Loc, toml_places


class CannotEdit(ValueError):
    """This layout is beyond us: a person has to change the file."""


@dataclass(frozen=True)
class Change:
    """One key to set, or to remove (value None).

    `("mqtt", "port")` is a key of a section, `("buttons", 0, "pin")` one of a list of tables, and
    `("buttons", 0)` with None removes a table of it.
    """

    loc: Loc
    value: Any

    @property
    def key(self) -> str:
        return ".".join(map(str, self.loc))


def toml_value(value: Any) -> str:
    """A setting's value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, int | float):
        return str(value)
    # JSON's escapes of a string are all valid in TOML, but TOML has no raw DEL
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def edit_toml(text: str, changes: Sequence[Change]) -> str:
    """`text` with the changes made.

    Raises:
        CannotEdit: the key stands in an inline table, or a list has no such element.
        tomllib.TOMLDecodeError: `text` is no TOML.
    """
    wanted = tomllib.loads(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    for change in changes:
        try:
            _apply(wanted, change)
        except (AttributeError, TypeError) as err:
            raise CannotEdit(f"{change.key}: something else than a table stands in its place") from err
        text = _removed(text, change) if change.value is None else _set(text, change, newline)
    if tomllib.loads(text) != wanted:
        raise CannotEdit("this layout cannot be changed safely: edit the file by hand")
    return text


def _apply(data: dict[str, Any], change: Change) -> None:
    """What the file should say afterwards."""
    *places, name = change.loc
    table: Any = data
    for place, after in zip(places, change.loc[1:], strict=True):
        if isinstance(place, str):
            if change.value is None and isinstance(after, str) and place not in table:
                return
            table = table.setdefault(place, [] if isinstance(after, int) else {})
        else:
            if place == len(table) and change.value is not None:
                table.append({})
            table = _element(table, place, change)
    if change.value is not None:
        table[name] = change.value
    elif isinstance(name, int):
        _element(table, name, change)
        del table[name]
    else:
        table.pop(name, None)
    if not table and change.value is None and isinstance(name, int):
        data.pop(str(places[0]))  # no [[header]] is left


def _element(tables: Any, index: int, change: Change) -> Any:
    if not 0 <= index < len(tables):
        raise CannotEdit(f"{change.key}: there are {len(tables)} elements, so the next is {len(tables)}")
    return tables[index]


def _set(text: str, change: Change, newline: str) -> str:
    places = toml_places(text)
    parent, name, value = change.loc[:-1], _key(change.loc[-1]), toml_value(change.value)
    if change.loc in places.values:
        start, end = places.values[change.loc]
        return text[:start] + value + text[end:]
    if parent in places.headers:
        end = places.statements[parent][1]
        indent = _indent(text, end)
        return f"{_ended(text[:end], newline)}{indent}{name} = {value}{newline}{text[end:]}"
    if parent in places.lines:
        raise CannotEdit(f"{change.key}: add it by hand, for its table has no [header] of its own")
    if not parent:
        raise CannotEdit(f"{change.key}: set its parts one by one, as in {change.key}.0.KEY=VALUE")
    section = _key(parent[0])
    header = f"[[{section}]]" if len(parent) > 1 else f"[{section}]"
    gap = newline if text.strip() else ""
    return f"{_ended(text, newline)}{gap}{header}{newline}{name} = {value}{newline}"


def _removed(text: str, change: Change) -> str:
    places = toml_places(text)
    if change.loc in places.statements:
        start, end = places.statements[change.loc]
        return text[:start] + text[end:]
    if change.loc in places.lines:
        raise CannotEdit(f"{change.key}: remove it by hand, for it stands in an inline table")
    return text


def _ended(text: str, newline: str) -> str:
    return text if not text or text.endswith("\n") else text + newline


def _indent(text: str, end: int) -> str:
    """As the line before has it."""
    line = text[:end].rstrip("\r\n").rpartition("\n")[2]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _key(name: int | str) -> str:
    return str(name) if re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) else toml_value(str(name))
