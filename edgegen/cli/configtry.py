"""`edgegen config try`, `confirm` and `rollback`: a change that undoes itself unless somebody says yes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegen.errors import ConfigError, EdgegenError, Problem, StorageError

from .app import App, pass_app
from .checks import Check
from .output import note, say

if TYPE_CHECKING:
    from edgegen.config.trials import Trial
    from edgegen.settings import Settings

TRIED_BADLY = 1


@click.command("try")
@click.argument("words", nargs=-1, required=True, metavar="FILE | KEY=VALUE...")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(5, 86_400),
    default=120,
    show_default=True,
    help="Seconds until it rolls back by itself.",
)
@pass_app
@click.pass_context
def try_(ctx: click.Context, app: App, words: tuple[str, ...], timeout_s: int) -> None:
    """Use a changed configuration for a while: FILE in place of the one in use, or some keys.

    The files stay as they are. The daemon takes the change over, health checks run (broker login, pack,
    one denoising step), and when one of them fails, or nobody runs `edgegen config confirm` in time, all
    is as before; also when this connection breaks, the machine restarts or its clock jumps.

    Exit code 1 when a check failed, 78 when the change is not valid: then nothing was tried.

    \b
    Examples:
      edgegen config try mqtt.host=broker.local mqtt.tls=true
      edgegen config try --timeout 300 new.toml
      edgegen config confirm
    """
    from edgegen.config import trials
    from edgegen.config.edit import main_file
    from edgegen.config.files import check_config

    main = main_file(app.config_file, os.environ)
    texts = texts_to_try(app, words)
    if problems := check_config(main, os.environ, texts):
        raise ConfigError([as_in(words[0], main, problem) for problem in problems])
    trial = put_on_trial(app, main, texts, timeout_s)
    if trial is None:
        ctx.exit(TRIED_BADLY)
    left = trial.left_s(trials.boot_time())
    say(f"in use for {left:.0f} s more; make it permanent with: edgegen config confirm")


def put_on_trial(app: App, main: Path, texts: Mapping[Path, str], timeout_s: float) -> Trial | None:
    """Begin a trial of texts that are valid and check its health; None: it was not well and is over.

    Raises:
        ConfigError: a trial goes on already. StorageError: it cannot be written.
    """
    from edgegen.config import trials
    from edgegen.config.files import load_effective
    from edgegen.config.reload import changed_keys, waits_for_restart

    from .doctor import print_check

    before = app.salvaged
    settings = load_effective(main, os.environ, texts).settings
    trial = trials.begin(main, texts, timeout_s)
    tell_daemon(before)
    if waiting := [key for key in changed_keys(before, settings) if waits_for_restart(key)]:
        note(f"a running daemon must start again for: {', '.join(waiting)}")
    healthy = True
    for check in health_checks(settings, before):
        print_check(check)
        healthy = healthy and check.state != "bad"
    if healthy and trial.is_good(trials.boot_time()):
        return trial
    trials.rollback(main)
    tell_daemon(before)
    note("rolled back: " + ("the time was over before the checks were done" if healthy else "a check failed"))
    return None


@click.command()
@pass_app
def confirm(app: App) -> None:
    """Make the configuration that is on trial permanent.

    Exit code 78 when none is, for instance because its time was over.

    \b
    Example:
      edgegen config confirm
    """
    from edgegen.config import trials
    from edgegen.config.edit import main_file

    main = main_file(app.config_file, os.environ)
    for file in trials.confirm(main):
        say(f"{file}: written")
    tell_daemon(app.salvaged)


@click.command()
@pass_app
def rollback(app: App) -> None:
    """End a trial now; without one, bring back the file as it was before the last change.

    \b
    Example:
      edgegen config rollback
    """
    from edgegen.config import trials
    from edgegen.config.edit import main_file

    main = main_file(app.config_file, os.environ)
    if trials.rollback(main):
        say(f"{main}: the trial is over, all is as before")
    else:
        restore(main)
    tell_daemon(app.salvaged)


def restore(main: Path) -> None:
    """The newest kept text; what is there now is kept in turn, so that a second rollback undoes this one.

    Raises:
        ConfigError: nothing was kept, or it would not be right today.
    """
    from edgegen.config.files import check_config
    from edgegen.config.layers import read_text
    from edgegen.config.store import backups, config_lock, replace_config

    with config_lock(main.parent):
        kept = backups(main)
        if not kept:
            raise ConfigError(f"{main}: no trial goes on, and nothing was kept to go back to")
        text = read_text(kept[-1])
        if problems := check_config(main, os.environ, {main: text}):
            raise ConfigError(problems)
        replace_config(main, text)
        say(f"{main}: as it was in {kept[-1]}")


def texts_to_try(app: App, words: tuple[str, ...]) -> dict[Path, str]:
    """One file's text in place of the main file, or the changed texts of the files that decide."""
    from edgegen.config.edit import main_file, parse_assignment, plan_edit
    from edgegen.config.layers import read_text

    if len(words) == 1 and "=" not in words[0]:
        return {main_file(app.config_file, os.environ): read_text(Path(words[0]))}
    edit = plan_edit(app.config_file, os.environ, [parse_assignment(word) for word in words])
    for line in edit.notes:
        note(line)
    return edit.texts


