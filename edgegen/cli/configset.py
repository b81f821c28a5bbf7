"""`edgegen config set` and `unset`: checked whole, then written whole, with the old file kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from edgegen.errors import ConfigError

from .app import App, pass_app
from .complete import config_keys, config_words
from .output import note, say

if TYPE_CHECKING:
    from edgegen.config.tomltext import Change


@click.command("set")
@click.argument(
    "words", nargs=-1, required=True, metavar="KEY VALUE | KEY=VALUE...", shell_complete=config_words
)
@pass_app
@click.pass_context
def set_(ctx: click.Context, app: App, words: tuple[str, ...]) -> None:
    """Set KEY to VALUE, or several keys at once, in the file that decides over each now.

    Comments and layout stay. Nothing is written unless the whole configuration is right afterwards; the
    old file is kept in history/ beside it. A running daemon takes it over with `systemctl reload
    edgegen-front`, or SIGHUP.

    \b
    Examples:
      edgegen config set mqtt.port 8883
      edgegen config set mqtt.host=broker.local mqtt.tls=true
      edgegen config set buttons.0.pin=17 'buttons.0.prompts=["a red apple"]'
    """
    from edgegen.config.edit import parse_assignment, parse_change

    if len(words) == 2 and "=" not in words[0]:
        changes = [parse_change(*words)]
    else:
        if bad := [word for word in words if "=" not in word]:
            raise click.UsageError(f"{bad[0]}: give KEY VALUE, or KEY=VALUE for each key", ctx)
        changes = [parse_assignment(word) for word in words]
    change_files(app, changes)


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=config_keys)
@pass_app
def unset(app: App, keys: tuple[str, ...]) -> None:
    """Take KEY out of the files, so that its default holds again; buttons.0 removes the first button.

    \b
    Examples:
      edgegen config unset mqtt.keepalive_s
      edgegen config unset buttons.1
    """
    from edgegen.config.edit import parse_change

    change_files(app, [parse_change(key, None) for key in keys])


def change_files(app: App, changes: list[Change]) -> None:
    """Plan, check and write; tells which files were written.

    Raises:
        ConfigError: the result would not be right, so nothing is written. StorageError: it cannot be.
    """
    from edgegen.config.edit import main_file, plan_edit
    from edgegen.config.files import check_config
    from edgegen.config.store import config_lock, replace_config
    from edgegen.config.trials import current_trial

    main = main_file(app.config_file, os.environ)
    with config_lock(main.parent):
        if current_trial(main):
            raise ConfigError(f"{main}: a trial goes on: `edgegen config confirm` or `rollback` comes first")
        edit = plan_edit(app.config_file, os.environ, changes)
        if problems := check_config(main, os.environ, edit.texts):
            raise ConfigError(problems)
        for file, text in edit.texts.items():
            backup = replace_config(file, text)
            say(f"{file}: written" + (f"; the old one is {backup}" if backup else ""))
    if not edit.texts:
        note("nothing to change: no file sets " + ", ".join(change.key for change in changes))
    for line in edit.notes:
        note(line)
