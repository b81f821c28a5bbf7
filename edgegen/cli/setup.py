"""`edgegen setup`: question by question to a configuration that works; nothing is written before a yes."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from typing import IO, TYPE_CHECKING, Any

import click

from edgegen.errors import ConfigError

from .app import App, pass_app
from .ask import ask_choice, ask_yes, paragraph
from .configset import change_files
from .configtry import put_on_trial, sweep, tell_daemon
from .output import coloured, note, printable, say
from .setupsecret import Secret
from .setupsteps import STEPS, all_findings, take_answers, told

if TYPE_CHECKING:
    from edgegen.config.draft import Draft

TRIAL_S = 120
CHECK_FAILED = 1


@click.command()
@click.option(
    "--answers",
    type=click.File("rb"),
    metavar="FILE",
    help="Ask nothing: take the answers from this TOML file (- for stdin), laid out as the configuration. "
    "mqtt.password may stand in it too; it goes into a file of its own.",
)
@click.option(
    "--set", "words", multiple=True, metavar="KEY=VALUE", help="Ask nothing: one answer; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Check and show what would change, and write nothing.")
@click.option("--try", "on_trial", is_flag=True, help="With answers: on trial, as `edgegen config try`.")
@click.option("--force", is_flag=True, help="With answers: write although a check failed.")
@pass_app
@click.pass_context
def setup(
    ctx: click.Context,
    app: App,
    answers: IO[bytes] | None,
    words: tuple[str, ...],
    dry_run: bool,
    on_trial: bool,
    force: bool,
) -> None:
    """Set this device up: its name, broker, pack, buttons and screen, one question at a time.

    Works in any terminal, also over a bad SSH connection. Every answer is checked at once: the broker's
    login is really tried, the pack's files are verified, pins are opened, a screen gets a test card. At the
    end you see what would change in the files, and may try it for two minutes first: when that cuts the
    device off, it undoes itself. Ctrl-C leaves everything as it was.

    With --answers or --set it asks nothing; exit code 1 when a check fails, and then nothing is written.

    \b
    Examples:
      edgegen setup
      sudo edgegen setup
      edgegen setup --set mqtt.enabled=true --set mqtt.host=broker.local --dry-run
      edgegen setup --answers lobby.toml --try && edgegen config confirm
    """
    from edgegen.config.draft import Draft
    from edgegen.config.trials import current_trial

    sweep(app)
    draft = Draft(app.config_file, os.environ)
    if current_trial(draft.main):
        raise ConfigError(
            f"{draft.main}: a trial goes on: `edgegen config confirm` or `rollback` comes first"
        )
    with Secret(draft.main.parent) as secret:
        if answers or words:
            take_answers(draft, secret, read_answers(answers))
            take_words(draft, words)
            ctx.exit(finish_quietly(app, draft, secret, dry_run, on_trial, force))
        if not sys.stdin.isatty():
            raise click.UsageError("setup asks questions: run it in a terminal, or give --answers FILE", ctx)
        walk_through(app, draft, secret, dry_run)


def read_answers(file: IO[bytes] | None) -> dict[str, Any]:
    from edgegen.config.layers import MAX_CONFIG_BYTES

    if file is None:
        return {}
    try:
        return tomllib.loads(file.read(MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise ConfigError(f"{getattr(file, 'name', 'answers')}: is no TOML: {err}") from err


def take_words(draft: Draft, words: tuple[str, ...]) -> None:
    from edgegen.config.edit import parse_assignment

    draft.take([parse_assignment(word) for word in words])


def finish_quietly(app: App, draft: Draft, secret: Secret, dry_run: bool, on_trial: bool, force: bool) -> int:
    """Checks, shows and writes; the exit code."""
    healthy = told(all_findings(draft, secret))
    show_changes(draft)
    if dry_run or not draft.texts:
        return 0 if healthy else CHECK_FAILED
    if not healthy and not force:
        note("a check failed, so nothing was written (--force writes all the same)")
        return CHECK_FAILED
    if on_trial:
        return 0 if try_it(app, draft, secret, asks=False) else CHECK_FAILED
    write_it(app, draft, secret)
    return 0


def walk_through(app: App, draft: Draft, secret: Secret, dry_run: bool) -> None:
    """All steps, then what would change, then what to do about it."""
    for lost in (signal.SIGHUP, signal.SIGTERM):  # a connection that breaks is a Ctrl-C, too
        signal.signal(lost, signal.default_int_handler)
    paragraph(
        f"Setup of {draft.main}, in {len(STEPS)} steps. Enter keeps what stands in [brackets], ? explains a "
        "question, Ctrl-C leaves everything as it was. Nothing is written before you say so."
    )
    try:
        for number in STEPS:
            take_step(number, draft, secret)
        while not settle(app, draft, secret, dry_run):
            pass
    except (KeyboardInterrupt, click.Abort):
        say()
        note("stopped: everything is as it was")
        raise


def take_step(number: str, draft: Draft, secret: Secret) -> None:
    title, step = STEPS[number]
    say()
    say(click.style(f"{number} of {len(STEPS)}: {title}", bold=True))
    step(draft, secret)


def settle(app: App, draft: Draft, secret: Secret, dry_run: bool) -> bool:
    """One round of the last question; True when it is over."""
    say()
    show_changes(draft)
    if dry_run or not draft.texts:
        return True
    choices = {
        "t": f"try it for {TRIAL_S} s; it undoes itself unless you then say that it stays",
        "w": "write it now",
        **{number: f"go back to: {title}" for number, (title, _) in STEPS.items()},
        "q": "quit and leave everything as it was",
    }
    say()
    chosen = ask_choice("What now", choices, "t")
    if chosen == "q":
        note("nothing was written")
        return True
    if chosen == "w":
        write_it(app, draft, secret)
        return True
    if chosen == "t":
        return try_it(app, draft, secret, asks=True)
    take_step(chosen, draft, secret)
    return False


def show_changes(draft: Draft) -> None:
    """As `diff -u` does, with a line for each note."""
    if not draft.texts:
        say("nothing to change: all answers are what is configured already")
    for line in draft.diff().splitlines():
        state = {"+": "ok", "-": "bad"}.get(line[:1], "")
        say(coloured(printable(line), state))
    for line in draft.notes:
        note(line)


def write_it(app: App, draft: Draft, secret: Secret) -> None:
    secret.write(draft.settings.mqtt)
    before = app.salvaged
    change_files(app, draft.changes)
    secret.settle()
    tell_daemon(before)


def try_it(app: App, draft: Draft, secret: Secret, asks: bool) -> bool:
    """On trial; where somebody can be asked, kept or rolled back at once. False when it did not last."""
    from edgegen.config import trials

    secret.write(draft.settings.mqtt)
    trial = put_on_trial(app, draft.main, draft.texts, TRIAL_S)
    if trial is None:
        return False
    if not asks:
        secret.settle()
        say(f"in use for {TRIAL_S} s; make it permanent with: edgegen config confirm")
        return True
    try:
        keeps = ask_yes(f"Keep it? After {trial.left_s(trials.boot_time()):.0f} s it undoes itself", False)
    except BaseException:
        undo(app, draft)
        raise
    if not keeps:
        undo(app, draft)
        return False
    return confirm_it(app, draft, secret)


def undo(app: App, draft: Draft) -> None:
    from edgegen.config import trials

    trials.rollback(draft.main)
    tell_daemon(app.salvaged)
    note("rolled back")


def confirm_it(app: App, draft: Draft, secret: Secret) -> bool:
    from edgegen.config import trials

    try:
        written = trials.confirm(draft.main)
    except ConfigError as err:
        note(str(err))
        tell_daemon(app.salvaged)
        return False
    secret.settle()
    for file in written:
        say(f"{file}: written")
    tell_daemon(app.salvaged)
    return True
