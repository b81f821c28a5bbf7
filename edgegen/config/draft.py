"""A configuration in the making: answers that are checked one by one, while the files stay as they are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .edit import main_file, plan_edit
from .files import check_config, load_effective
from .tomllines import Loc
from .tomltext import Change


class Draft:
    """What was answered so far, on top of what is configured.

    Attributes:
        main: the file that new keys go to. settings: what would be in force.
    Raises:
        ConfigError: what is configured now is broken: that has to be mended first.
    """

    def __init__(self, path: Path | None, environ: Mapping[str, str]):
        self.main = main_file(path, environ)
        self._path = path
        self._environ = environ
        self._changes: dict[Loc, Change] = {}
        new = (
            None if os.path.lexists(self.main) else {self.main: ""}
        )  # named, but not there yet: it will be made
        self.settings = load_effective(self.main, environ, new).settings
        self._before = self.settings.model_dump(mode="json")
        self.notes: tuple[str, ...] = ()
        self.texts: dict[Path, str] = {}

    @property
    def changes(self) -> list[Change]:
        """Keys to set, then keys and tables to remove, a list's last table first."""
        made = self._changes.values()
        removed = sorted((c for c in made if c.value is None), key=lambda c: str(c.loc), reverse=True)
        return [c for c in made if c.value is not None] + removed

    def take(self, changes: Iterable[Change]) -> None:
        """Answers that belong together; an answer that is what is configured already is no change.

        Raises:
            ConfigError: with them the configuration would not be right; the draft is as before.
        """
        kept, self._changes = self._changes, dict(self._changes)
        for change in changes:
            if change.value == self._configured(change.loc):
                self._changes.pop(change.loc, None)
            else:
                self._changes[change.loc] = change
        try:
            self._work_out()
        except ConfigError:
            self._changes = kept
            raise

    def take_buttons(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """All buttons, as tables of their keys; None and missing keys are their defaults. As `take`."""
        kept, before = self._changes, self._before["buttons"]
        self._changes = {loc: change for loc, change in kept.items() if loc[0] != "buttons"}
        changes = [
            Change(("buttons", i, key), button.get(key))
            for i, button in enumerate(wanted)
            for key in {**(before[i] if i < len(before) else {}), **button}
        ]
        changes += [Change(("buttons", i), None) for i in range(len(wanted), len(before))]
        try:
            self.take(changes)
        except ConfigError:
            self._changes = kept
            raise

    def diff(self) -> str:
        """What would change, file by file, as `diff -u` shows it; empty when nothing would."""
        parts: list[str] = []
        for file, text in self.texts.items():
            old = file.read_text(encoding="utf-8-sig") if file.exists() else ""
            names = (str(file) if old else "(no file yet)", str(file))
            lines = difflib.unified_diff(old.splitlines(), text.splitlines(), *names, "", "", 1, "")
            parts += lines
        return "\n".join(parts)

    def _work_out(self) -> None:
        edit = plan_edit(self._path, self._environ, self.changes)
        if problems := check_config(self.main, self._environ, edit.texts):
            raise ConfigError(problems)
        self.settings = load_effective(self.main, self._environ, edit.texts).settings
        self.texts, self.notes = edit.texts, edit.notes

    def _configured(self, loc: Loc) -> Any:
        value: Any = self._before
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value
