"""`edgegen doctor`: every check, its state and what to do; works on any machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgegen.errors import ConfigError, EdgegenError

from .app import App, pass_app
from .checks import Check
from .output import coloured, printable, say, say_json

if TYPE_CHECKING:
    from edgegen.pack import Pack
    from edgegen.settings import Settings

    from .machine import Roots

NAME_WIDTH = 12


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@pass_app
def doctor(app: App, ctx: click.Context, as_json: bool) -> None:
    """Check this machine, the configuration, the pack and the broker; exit 1 if anything is bad.

    \b
    Examples:
      edgegen doctor
      edgegen doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from .machine import Roots

    found = []
    for check in all_checks(app, Roots()):
        found.append(check)
        if not as_json:
            print_check(check)
    healthy = all(check.state != "bad" for check in found)
    if as_json:
        say_json({"ok": healthy, "checks": [asdict(check) for check in found]})
    ctx.exit(0 if healthy else 1)


def print_check(check: Check) -> None:
    """`ok    memory      7876 MB, ...`, and the advice below."""
    say(f"{coloured(f'{check.state:<4}', check.state)}  {check.name:<{NAME_WIDTH}}{printable(check.message)}")
    if check.advice:
        say(" " * (6 + NAME_WIDTH) + f"-> {check.advice}")


def all_checks(app: App, roots: Roots) -> Iterator[Check]:
    """Every finding, as soon as it is known. A broken configuration is one; defaults then stand in."""
    from . import checks

    settings, finding = settings_or_defaults(app)
    yield finding
    yield from guarded("machine", lambda: machine_checks(roots))
    yield checks.check_python()
    yield checks.check_packages()
    yield from guarded("clock", lambda: [clock_check()])
    yield from guarded("folders", lambda: folder_checks(settings))
    yield from guarded("engine", lambda: engine_checks(settings, roots))
    yield from guarded("services", lambda: service_checks(settings))
    yield from guarded("display", lambda: display_checks(settings, roots))


def guarded(name: str, run: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks `run` makes; a check that breaks is a finding too, and the others still run."""
    try:
        yield from run()
    except EdgegenError as err:
        yield Check(name, "bad", str(err))
    except Exception as err:  # noqa: BLE001 - the doctor must not fall ill
        yield Check(name, "bad", f"this check broke: {type(err).__name__}: {err}", "report it with this line")


def settings_or_defaults(app: App) -> tuple[Settings, Check]:
    from .configname import file_in_use

    try:
        return app.settings, Check("config", "ok", file_in_use(app.config_file))
    except ConfigError as err:
        said = "; ".join(str(problem) for problem in err.problems)
        advice = "edgegen config validate; the checks below use defaults for what is wrong"
        return app.salvaged, Check("config", "bad", said, advice)


def machine_checks(roots: Roots) -> Iterator[Check]:
    from . import checks, machine

    yield Check("board", "ok", machine.board(roots) or "unknown")
    yield checks.check_temperature(roots)
    yield checks.check_throttling(roots)


def clock_check() -> Check:
    from . import checks, machine

    return checks.check_clock(time.time(), machine.clock_is_synchronised())


def folder_checks(settings: Settings) -> Iterator[Check]:
    from edgegen.config.files import database_path, gallery_dir, run_dir

    from . import checks

    data = settings.node.data_dir.expanduser()
    yield checks.check_disk(data, settings.gallery.reserve_mb)
    yield checks.check_database(database_path(settings.node))
    yield checks.check_writable("data_dir", data)
    yield checks.check_writable("gallery", gallery_dir(settings))
    yield checks.check_writable("run_dir", run_dir(settings.node))


def engine_checks(settings: Settings, roots: Roots) -> Iterator[Check]:
    from . import checks, services

    yield services.check_provider(settings.engine)
    finding, pack = services.check_pack(settings)
    yield finding
    yield checks.check_memory(roots, least_ram_mb(pack))
    yield services.check_memory_mode(settings.engine, pack, roots)


def least_ram_mb(pack: Pack | None) -> int:
    """What the pack needs in the memory mode that needs least; 0: no pack."""
    from edgegen.engine.memorychoice import memory_needs

    return min(memory_needs(pack.manifest).mb.values()) if pack else 0


def service_checks(settings: Settings) -> Iterator[Check]:
    from . import services

    finding, runs = services.check_daemon(settings.node)
    yield finding
    yield from services.check_certificates(settings.mqtt, time.time())
    yield services.check_broker(settings.mqtt)
    yield services.check_pins(settings.buttons, runs)
    yield from services.check_button_workflows(settings)


def display_checks(settings: Settings, roots: Roots) -> Iterator[Check]:
    from . import screens

    yield from screens.check_display(settings, roots)
