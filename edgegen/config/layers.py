"""The layers of a configuration: the file, `conf.d/*.toml` beside it in name order, the environment.

A later layer takes the place of an earlier one key by key; a `[[list of tables]]` is taken whole.
Every layer remembers where its values stand, so that whatever is wrong can be found.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import ConfigError, Problem
from .help import field_of
from .problem import ConfigProblem, Origin
from .tomllines import Loc, key_lines

ENV_PREFIX = "EDGEGEN_"
DROP_INS = "conf.d"
MAX_CONFIG_BYTES = 1 << 20
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Layer:
    """What one file, or the environment, sets.

    Attributes:
        data: sections by name, as TOML has them. path: the file; None for the environment.
        variables: for the environment, the variable's name by key (`mqtt.port`).
    """

    data: dict[str, Any]
    path: Path | None = None
    text: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def lines(self) -> dict[Loc, int]:
        return key_lines(self.text)

    def origin(self, loc: Loc) -> Origin:
        """Where the value at `loc` stands, or the nearest table around it."""
        if self.path is None:
            return Origin(self.variables.get(".".join(map(str, loc[:2])), "environment"))
        known = (self.lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in self.lines)
        return Origin(str(self.path), next(known, 0))

    def sets(self, loc: Loc) -> bool:
        """Whether this layer decides what stands at `loc`."""
        section = self.data.get(str(loc[0])) if loc else None
        if isinstance(section, dict) and len(loc) > 1:
            return loc[1] in section
        return section is not None


@dataclass(frozen=True)
class Layers:
    """All layers, the weakest first, and what could not be read of them."""

    layers: tuple[Layer, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(layer.path for layer in self.layers if layer.path)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What they say together."""
        merged: dict[str, Any] = {}
        for layer in self.layers:
            for name, section in layer.data.items():
                below = merged.get(name)
                both = isinstance(below, dict) and isinstance(section, dict)
                merged[name] = {**below, **section} if both else section  # type: ignore[dict-item]
        return merged

    def owner(self, loc: Loc) -> Layer | None:
        """The strongest layer that sets `loc`, or at least its section."""
        strongest_first = self.layers[::-1]
        places = (loc, loc[:1])
        return next((layer for place in places for layer in strongest_first if layer.sets(place)), None)

    def origin(self, loc: Loc) -> Origin:
        """Where the value in force at `loc` comes from."""
        layer = next((layer for layer in self.layers[::-1] if layer.sets(loc)), None)
        return layer.origin(loc) if layer else Origin()


def read_layers(
    path: Path | None, environ: Mapping[str, str], replaced: Mapping[Path, str] | None = None
) -> Layers:
    """Read everything there is; what cannot be read is told in `problems`, and the rest is read still.

    Args:
        path: the main file, None for none. replaced: texts that stand for what is in these files.
    """
    replaced = replaced or {}
    layers: list[Layer] = []
    problems: list[Problem] = []
    for file in config_files(path, replaced, problems) if path else []:
        try:
            layers.append(read_layer(file, replaced.get(file)))
        except ConfigError as err:
            problems += err.problems
    layer, refused = environment_layer(environ)
    return Layers((*layers, layer), (*problems, *refused))


def config_files(path: Path, replaced: Mapping[Path, str], problems: list[Problem]) -> Sequence[Path]:
    """The main file, where it exists or nothing stands beside it, then its drop-ins by name."""
    folder = path.parent / DROP_INS
    try:
        found = {entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    except (FileNotFoundError, NotADirectoryError):
        found = set()
    except OSError as err:
        problems.append(ConfigProblem("", None, f"cannot be read: {err.strerror}", Origin(str(folder))))
        found = set()
    drop_ins = sorted(found | {file for file in replaced if file.parent == folder})
    has_main = path in replaced or os.path.lexists(path) or not drop_ins
    return [path, *drop_ins] if has_main else drop_ins


def read_layer(path: Path, text: str | None = None) -> Layer:
    """One file, or `text` in its stead.

    Raises:
        ConfigError: not there, not readable, too large, not UTF-8, or no TOML.
    """
    text = read_text(path) if text is None else text
    try:
        return Layer(tomllib.loads(text), path, text)
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        message, line = _toml_error(err, text)
        raise ConfigError(
            [ConfigProblem("", None, f"is no TOML: {message}", Origin(str(path), line))]
        ) from err


def read_text(path: Path) -> str:
    """Raises ConfigError: not there, no file, not readable, larger than a configuration is, or not UTF-8."""
    try:
        data = _read_bytes(path)
        return data.decode("utf-8-sig")
    except OSError as err:
        problem = ConfigProblem("", None, f"cannot be read: {err.strerror}", Origin(str(path)))
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        seen = f"byte 0x{data[err.start]:02x} at offset {err.start}"
        hint = "it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else seen
        message = f"is not UTF-8 text ({hint}): save it as UTF-8"
        problem = ConfigProblem("", None, message, Origin(str(path), line))
    raise ConfigError([problem])


def _read_bytes(path: Path) -> bytes:
    """O_NONBLOCK: a pipe in the place of a file must not keep a daemon waiting."""
    with os.fdopen(os.open(path.expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is no regular file")
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise OSError(0, f"it is larger than {MAX_CONFIG_BYTES} bytes")
    return data


def _toml_error(err: Exception, text: str) -> tuple[str, int]:
    """tomllib's words, and its line as a number."""
    if isinstance(err, RecursionError):
        return "nested too deeply", 0
    match = _TOML_PLACE.search(str(err))
    if match is None:
        return str(err), 0
    if match[1] is None:
        return str(err)[: match.start()] + " at the end of the file", len(text.splitlines())
    return f"{str(err)[: match.start()]} (line {match[1]}, column {match[2]})", int(match[1])


def environment_layer(environ: Mapping[str, str]) -> tuple[Layer, list[Problem]]:
    """`EDGEGEN_MQTT__PORT=1884` sets `mqtt.port`; lists of tables cannot be set so."""
    data: dict[str, Any] = {}
    variables: dict[str, str] = {}
    problems: list[Problem] = []
    for name in sorted(name for name in environ if name.startswith(ENV_PREFIX) and "__" in name):
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if section == "buttons":
            message = f"{name} cannot set a [[list of tables]]: use the file"
            problems.append(ConfigProblem(f"{section}.{key}", environ[name], message, Origin(name)))
            continue
        variables[f"{section}.{key}"] = name
        data.setdefault(section, {})[key] = value_of_text((section, key), environ[name])
    return Layer(data, variables=variables), problems


def value_of_text(loc: Loc, text: str) -> Any:
    """The text itself where the key takes text, else what it says as TOML, else the text."""
    known = field_of(loc)
    if known is None or _takes_text(known.annotation):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_text(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation in (str, Path)