def as_in(word: str, main: Path, problem: Problem) -> Problem:
    """The same, standing in the file that was given rather than in the one it would replace."""
    from dataclasses import replace

    from edgegen.config.problem import ConfigProblem

    if "=" in word or not isinstance(problem, ConfigProblem) or problem.origin.place != str(main):
        return problem
    return replace(problem, origin=replace(problem.origin, place=word))


def health_checks(settings: Settings, before: Settings) -> Iterator[Check]:
    """What the new settings have to stand; a step is only worth its memory where they touch the engine."""
    from . import services
    from .doctor import guarded

    yield from guarded("certificate", lambda: services.check_certificates(settings.mqtt, time.time()))
    yield from guarded("broker", lambda: [services.check_broker(settings.mqtt)])
    yield from guarded("pack", lambda: [services.check_pack(settings)[0]])
    if settings.engine == before.engine:
        yield Check("step", "ok", "the engine's settings are as they were")
    else:
        yield from guarded("step", lambda: [check_step(settings)])


def check_step(settings: Settings) -> Check:
    """Loads the pack and runs one denoising step, in this process."""
    from edgegen.engine.pipeline import Progress, TextToImage, resolve_settings
    from edgegen.jobs.job import JobRequest

    from .pack import locate

    try:
        pack = locate(settings.engine.pack, settings)
        request = JobRequest(id="try", prompt="a red apple", steps=None)
        wanted = resolve_settings(pack, request, settings.limits)
        engine = settings.engine
        with TextToImage(pack, engine.provider, engine.threads, memory=engine.memory) as pipeline:
            for part in pipeline.generate(wanted):
                if isinstance(part, Progress) and part.step:
                    break
    except EdgegenError as err:
        return Check("step", "bad", str(err), "see engine.pack, engine.provider and limits")
    return Check("step", "ok", f"one step of {pack.name} ran")


def tell_daemon(settings: Settings) -> None:
    """SIGHUP, where one runs; it then reads its configuration again."""
    from edgegen.jobs.link import FrontError

    try:
        pid = daemon_pid(settings)
        os.kill(pid, signal.SIGHUP)
    except FrontError:
        note("no daemon runs here")
    except (KeyError, OSError, ConfigError) as err:
        note(f"the daemon could not be told ({err}): systemctl reload edgegen-front")
    else:
        note(f"the daemon ({pid}) reads its configuration again")


def daemon_pid(settings: Settings) -> int:
    """The one that a shell with these settings reaches.

    Raises:
        FrontError: none runs. KeyError: one of an earlier version, that tells no pid.
    """
    from .access import connect

    with connect(settings.node) as link:
        return int(link.ask("status")["pid"])


def sweep(app: App) -> None:
    """Whoever comes first after a trial clears it away; one that goes on is mentioned."""
    from edgegen.config import trials
    from edgegen.config.edit import main_file

    main, now = main_file(app.config_file, os.environ), trials.boot_time()
    if trial := trials.current_trial(main, now):
        note(f"a trial goes on for {trial.left_s(now):.0f} s more")
    try:
        if done := trials.sweep(main, now):
            note(done)
            tell_daemon(app.salvaged)
    except StorageError:
        pass  # not ours to write; over it is all the same
