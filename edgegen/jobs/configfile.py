"""The configuration: a TOML file, overridden by the environment, checked whole before anything starts.

`EDGEGEN_<SECTION>__<KEY>` overrides one key, for instance `EDGEGEN_MQTT__HOST=broker.local`.
"""

from __future__ import annotations

import json
import os
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from ..errors import ConfigError, Problem
from ..pack import builtin_packs_dir
from ..settings import ButtonSettings, NodeSettings, Settings
from .confighelp import describe_problems, field_of

ENV_PREFIX = "EDGEGEN_"
SOCKET_NAME = "edgegen.sock"
DATABASE_NAME = "edgegen.db"
MAX_SOCKET_PATH = 107  # bytes: sun_path holds 108 with its closing zero


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force: defaults, then the file, then the environment.

    Args:
        path: the file; None takes the first of the default places, or none at all.
    Raises:
        ConfigError: every problem at once, each with its key, value, allowed range and where it stands.
    """
    environ = os.environ if environ is None else environ
    path = path or find_config_file(environ)
    data = read_toml(path) if path else {}
    variables = _overrides(environ)
    problems = _merge(data, variables)
    try:
        settings = Settings.model_validate_json(json.dumps(_with_defaults(data), default=str), strict=True)
    except ValidationError as err:
        raise ConfigError(problems + describe_problems(err, str(path), variables)) from err
    if problems := problems + _pin_problems(settings.buttons, str(path)):
        raise ConfigError(problems)
    return settings


def find_config_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """The first that exists of $EDGEGEN_CONFIG, the user's and the machine's; None without any.

    Raises:
        ConfigError: $EDGEGEN_CONFIG names a file that does not exist.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("EDGEGEN_CONFIG"):
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = (Path(home) / "edgegen/config.toml", Path("/etc/edgegen/config.toml"))
    return next((place for p in places if (place := p.expanduser()).is_file()), None)


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError: not there, not readable, or no TOML (with its line and column)."""
    try:
        return tomllib.loads(path.expanduser().read_bytes().decode("utf-8-sig"))
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"{path}: is not UTF-8 text (byte 0x{err.object[err.start]:02x} at {err.start})"
        ) from err
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ConfigError(f"{path}: is no TOML: {err}") from err


def data_dir(node: NodeSettings) -> Path:
    """Where the queue, the gallery and installed packs live."""
    return node.data_dir.expanduser().absolute()


def database_path(node: NodeSettings) -> Path:
    """The SQLite file of jobs and pictures."""
    return data_dir(node) / DATABASE_NAME


def run_dir(node: NodeSettings, environ: Mapping[str, str] | None = None) -> Path:
    """Where the control socket is.

    Raises:
        ConfigError: its path is longer than a Unix socket's may be.
    """
    environ = os.environ if environ is None else environ
    folder = _chosen_run_dir(node, environ)
    length = len(os.fsencode(folder / SOCKET_NAME))
    if length > MAX_SOCKET_PATH:
        message = (
            f"{folder}/{SOCKET_NAME} has {length} bytes; at most {MAX_SOCKET_PATH} fit a Unix socket: "
            "choose a shorter folder, for instance /run/edgegen"
        )
        raise ConfigError([Problem("node.run_dir", str(folder), message)])
    return folder


def socket_path(node: NodeSettings, environ: Mapping[str, str] | None = None) -> Path:
    """The control socket; raises ConfigError as `run_dir` does."""
    return run_dir(node, environ) / SOCKET_NAME


def gallery_dir(settings: Settings) -> Path:
    """Where kept pictures are."""
    chosen = settings.gallery.dir
    return chosen.expanduser().absolute() if chosen else data_dir(settings.node) / "gallery"


def pack_dirs(settings: Settings) -> tuple[Path, ...]:
    """Where packs are looked for, in order: the configured folders, installed ones, built-in ones."""
    chosen = (folder.expanduser().absolute() for folder in settings.engine.pack_dirs)
    return (*chosen, data_dir(settings.node) / "packs", builtin_packs_dir())


def _chosen_run_dir(node: NodeSettings, environ: Mapping[str, str]) -> Path:
    if node.run_dir:
        return node.run_dir.expanduser().absolute()
    if systemd := environ.get("RUNTIME_DIRECTORY"):
        return Path(systemd.split(":")[0])
    if user := environ.get("XDG_RUNTIME_DIR"):
        return Path(user) / "edgegen"
    return data_dir(node) / "run"


def _with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """Strict JSON validation takes a path as text only, so defaults go in as text as well."""
    defaults = Settings().model_dump(mode="json")
    known = {
        key: {**defaults[key], **value} for key, value in data.items() if _is_section(key, value, defaults)
    }
    return {**data, **known}


def _is_section(key: str, value: Any, defaults: dict[str, Any]) -> bool:
    return isinstance(value, dict) and isinstance(defaults.get(key), dict)


def _overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """Variable name by key, `EDGEGEN_MQTT__PORT` by `mqtt.port`, with values still in the environment."""
    names = [name for name in environ if name.startswith(ENV_PREFIX) and "__" in name]
    found = {name: name.removeprefix(ENV_PREFIX).lower().partition("__") for name in sorted(names)}
    return {f"{section}.{key}": f"{name}={environ[name]}" for name, (section, _, key) in found.items()}


def _merge(data: dict[str, Any], variables: dict[str, str]) -> list[Problem]:
    problems = []
    for key, assignment in variables.items():
        section, _, name = key.partition(".")
        variable, _, text = assignment.partition("=")
        place = data.setdefault(section, {})
        if section == "buttons" or not isinstance(place, dict):
            problems.append(Problem(key, text, f"{variable} cannot set a [[list of tables]]: use the file"))
            data.pop(section) if place == {} else None
        else:
            place[name] = _env_value(section, name, text)
    return problems


def _env_value(section: str, name: str, text: str) -> Any:
    """The text itself where the key takes text, else what it says as TOML, else the text."""
    field = field_of((section, name))
    if field is None or _takes_text(field.annotation):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_text(part) for part in get_args(annotation))
    return annotation in (str, Path) or get_origin(annotation) is Literal


def _pin_problems(buttons: tuple[ButtonSettings, ...], path: str) -> list[Problem]:
    """Every pin may have one use only."""
    uses: dict[int, str] = {}
    problems = []
    for index, button in enumerate(buttons):
        for key, pin in ((f"buttons.{index}.pin", button.pin), (f"buttons.{index}.led", button.led)):
            if pin is not None and pin in uses:
                problems.append(Problem(key, pin, f"pin {pin} is used by {uses[pin]} already ({path})"))
            elif pin is not None:
                uses[pin] = key
    return problems
