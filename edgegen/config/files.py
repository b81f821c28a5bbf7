"""The configuration: TOML files, overridden by the environment, checked whole before anything starts.

`conf.d/*.toml` beside the file override it in the order of their names; then
`EDGEGEN_<SECTION>__<KEY>` overrides one key, for instance `EDGEGEN_MQTT__HOST=broker.local`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError, Problem
from ..pack import builtin_packs_dir
from ..settings import NO_STYLE, ButtonSettings, NodeSettings, Settings, StyleSettings
from .help import describe_problems
from .layers import DROP_INS, Layer, Layers, read_layers
from .problem import ConfigProblem, Origin
from .trials import current_trial

SOCKET_NAME = "edgegen.sock"
DATABASE_NAME = "edgegen.db"
RESERVED_STYLES = (NO_STYLE.lower(), "none")  # Home Assistant's select shows "none" as unknown
SALVAGE_ROUNDS = 10  # one is enough for every mistake seen so far
MAX_SOCKET_PATH = 107  # bytes: sun_path holds 108 with its closing zero


@dataclass(frozen=True)
class Effective:
    """The settings in force, and the layers that say so."""

    settings: Settings
    layers: Layers

    def origin(self, *loc: int | str) -> Origin:
        """Where the value at a place (`"mqtt", "port"`) comes from."""
        return self.layers.origin(loc)


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; arguments and errors as of `load_effective`."""
    return load_effective(path, environ).settings


def load_effective(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    replaced: Mapping[Path, str] | None = None,
) -> Effective:
    """Defaults, then the file, then the drop-ins beside it, then the environment.

    Args:
        path: the main file; None takes the first of the default places, or none at all.
        replaced: texts to read instead of what is in these files; None: those of a trial that goes on.
    Raises:
        ConfigError: every problem of every layer at once, each with key, value, allowed range and place.
    """
    environ = os.environ if environ is None else environ
    layers = layers_in_force(path, environ, replaced)
    try:
        settings = _validated(layers.data)
    except ValidationError as err:
        raise ConfigError(_all_problems(layers)) from err
    if layers.problems or _clashes(settings, layers):
        raise ConfigError(_all_problems(layers))
    return Effective(settings, layers)


def check_config(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    replaced: Mapping[Path, str] | None = None,
) -> list[Problem]:
    """Every problem of every layer, those included that a stronger layer hides; none when all is well."""
    environ = os.environ if environ is None else environ
    return _all_problems(layers_in_force(path, environ, replaced))


def layers_in_force(
    path: Path | None, environ: Mapping[str, str], replaced: Mapping[Path, str] | None = None
) -> Layers:
    """All layers; arguments as of `load_effective`."""
    main = chosen_file(path, environ)
    if replaced is None:
        trial = current_trial(main)
        replaced = trial.texts if trial else {}
    return read_layers(main, environ, replaced)


def salvaged_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """What is right of a broken configuration, with defaults for the rest; raises nothing.

    Enough to find the folders and the control socket of a device that has to be mended.
    """
    environ = os.environ if environ is None else environ
    data = deepcopy(layers_in_force(path, environ).data)
    for _ in range(SALVAGE_ROUNDS):
        try:
            return _validated(data)
        except ValidationError as err:
            for error in err.errors(include_url=False):
                _drop(data, error["loc"])
    return Settings()


def _drop(data: dict[str, Any], loc: tuple[int | str, ...]) -> None:
    """The key at fault; of lists the whole."""
    section = data.get(str(loc[0])) if loc else data
    if not loc:
        data.clear()
    elif isinstance(section, dict) and len(loc) > 1:
        section.pop(str(loc[1]), None)
    else:
        data.pop(str(loc[0]), None)


