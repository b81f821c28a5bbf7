"""Changes to the configuration: which file, what text, and whether the whole of it would be right."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, Problem
from .files import chosen_file, default_places
from .help import is_listed
from .layers import Layer, Layers, read_layers, value_of_text
from .tomllines import Loc
from .tomltext import CannotEdit, Change, edit_toml


@dataclass(frozen=True)
class Edit:
    """New texts by file, and what the person should know besides."""

    texts: dict[Path, str]
    notes: tuple[str, ...] = ()


def parse_assignment(text: str) -> Change:
    """`mqtt.port=1884`; raises ConfigError without an = sign or a dot in the key."""
    key, is_given, value = text.partition("=")
    if not is_given:
        raise ConfigError([Problem(key, text, "give a value, as in KEY=VALUE")])
    return parse_change(key, value)


def parse_change(key: str, value: str | None) -> Change:
    """`buttons.0.pin`, `17` -> that place and number; the value None removes the key."""
    parts = key.strip().split(".")
    loc: Loc = tuple(int(part) if i == 1 and part.isdecimal() else part for i, part in enumerate(parts))
    is_element = len(loc) > 1 and isinstance(loc[1], int)
    if is_element != is_listed(parts[0]):
        said = "name one of the list, as in buttons.0.pin" if is_listed(parts[0]) else "there is no such list"
        raise ConfigError([Problem(key, key, said)])
    lengths = (2, 3) if is_element and value is None else (3,) if is_element else (2,)
    if not all(parts) or len(loc) not in lengths:
        raise ConfigError([Problem(key, key, "name a key of a section, as in mqtt.port")])
    return Change(loc, None if value is None else value_of_text(loc, value))


def main_file(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file in use; without any, the one to make: the machine's for root, else the user's."""
    if found := chosen_file(path, environ):
        return found
    users, machines = default_places(environ)
    return machines if os.geteuid() == 0 else users


def plan_edit(path: Path | None, environ: Mapping[str, str], changes: Sequence[Change]) -> Edit:
    """Each change goes to the file that decides over its key now, a new key to the main file.

    Raises:
        ConfigError: a file cannot be read or changed.
    """
    main = main_file(path, environ)
    layers = read_layers(main if chosen_file(path, environ) else None, environ, {})
    unreadable = [problem for problem in layers.problems if not problem.field]
    is_new = not os.path.lexists(main)  # named, but not there yet: it will be made
    if len(unreadable) > is_new:
        raise ConfigError(unreadable)
    wanted: dict[Path, list[Change]] = {}
    for change in changes:
        for file in _files_for(change, layers, main):
            wanted.setdefault(file, []).append(change)
    old = {layer.path: layer.text for layer in layers.layers}
    texts = {file: _edited(file, old.get(file, ""), parts) for file, parts in wanted.items()}
    return Edit(texts, tuple(_notes(changes, layers)))


def _files_for(change: Change, layers: Layers, main: Path) -> list[Path]:
    files = [layer for layer in layers.layers[::-1] if layer.path and _decides(layer, change.loc)]
    if change.value is None and isinstance(change.loc[1], str):
        return [layer.path for layer in files if layer.path]  # a weaker one would come forth
    return [files[0].path or main] if files else [main]


def _decides(layer: Layer, loc: Loc) -> bool:
    return layer.sets(loc[:1] if isinstance(loc[1], int) else loc)


def _edited(file: Path, text: str, changes: list[Change]) -> str:
    try:
        return edit_toml(text, changes)
    except CannotEdit as err:
        raise ConfigError(f"{file}: {err}") from err


def _notes(changes: Sequence[Change], layers: Layers) -> list[str]:
    environment = layers.layers[-1]
    overridden = [change for change in changes if environment.sets(change.loc)]
    return [
        f"{environment.origin(change.loc)} still overrides {change.key} in this shell"
        for change in overridden
    ]
