"""`edgegen config`: what is set, whether a file is right, and what every key means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import ConfigError, Problem

from .app import App, fail, pass_app
from .output import say, say_json

if TYPE_CHECKING:
    from .reference import Entry


@click.group()
def config() -> None:
    """Configuration: one TOML file, overridden by EDGEGEN_... variables.

    \b
    Examples:
      edgegen config example > ~/.config/edgegen/config.toml
      edgegen config validate
      edgegen config show --diff
      edgegen config explain mqtt.port
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--diff", is_flag=True, help="Only what differs from the defaults.")
@pass_app
def show(app: App, as_json: bool, diff: bool) -> None:
    """Print the settings in force: defaults, file and environment together.

    \b
    Examples:
      edgegen config show
      edgegen config show --diff
      edgegen --config kiosk.toml config show --json | jq .mqtt
    """
    from edgegen.settings import Settings

    values = app.settings.model_dump(mode="json")
    if diff:
        values = differing(values, Settings().model_dump(mode="json"))
    if as_json:
        say_json(values)
    elif values:
        say(to_toml(values))


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


def to_toml(values: dict[str, Any]) -> str:
    """Sections and [[lists of tables]] as TOML; keys that are empty become comments."""
    from .reference import toml_value

    blocks = []
    for section, content in values.items():
        head = f"[{section}]" if isinstance(content, dict) else f"[[{section}]]"
        for part in [content] if isinstance(content, dict) else content:
            lines = [
                f"# {key} is empty" if value is None else f"{key} = {toml_value(value)}"
                for key, value in part.items()
            ]
            blocks.append("\n".join([head, *lines]))
    return "\n\n".join(blocks)


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ok, and the problems.")
@pass_app
def validate(app: App, file: Path | None, as_json: bool) -> None:
    """Check FILE (default: the file in use) and the environment; tell every problem at once.

    Exit code 78 when there is one.

    \b
    Examples:
      edgegen config validate
      edgegen config validate kiosk.toml
      edgegen config validate kiosk.toml --json
    """
    from edgegen.jobs.configfile import load_settings

    path = file or app.config_file
    try:
        load_settings(path)
    except ConfigError as err:
        if as_json:
            say_json({"ok": False, "problems": [_as_json(p) for p in err.problems]})
            raise click.exceptions.Exit(err.exit_code) from None
        raise
    if as_json:
        say_json({"ok": True, "problems": []})
    else:
        say(f"{file_in_use(path)}: fine")


def _as_json(problem: Problem) -> dict[str, Any]:
    return {"key": problem.field, "value": problem.value, "message": problem.message}


def file_in_use(path: Path | None) -> str:
    """The configuration file's name, or that there is none."""
    from edgegen.jobs.configfile import find_config_file

    found = path or find_config_file()
    return str(found) if found else "no configuration file, so all defaults"


@config.command()
@click.argument("key", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(key: str | None, as_json: bool) -> None:
    """Explain KEY (or a section): meaning, type, range, default, environment variable.

    Without KEY: all of them.

    \b
    Examples:
      edgegen config explain
      edgegen config explain mqtt
      edgegen config explain engine.threads
    """
    from .reference import entries, explain_lines

    chosen = [entry for entry in entries() if key is None or key in (entry.key, entry.section)]
    if not chosen:
        fail(ConfigError([Problem(str(key), key, unknown_key(str(key), entries()))]))
    if as_json:
        say_json([_entry_json(entry) for entry in chosen])
        return
    for i, entry in enumerate(chosen):
        if i:
            say()
        for line in explain_lines(entry):
            say(click.style(line, bold=True) if line == entry.key else line)


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "type": entry.kind,
        "allowed": entry.allowed,
        "default": entry.default,
        "required": entry.required,
        "meaning": entry.meaning,
        "env": entry.env,
    }


def unknown_key(key: str, known: list[Entry]) -> str:
    """What to say about a key that does not exist."""
    from difflib import get_close_matches

    names = [entry.key for entry in known] + sorted({entry.section for entry in known})
    near = get_close_matches(key, names, 3) or [name for name in names if name.endswith(f".{key}")]
    return "no such key; " + (
        f"did you mean {' or '.join(near)}?" if near else "edgegen config explain lists all"
    )


@config.command()
def example() -> None:
    """Print a commented configuration file with every key at its default.

    \b
    Example:
      edgegen config example > ~/.config/edgegen/config.toml
    """
    from .reference import example_toml

    say(example_toml())


@config.command()
def reference() -> None:
    """Print the reference of all keys as Markdown (docs/CONFIG.md).

    \b
    Example:
      edgegen config reference > docs/CONFIG.md
    """
    from .reference import markdown

    say(markdown().rstrip("\n"))
