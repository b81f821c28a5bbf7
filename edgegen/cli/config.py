"""`edgegen config`: what is set, whether a file is right, and what every key means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import ConfigError, Problem

from .app import App, fail, pass_app
from .complete import sections_and_keys
from .configname import file_in_use
from .configset import set_, unset
from .configtry import confirm, rollback, sweep, try_
from .output import say, say_json

if TYPE_CHECKING:
    from edgegen.config.files import Effective

    from .reference import Entry


@click.group()
@pass_app
def config(app: App) -> None:
    """Configuration: a TOML file, conf.d/*.toml beside it, then EDGEGEN_... variables.

    \b
    Examples:
      edgegen config example > ~/.config/edgegen/config.toml
      edgegen config validate
      edgegen config show
      edgegen config diff
      edgegen config explain mqtt.port
      edgegen config set mqtt.port 8883
      edgegen config try mqtt.host=broker.local
    """
    sweep(app)


for command in (set_, unset, try_, confirm, rollback):
    config.add_command(command)


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the values alone.")
@click.option("--origins", is_flag=True, help="With --json: every key with its value and origin.")
@click.option("--diff", is_flag=True, help="Only what differs from the defaults, as `config diff`.")
@pass_app
def show(app: App, as_json: bool, origins: bool, diff: bool) -> None:
    """Print the settings in force, and where each comes from: file and line, variable or default.

    What it prints can be used as a configuration file.

    \b
    Examples:
      edgegen config show
      edgegen --config kiosk.toml config show --json | jq .mqtt
      edgegen config show --json --origins | jq '."mqtt.port"'
    """
    print_settings(app.effective, as_json, origins, diff)


@config.command("diff")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the values alone.")
@click.option("--origins", is_flag=True, help="With --json: every key with its value and origin.")
@pass_app
def diff_(app: App, as_json: bool, origins: bool) -> None:
    """Print only what differs from the defaults, and where it comes from.

    \b
    Examples:
      edgegen config diff
      edgegen config diff --json
    """
    print_settings(app.effective, as_json, origins, diff=True)


def print_settings(effective: Effective, as_json: bool, origins: bool, diff: bool) -> None:
    """`show` and `diff` are the same but for what they leave out."""
    from edgegen.settings import Settings

    from .configprint import differing, to_toml, with_origins

    values = effective.settings.model_dump(mode="json")
    if diff:
        values = differing(values, Settings().model_dump(mode="json"))
    if as_json:
        say_json(with_origins(values, effective.layers) if origins else values)
    elif values:
        say(to_toml(values, effective.layers))


@config.command()
@click.argument("key", shell_complete=sections_and_keys)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--origin", is_flag=True, help="Where the value comes from, instead of the value.")
@pass_app
def get(app: App, key: str, as_json: bool, origin: bool) -> None:
    """Print the value in force of KEY (or of a section): text as it is, all else as TOML.

    Exit code 78 for a key that does not exist.

    \b
    Examples:
      edgegen config get mqtt.port
      edgegen config get mqtt
      edgegen config get buttons.0.prompts
      edgegen config get mqtt.port --origin
    """
    from .configprint import as_text, value_at

    loc, value = value_at(app.effective.settings, key)
    if origin:
        value = str(app.effective.origin(*loc))
    if as_json:
        say_json(value)
    elif text := as_text(loc, value):
        say(text)


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ok, files, and the problems.")
@click.option("--no-files", is_flag=True, help="Look at no other file: it is for another machine.")
@pass_app
def validate(app: App, file: Path | None, as_json: bool, no_files: bool) -> None:
    """Check FILE (default: the file in use), conf.d/*.toml beside it and the environment.

    Every problem is told at once with its file, line, key, value and what is allowed, also those that a
    later file hides; so is what is wrong with the certificates and the key that mqtt.tls needs, and with the
    stored workflows that buttons name. Exit code 78 when there is one.

    \b
    Examples:
      edgegen config validate
      edgegen config validate kiosk.toml
      edgegen config validate kiosk.toml --json
    """
    from edgegen.config.files import check_config

    path = file or app.config_file
    problems: list[Problem] = check_config(path)
    if not problems and not no_files:
        problems = [*certificate_problems(path), *workflow_problems(path)]
    if as_json:
        say_json({"ok": not problems, "problems": [problem_json(p) for p in problems]})
        raise click.exceptions.Exit(ConfigError.exit_code if problems else 0)
    if problems:
        raise ConfigError(problems)
    say(f"{file_in_use(path)}: fine")


def certificate_problems(path: Path | None) -> list[Problem]:
    """What is wrong with the files of a TLS login, where the key that names each stands."""
    import time

    from edgegen.config.files import load_effective
    from edgegen.config.problem import ConfigProblem
    from edgegen.config.tlsfiles import CERT, certificates, tls_problems

    effective = load_effective(path)
    mqtt = effective.settings.mqtt
    found = tls_problems(mqtt)
    if not found and mqtt.enabled and mqtt.tls:
        expired = [c for c in certificates(mqtt.cert_file)[:1] if c.days_left(time.time()) < 0]
        found = [Problem(CERT, str(mqtt.cert_file), f"{mqtt.cert_file} has expired") for _ in expired]
    origins = [effective.origin(*problem.field.split(".")) for problem in found]
    pairs = zip(found, origins, strict=True)
    return [ConfigProblem(p.field, p.value, p.message, origin) for p, origin in pairs]


def workflow_problems(path: Path | None) -> list[Problem]:
    """What is wrong with the stored workflows that buttons name, where the key that names each stands."""
    from edgegen.config.files import load_effective, workflow_dir
    from edgegen.config.problem import ConfigProblem
    from edgegen.jobs.buttonjobs import button_problems
    from edgegen.jobs.workflowjob import WorkflowFolder

    effective = load_effective(path)
    stored = WorkflowFolder(workflow_dir(effective.settings))
    found: list[Problem] = []
    for key, problem in button_problems(effective.settings, stored.read):
        section, index, name = key.split(".")
        origin = effective.origin(section, int(index), name)
        found.append(ConfigProblem(key, problem.value, str(problem), origin))
    return found


def problem_json(problem: Problem) -> dict[str, Any]:
    """`file` is the variable's name for what the environment sets; `line` is null without one."""
    origin, allowed = getattr(problem, "origin", None), getattr(problem, "allowed", "")
    return {
        "file": origin.place if origin else "",
        "line": (origin.line if origin else 0) or None,
        "key": problem.field,
        "value": problem.value,
        "allowed": allowed,
        "message": problem.message,
    }


@config.command()
@click.argument("key", required=False, shell_complete=sections_and_keys)
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
    from .reference import entries, explain_lines, unknown_key

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
