"""Settings as TOML with the origin of every value, and single values by their key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgegen.errors import ConfigError, Problem

from .app import fail
from .reference import entries, toml_value, unknown_key

if TYPE_CHECKING:
    from edgegen.config.layers import Layers
    from edgegen.config.tomllines import Loc
    from edgegen.settings import Settings

COMMENT_COLUMN = 40


def differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that is not in `defaults`; lists of tables are kept whole."""
    result = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            value = differing(value, defaults[key])
            if value:
                result[key] = value
        elif value != defaults.get(key):
            result[key] = value
    return result


def to_toml(values: dict[str, Any], layers: Layers | None = None) -> str:
    """Sections and [[lists of tables]] as TOML; keys that are empty become comments.

    Args:
        layers: adds the origin of every value as a comment.
    """
    blocks = []
    for section, content in values.items():
        if isinstance(content, dict):
            blocks.append("\n".join([f"[{section}]", *_lines(content, (section,), layers)]))
        for i, part in enumerate(content if isinstance(content, list) else ()):
            blocks.append("\n".join([f"[[{section}]]", *_lines(part, (section, i), layers)]))
    return "\n\n".join(blocks)


def _lines(table: dict[str, Any], place: Loc, layers: Layers | None) -> list[str]:
    lines = []
    for key, value in table.items():
        text = f"# {key} is empty" if value is None else f"{key} = {toml_value(value)}"
        if layers:
            text = f"{text:<{COMMENT_COLUMN}}  # {origin_at(layers, (*place, key))}"
        lines.append(text)
    return lines


def origin_at(layers: Layers, loc: Loc) -> str:
    """`default` also for the keys that a table of a list leaves out."""
    layer = layers.owner(loc)
    if layer is not None and len(loc) > 2 and loc not in layer.lines:
        return "default"
    return str(layers.origin(loc))


def with_origins(values: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """`{"mqtt.port": {"value": 1884, "origin": "/etc/edgegen/config.toml:3"}}`"""
    result = {}
    for section, content in values.items():
        tables = {(section,): content} if isinstance(content, dict) else _numbered(section, content)
        for place, table in tables.items():
            for key, value in table.items():
                loc = (*place, key)
                said = {"value": value, "origin": origin_at(layers, loc)}
                result[".".join(map(str, loc))] = said
    return result


def _numbered(section: str, tables: list[dict[str, Any]]) -> dict[Loc, dict[str, Any]]:
    return {(section, i): table for i, table in enumerate(tables)}


def value_at(settings: Settings, key: str) -> tuple[Loc, Any]:
    """The place that `key` names and the value there.

    Raises:
        ConfigError: no such key, or no such element of a list.
    """
    value: Any = settings.model_dump(mode="json")
    loc: Loc = ()
    for name in key.split("."):
        step: int | str = int(name) if isinstance(value, list) and name.isdecimal() else name
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            fail(ConfigError([Problem(key, key, _no_such(key, loc, value))]))
        loc = (*loc, step)
    return loc, value


def _no_such(key: str, loc: Loc, value: Any) -> str:
    if isinstance(value, list) and loc:
        name, count = ".".join(map(str, loc)), len(value)
        return f"no such element: {name} has {count}" + (f" (0 to {count - 1})" if count else "")
    return unknown_key(key, entries())


def as_text(loc: Loc, value: Any) -> str:
    """Text as it is, for shells; nothing for what is empty; tables and lists as TOML."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        return "\n".join(_lines(value, loc, None))
    return toml_value(value)
