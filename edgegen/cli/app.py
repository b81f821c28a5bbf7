"""The root command: global options, lazily loaded subcommands, and how every failure is told."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgegen.errors import BadRequest, ConfigError, EdgegenError

from .output import complain, note, say

if TYPE_CHECKING:
    from edgegen.config.files import Effective
    from edgegen.settings import Settings

COMMANDS = {
    "generate": ".generate:generate",
    "workflow": ".workflow:workflow",
    "run": ".run:run",
    "engine": ".run:engine",
    "display": ".display:display",
    "status": ".jobs:status",
    "queue": ".jobs:queue",
    "cancel": ".jobs:cancel",
    "pack": ".pack:pack",
    "config": ".config:config",
    "setup": ".setup:setup",
    "doctor": ".doctor:doctor",
    "support-bundle": ".bundle:support_bundle",
    "completion": ".complete:completion",
}
PACKAGES = (
    "onnxruntime",
    "onnxruntime-ep-openvino",
    "numpy",
    "pillow",
    "pydantic",
    "paho-mqtt",
    "gpiozero",
    "lgpio",
)
EXIT_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
EXIT_INTERRUPT = 130


@dataclass
class App:
    """What the global options said; handed to every command as click's `obj`."""

    config_file: Path | None = None
    verbosity: int = 0

    @cached_property
    def settings(self) -> Settings:
        """The checked configuration; read once, when a command first needs it.

        Raises:
            ConfigError: with every problem of the file and the environment at once.
        """
        return self.effective.settings

    @cached_property
    def effective(self) -> Effective:
        """The same with the origin of every value; raises as `settings` does."""
        from edgegen.config.files import load_effective

        return load_effective(self.config_file)

    @property
    def salvaged(self) -> Settings:
        """What is right of the configuration as it is now; enough to find the daemon. Raises nothing."""
        from edgegen.config.files import salvaged_settings

        return salvaged_settings(self.config_file)


pass_app = click.make_pass_decorator(App, ensure=True)


class Root(click.Group):
    """A group that imports a command when it is asked for and turns exceptions into one line and a code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module, __package__), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(unknown_command(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs one command line; exits with its code, or returns the code if not standalone."""
        code = self._run(args, prog_name or "edgegen", complete_var, extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(
        self, args: Sequence[str] | None, prog_name: str, complete_var: str | None, extra: dict[str, Any]
    ) -> int:
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            return result if isinstance(result, int) else 0
        except (KeyboardInterrupt, click.Abort):
            return EXIT_INTERRUPT
        except click.ClickException as err:
            return tell_usage(err)
        except EdgegenError as err:
            return tell_expected(err)
        except OSError as err:
            return close_pipe() if err.errno == errno.EPIPE else tell_unexpected(err)
        except Exception as err:  # noqa: BLE001 - the last net: one line instead of a trace
            return tell_unexpected(err)


def unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else "one of: " + ", ".join(COMMANDS)
    return f"no command named {name}; {hint}"


def tell_usage(err: click.ClickException) -> int:
    """A mistake on the command line: what is wrong, and where the help is."""
    ctx = getattr(err, "ctx", None)
    if isinstance(err, click.exceptions.NoArgsIsHelpError):
        err.show()
        return err.exit_code
    complain(err.format_message())
    if ctx is not None:
        note(f"Try: {ctx.command_path} --help")
    return err.exit_code


def tell_expected(err: EdgegenError) -> int:
    """One line per problem and the error's own exit code; the trace only when asked for."""
    if os.environ.get("EDGEGEN_DEBUG"):
        traceback.print_exception(err)
    problems = err.problems if isinstance(err, BadRequest | ConfigError) else [err]
    for problem in problems:
        complain(problem)
    return err.exit_code


def tell_unexpected(err: Exception) -> int:
    """A fault of ours: one line, and how to see the rest."""
    if os.environ.get("EDGEGEN_DEBUG"):
        traceback.print_exception(err)
    else:
        said = " ".join(str(err).split())
        complain(
            f"unexpected {type(err).__name__}{': ' + said if said else ''} (EDGEGEN_DEBUG=1 shows the trace)"
        )
    return 1


def close_pipe() -> int:
    """The reader of our output went away (`edgegen queue | head`): stop quietly."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE


def fail(err: EdgegenError) -> NoReturn:
    raise err


def print_versions(verbosity: int) -> None:
    """`edgegen 0.1.0`; with -v also Python and the packages that matter, without importing them."""
    from edgegen import __version__

    say(f"edgegen {__version__}")
    if verbosity:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        say(f"python {platform.python_version()} ({platform.machine()})")
        for package in PACKAGES:
            try:
                say(f"{package} {version(package)}")
            except PackageNotFoundError:
                say(f"{package} not installed")


def set_up_logging(verbosity: int) -> None:
    """Warnings to stderr; -v adds what happens, -vv everything."""
    import logging

    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


@click.group(
    "edgegen",
    cls=Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Configuration file (TOML); conf.d/*.toml beside it override it. Default: $EDGEGEN_CONFIG, else "
    "the first that exists of ~/.config/edgegen/config.toml and /etc/edgegen/config.toml.",
)
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
@click.option(
    "--version", is_flag=True, help="Print the version; with -v also those of the packages it uses."
)
@click.pass_context
def root(ctx: click.Context, config_file: Path | None, verbose: int, version: bool) -> None:
    """Words to pictures on a Raspberry Pi or an Intel NUC, offline.

    \b
    Examples:
      edgegen setup                                   the first configuration, question by question
      edgegen generate "a red apple" -o apple.png     a picture, in this process
      edgegen run                                     the daemon: MQTT, buttons, queue
      edgegen queue add "a red apple"                 a job for the daemon
      edgegen status                                  what it is doing
      edgegen doctor                                  what is wrong with this machine
      edgegen config explain mqtt                     what can be set
      edgegen support-bundle                          a file for whoever helps, without secrets

    \b
    Exit codes: 0 fine, 1 failed, 2 wrong request or command line, 3 pack, 4 execution provider,
    5 engine, 6 storage, 7 broker, 78 configuration, 130 interrupted or cancelled.

    \b
    Completion for your shell: edgegen completion --help
    """
    ctx.obj = App(config_file, verbose)
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if version:
        print_versions(verbose)
        ctx.exit()
    set_up_logging(verbose)
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
