"""Where every key and value of a TOML file stands, which `tomllib` does not tell. Pure.

It walks text that `tomllib` has accepted, so it checks nothing: it only has to know where strings,
comments, lists and tables begin and end (https://toml.io/en/v1.0.0).
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field

Loc = tuple[int | str, ...]
Span = tuple[int, int]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = (  # the long forms first: they begin like the short ones
    re.compile(r'"""(?:\\.|"{1,2}(?!")|[^"\\])*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:'{1,2}(?!')|[^'])*'{3,5}"),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
)


def key_lines(text: str) -> dict[Loc, int]:
    """Line (from 1) of every key, table and list element of valid TOML, by its place: `("mqtt", "port")`."""
    return toml_places(text).lines


@dataclass
class TomlPlaces:
    """By place; spans are (first, behind the last) character.

    Attributes:
        lines: line of every key, table and list element.
        values: span of every value.
        statements: span of whole lines of every `key = value` outside of inline tables, and of every
            [table] from its header to its last key.
        headers: the places that have a [header] or a [[header]].
    """

    lines: dict[Loc, int] = field(default_factory=dict)
    values: dict[Loc, Span] = field(default_factory=dict)
    statements: dict[Loc, Span] = field(default_factory=dict)
    headers: set[Loc] = field(default_factory=set)


def toml_places(text: str) -> TomlPlaces:
    """Places in valid TOML; in other text those before the first oddity."""
    walk = _Walk(text)
    with suppress(RecursionError, IndexError, ValueError):
        walk.document()
    return walk.places


class _Walk:
    def __init__(self, text: str):
        self.places = TomlPlaces()
        self._text = text
        self._at = 0
        self._breaks = [i for i, letter in enumerate(text) if letter == "\n"]
        self._elements: dict[Loc, int] = {}  # elements so far of every [[list of tables]]

    def document(self) -> None:
        table: Loc = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._statement(table)
            self._skip(_BLANK)

    def _header(self) -> Loc:
        line, start = self._line(), self._at
        is_listed = self._text.startswith("[[", self._at)
        self._at += 1 + is_listed
        names = self._key()
        self._at += 1 + is_listed
        place: Loc = ()
        for name in names[:-1]:
            place = self._inside((*place, name), line)
        place = (*place, names[-1])
        if is_listed:
            self._note(place, line)
            self._elements[place] = self._elements.get(place, -1) + 1
            place = (*place, self._elements[place])
        self._note(place, line)
        self.places.headers.add(place)
        self.places.statements[place] = self._whole_lines(start)
        return place

    def _inside(self, place: Loc, line: int) -> Loc:
        """`[a.b]` below `[[a]]` means the last element of a."""
        self._note(place, line)
        return (*place, self._elements[place]) if place in self._elements else place

    def _statement(self, table: Loc) -> None:
        start = self._at
        place = self._assignment(table)
        first, end = self._whole_lines(start)
        self.places.statements[place] = (first, end)
        if table:
            self.places.statements[table] = (self.places.statements[table][0], end)

    def _assignment(self, table: Loc) -> Loc:
        line = self._line()
        place = table
        for name in self._key():
            place = (*place, name)
            self._note(place, line)
        self._at += 1  # the =
        self._value(place)
        return place

    def _value(self, place: Loc) -> None:
        self._skip(_SPACE)
        start = self._at
        if self._text[self._at] == "[":
            self._list(place)
        elif self._text[self._at] == "{":
            self._table(place)
        elif not self._string():
            self._skip(_SCALAR)
        self.places.values[place] = (start, start + len(self._text[start : self._at].rstrip()))

    def _list(self, place: Loc) -> None:
        index = 0
        while self._next_item("]"):
            self._note((*place, index), self._line())
            self._value((*place, index))
            index += 1

    def _table(self, place: Loc) -> None:
        while self._next_item("}"):
            self._assignment(place)

    def _next_item(self, end: str) -> bool:
        """Past the opening bracket or the comma, or past the closing one."""
        self._skip(_BLANK)
        if self._text[self._at] in "[{,":
            self._at += 1
            self._skip(_BLANK)
        elif self._text[self._at] != end:
            raise IndexError("this is no TOML")  # or we would stand here for ever
        if self._text[self._at] == end:
            self._at += 1
            return False
        return True

    def _key(self) -> list[str]:
        """The parts of a dotted key; stops at the `=` or `]` behind it."""
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            if self._string():
                parts.append(str(tomllib.loads(f"key = {self._text[start : self._at]}")["key"]))
            else:
                self._skip(_BARE_KEY)
                parts.append(self._text[start : self._at])
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _string(self) -> bool:
        for pattern in _STRINGS:
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                return True
        return False

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()

    def _whole_lines(self, start: int) -> Span:
        """From the start of the line of `start` to the end of the line we are in."""
        end = self._text.find("\n", self._at)
        return self._text.rfind("\n", 0, start) + 1, len(self._text) if end < 0 else end + 1

    def _note(self, place: Loc, line: int) -> None:
        self.places.lines.setdefault(place, line)

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1
