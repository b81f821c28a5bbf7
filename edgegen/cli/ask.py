"""Questions in a plain terminal: one line each, no cursor movement, so that any terminal will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from edgegen.errors import EdgegenError

from .output import complain, say, terminal_width

T = TypeVar("T")
NOTHING = "-"  # typed to leave something empty, for Enter keeps what is there
MOST_COLUMNS = 79


def paragraph(text: str, indent: str = "") -> None:
    """Text wrapped to the terminal."""
    width = min(MOST_COLUMNS, max(20, terminal_width() - 1))
    say(click.formatting.wrap_text(text, width, indent, indent))


def ask(
    question: str, check: Callable[[str], T], default: str = "", meaning: str = "", hide: bool = False
) -> T:
    """An answer that `check` accepts; what it raises is told, and the question comes again.

    Args:
        check: gets the line, or the default for an empty one. meaning: told for `?`.
    """
    shown = f" [{default}]" if default and not hide else ""
    while True:
        line = click.prompt(f"{question}{shown}", "", show_default=False, hide_input=hide)
        line = line if hide else line.strip()
        if line == "?" and meaning:
            paragraph(meaning, "  ")
            continue
        try:
            return check(line or ("" if hide else default))
        except EdgegenError as err:
            complain(err, "no")


def ask_yes(question: str, default: bool, meaning: str = "") -> bool:
    def check(line: str) -> bool:
        if (word := line.lower()) in ("y", "yes", "n", "no"):
            return word.startswith("y")
        raise EdgegenError(f"{line}: answer y or n")

    return ask(f"{question} (y/n)", check, "y" if default else "n", meaning)


def ask_choice(question: str, choices: dict[str, str], default: str) -> str:
    """One of the keys of `choices`, each shown with what it means."""
    for key, meaning in choices.items():
        say(f"  {key}  {meaning}")

    def check(line: str) -> str:
        if line.lower() in choices:
            return line.lower()
        raise EdgegenError(f"{line}: choose one of {', '.join(choices)}")

    return ask(question, check, default)


def ask_lines(question: str) -> list[str]:
    """Lines until an empty one; at least one."""
    lines: list[str] = []
    while True:
        line = ask(f"{question} {len(lines) + 1}{' (Enter: no more)' if lines else ''}", str)
        if line in ("", NOTHING):
            if lines:
                return lines
            complain("at least one is needed", "no")
        else:
            lines.append(line)
