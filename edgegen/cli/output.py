"""What the commands print: results to stdout, everything else to stderr, colour only for people."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

COLOURS = {"ok": "green", "done": "green", "warn": "yellow", "running": "cyan", "bad": "red", "failed": "red"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def wants_colour() -> bool | None:
    """False when NO_COLOR is set (https://no-color.org) or the terminal is dumb; None leaves it to whether
    stdout is a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def printable(text: object) -> str:
    """`text` with control and direction-changing characters made visible, so that a prompt or a pack's
    name from outside cannot move the cursor or hide what follows."""
    return _CONTROL.sub(
        lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", str(text)
    )


def say(text: str = "") -> None:
    """One result line on stdout."""
    click.echo(text, color=wants_colour())


def note(text: str) -> None:
    """One line for the person, not for the pipe: on stderr."""
    click.echo(text, err=True, color=wants_colour())


def say_json(value: Any) -> None:
    """One JSON document on stdout; paths and enums become text."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def coloured(word: str, state: str | None = None) -> str:
    """`word` in the colour of its state (itself by default); click strips it where colour is unwanted."""
    return click.style(word, fg=COLOURS.get(state or word.strip()))


def complain(message: object, command: str = "edgegen") -> None:
    """One stderr line per problem, each starting with the program's name."""
    lines = [line for line in str(message).splitlines() if line.strip()] or ["failed"]
    for line in lines:
        note(f"{click.style(command, bold=True)}: {printable(line)}")


def is_terminal(stream: Any = None) -> bool:
    return bool((stream or sys.stderr).isatty()) and os.environ.get("TERM") != "dumb"


def shorten(text: object, width: int) -> str:
    """At most `width` columns of printable text on one line, with … where some was cut."""
    line = printable(" ".join(str(text).split()))
    if columns(line) <= width:
        return line
    while line and columns(line) > width - 1:
        line = line[:-1]
    return line + "…"


def columns(text: str) -> int:
    """Columns a terminal gives `text`: wide East Asian letters take two, combining marks none."""
    plain = click.unstyle(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in plain
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> Iterator[str]:
    """Lines of an aligned table; columns named in `right` are set flush right. The last is never padded."""
    body = [list(row) for row in rows]
    widths = [max(map(columns, column)) for column in zip(header, *body, strict=True)]
    numeric = [name in set(right) for name in header]
    for i, row in enumerate([list(header), *body]):
        cells = [_pad(cell, w, n) for cell, w, n in zip(row, widths, numeric, strict=True)]
        line = "  ".join(cells).rstrip()
        yield click.style(line, bold=True) if i == 0 else line


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - columns(cell))
    return space + cell if right else cell + space


def terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def megabytes(size: float) -> str:
    """Bytes as megabytes (10**6), with one decimal under ten."""
    mb = size / 1e6
    return f"{mb:.1f}" if mb < 10 else f"{mb:.0f}"
