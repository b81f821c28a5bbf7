"""Answers of `edgegen setup` that are one key of the configuration each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .ask import NOTHING, ask

if TYPE_CHECKING:
    from edgegen.config.draft import Draft


def ask_key(draft: Draft, key: str, question: str, can_be_empty: bool = False) -> None:
    """One key of the configuration, as it is explained there; `-` leaves it empty."""
    from edgegen.config.edit import parse_change

    from .configprint import value_at
    from .reference import entries, toml_value

    value = value_at(draft.settings, key)[1]
    entry = next(entry for entry in entries() if entry.key == key)
    meaning = f"{entry.meaning} ({entry.kind}{': ' + entry.allowed if entry.allowed else ''})"
    shown = value if isinstance(value, str) else "" if value is None else toml_value(value)

    def check(line: str) -> None:
        empty = line in ("", NOTHING) if can_be_empty else False
        draft.take([parse_change(key, None if empty else line)])

    hint = f" ({NOTHING} for none)" if can_be_empty else ""
    ask(f"{question}{hint}", check, shown or (NOTHING if can_be_empty else ""), meaning)


def set_key(draft: Draft, key: str, value: Any) -> None:
    from edgegen.config.tomltext import Change

    draft.take([Change(tuple(key.split(".")), value)])
