"""`edgegen run` and `edgegen engine`: the two processes of the appliance."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from edgegen.errors import ConfigError

from .app import App, pass_app

if TYPE_CHECKING:
    from edgegen.settings import Settings


@click.command()
@click.option("--front-only", is_flag=True, help="Only the front: MQTT, buttons and queue; no engine.")
@pass_app
@click.pass_context
def run(ctx: click.Context, app: App, front_only: bool) -> None:
    """Run the daemon until it is told to stop (Ctrl-C or SIGTERM).

    It takes jobs from MQTT, buttons and `edgegen queue add`, and starts and watches the engine.
    On SIGHUP it reads its configuration again, with no job interrupted. With a broken configuration it
    starts in a safe mode that takes no jobs; `edgegen status` says what is wrong.
    With --front-only, start the engine yourself with `edgegen engine`, as the systemd units do.

    \b
    Examples:
      edgegen run
      edgegen --config /etc/edgegen/config.toml run --front-only
      EDGEGEN_MQTT__ENABLED=true edgegen -v run
    """
    from edgegen.config.reload import ConfigSource
    from edgegen.daemon import run_front

    log_what_happens(app)
    source = ConfigSource(app.config_file)
    source.sweep()
    ctx.exit(run_front(settings_or_none(app), with_engine=not front_only, source=source))


def settings_or_none(app: App) -> Settings | None:
    """None when the configuration is broken; safe mode then tells what is wrong."""
    try:
        return app.settings
    except ConfigError:
        return None


@click.command()
@pass_app
@click.pass_context
def engine(ctx: click.Context, app: App) -> None:
    """Run the engine alone: claim jobs from the queue and make their pictures.

    `edgegen run` starts one by itself; this is for a unit of its own beside `edgegen run --front-only`.
    When the front takes over changed settings, the engine ends after the job at hand and its unit starts
    it again. With a broken configuration it waits until that is mended.

    \b
    Examples:
      edgegen engine
      edgegen --config /etc/edgegen/config.toml engine
    """
    from edgegen.jobs.worker import run_engine

    log_what_happens(app)
    settings = settings_or_none(app) or mended_settings(app)
    ctx.exit(run_engine(settings) if settings else 0)


def mended_settings(app: App) -> Settings | None:
    """None when asked to stop before the configuration could be read."""
    from edgegen.config.reload import ConfigSource
    from edgegen.jobs.configwait import wait_for_settings
    from edgegen.jobs.wakeup import StopRequest, Wakeup

    wakeup = Wakeup()
    stop = StopRequest(wakeup)
    stop.install()
    return wait_for_settings(ConfigSource(app.config_file), wakeup, stop)


def log_what_happens(app: App) -> None:
    """A service's log tells more than a command's stderr, even without -v."""
    if not app.verbosity:
        logging.getLogger().setLevel(logging.INFO)