def chosen_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that was named, else the one in use; None without any."""
    path = path or find_config_file(environ)
    return path.expanduser() if path else None


def _all_problems(layers: Layers) -> list[Problem]:
    """Unreadable layers, then what is wrong in force, then what is wrong but hidden by a later layer."""
    found = _problems_in(layers)
    told = {(problem.field, problem.origin) for problem in found}
    for layer in layers.layers:
        alone = Layers((layer,))
        hidden = (problem for problem in _problems_in(alone) if (problem.field, problem.origin) not in told)
        found += [_as_hidden(problem, layers) for problem in hidden]
    return [*layers.problems, *found]


def _problems_in(layers: Layers) -> list[ConfigProblem]:
    try:
        settings = _validated(layers.data)
    except ValidationError as err:
        return describe_problems(err, lambda loc: (layers.owner(loc) or Layer({})).origin(loc))
    return _clashes(settings, layers)


def _as_hidden(problem: ConfigProblem, layers: Layers) -> ConfigProblem:
    section, *rest = problem.field.split(".")
    by = layers.origin((section, *rest[:1]))
    return replace(problem, message=f"{problem.message}; hidden by {by}")


def _validated(data: dict[str, Any]) -> Settings:
    text = json.dumps(_with_defaults(data), default=str)
    return Settings.model_validate_json(text, strict=True)


def find_config_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """$EDGEGEN_CONFIG, else the first place of the user's and the machine's where a file or a drop-in is.

    The file itself may be missing where drop-ins are; None without any.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("EDGEGEN_CONFIG"):
        return Path(named)
    return next((place for place in default_places(environ) if _is_used(place)), None)


def default_places(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """The user's file and the machine's."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "edgegen/config.toml", Path("/etc/edgegen/config.toml")


def _is_used(path: Path) -> bool:
    """A file that we may not see counts: saying so is better than running on defaults."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        pass
    else:
        return True
    folder = path.parent / DROP_INS
    if current_trial(path):
        return True
    return folder.is_dir() and (not os.access(folder, os.R_OK | os.X_OK) or any(folder.glob("*.toml")))


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


def workflow_dir(settings: Settings) -> Path:
    """Where stored workflows are."""
    return (settings.workflow.folder or data_dir(settings.node) / "workflows").expanduser()


def input_dir(settings: Settings) -> Path:
    """Where the pictures are that LoadImage reads."""
    return (settings.workflow.input_dir or data_dir(settings.node) / "input").expanduser()


def lora_dir(settings: Settings) -> Path:
    """Where LoRA files are."""
    return (settings.workflow.lora_dir or data_dir(settings.node) / "loras").expanduser()


def embedding_dir(settings: Settings) -> Path:
    """Where embeddings of textual inversion are."""
    return (settings.workflow.embedding_dir or data_dir(settings.node) / "embeddings").expanduser()


def compiled_dir(node: NodeSettings) -> Path:
    """Where graphs are kept as a provider compiled them; may be emptied at any time."""
    return data_dir(node) / "compiled"


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


def _clashes(settings: Settings, layers: Layers) -> list[ConfigProblem]:
    """What each key for itself cannot tell."""
    return _pin_problems(settings.buttons, layers) + _style_problems(settings.styles, layers)


def _style_problems(styles: tuple[StyleSettings, ...], layers: Layers) -> list[ConfigProblem]:
    """Every style has a name of its own, and none that Home Assistant takes for "unknown"."""
    problems, taken = [], set(RESERVED_STYLES)
    for index, style in enumerate(styles):
        if (name := style.name.strip().lower()) in taken:
            origin = layers.origin(("styles", index, "name"))
            message = f"the name {style.name!r} is taken already"
            problems.append(ConfigProblem(f"styles.{index}.name", style.name, message, origin))
        taken.add(name)
    return problems


def _pin_problems(buttons: tuple[ButtonSettings, ...], layers: Layers) -> list[ConfigProblem]:
    """Every pin may have one use only."""
    uses: dict[int, str] = {}
    problems = []
    for index, button in enumerate(buttons):
        for name, pin in (("pin", button.pin), ("led", button.led)):
            key = f"buttons.{index}.{name}"
            if pin is not None and pin in uses:
                message = f"pin {pin} is used by {uses[pin]} already"
                origin = layers.origin(("buttons", index, name))
                problems.append(ConfigProblem(key, pin, message, origin))
            elif pin is not None:
                uses[pin] = key
    return problems
