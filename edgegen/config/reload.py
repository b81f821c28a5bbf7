"""The configuration of a process that goes on running while it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Problem, StorageError
from ..settings import Settings
from .credentials import LOGIN_FILES, login_stamps
from .files import chosen_file, load_settings
from .trials import BootTime, boot_time, current_trial, sweep

log = logging.getLogger(__name__)

FRONT_ENDS = {  # by name: the sections it is made of
    "mqtt": ("mqtt", "limits", "workflow", "buttons", "styles"),
    "buttons": ("buttons", "limits", "workflow"),
}
ENGINE_SECTIONS = ("engine", "limits", "gallery", "mqtt", "guards", "workflow")  # what a new engine is told
ENGINE_KEYS = ("display.output", "display.previews")  # and of other sections
BROKER_ONLY = (  # keys of a section of the engine's that it has no use for: graphs stay loaded
    *("mqtt.host", "mqtt.port", "mqtt.username", "mqtt.tls"),
    *LOGIN_FILES,
)
AT_RESTART = ("node", "queue", "gallery.dir")


class ConfigSource:
    """Where a process reads its configuration, again and again.

    Args:
        path: the main file; None takes the default places.
    """

    def __init__(self, path: Path | None = None):
        self.path = path

    def load(self) -> Settings:
        """Raises ConfigError with every problem."""
        return load_settings(self.path)

    def sweep(self) -> None:
        """Roll back a trial that is over before anything is read."""
        main = chosen_file(self.path, os.environ)
        try:
            done = sweep(main) if main else ""
        except StorageError as err:
            log.warning("a trial that is over stays on the disk, unheeded: %s", err)
        else:
            if done:
                log.warning("%s", done)

    def trial_left_s(self, now: BootTime | None = None) -> float | None:
        """Seconds until the trial in force rolls back; None without one."""
        main = chosen_file(self.path, os.environ)
        trial = current_trial(main, now)
        return trial.left_s(now or boot_time()) if trial and not trial.is_confirmed else None


class LiveConfig:
    """The settings a running daemon works with, and what became of the last change.

    Attributes:
        settings: in force now. problems: why the last reload was refused, empty when it was not.
        waiting: keys that were changed but take effect at the next start only.
    """

    def __init__(self, settings: Settings, source: ConfigSource | None = None):
        self.settings = settings
        self.problems: Sequence[Problem] = ()
        self.waiting: list[str] = []
        self._source = source
        self._on_trial = source.trial_left_s() is not None if source else False
        self._stamps = login_stamps(settings.mqtt)

    def trial_left_s(self) -> float | None:
        """For the main loop: when to look again; 0 when a trial has just ended."""
        if self._source is None or not self._on_trial:
            return None
        left = self._source.trial_left_s()
        return 0.0 if left is None else left

    def reload(self) -> list[str]:
        """Read everything again; returns the keys that have changed live. A broken one changes nothing."""
        if self._source is None:
            return []
        self._source.sweep()
        self._on_trial = self._source.trial_left_s() is not None
        try:
            new = self._source.load()
            check_login_files(new)
        except ConfigError as err:
            self.problems = err.problems
            for problem in err.problems:
                log.error("the configuration stays as it was: %s", problem)
            return []
        self.problems = ()
        changed = changed_keys(self.settings, new)
        changed += [key for key in self._renewed_files(new) if key not in changed]
        self.waiting = [key for key in changed if waits_for_restart(key)]
        live = [key for key in changed if not waits_for_restart(key)]
        self.settings = with_live_changes(self.settings, new)
        if live:
            log.info("configuration changed: %s", ", ".join(live))
        if self.waiting:
            log.warning("changed, but the daemon must start again for: %s", ", ".join(self.waiting))
        return live

    def _renewed_files(self, new: Settings) -> list[str]:
        """Keys whose file has another content by now, whatever its name."""
        before, self._stamps = self._stamps, login_stamps(new.mqtt)
        return [key for key, stamp in self._stamps.items() if stamp != before.get(key)]

    def describe(self) -> dict[str, Any]:
        """For `edgegen status`."""
        left = self._source.trial_left_s() if self._source else None
        return {
            "problems": [str(problem) for problem in self.problems],
            "waiting_for_restart": self.waiting,
            "trial_left_s": None if left is None else round(left),
        }


def check_login_files(settings: Settings) -> None:
    """When only half of a renewal is there, the connection that works is not given up for it.

    Raises:
        ConfigError: the certificate or the key for the broker cannot be used.
    """
    if settings.mqtt.enabled and settings.mqtt.tls:
        from .tlsfiles import tls_problems  # loads ssl, which a front without a broker can do without

        if problems := tls_problems(settings.mqtt):
            raise ConfigError(problems)


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """`mqtt.port`; lists of tables as a whole: `buttons`."""
    changed = []
    for section in Settings.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if before == after:
            continue
        if isinstance(before, tuple):
            changed.append(section)
            continue
        names = type(before).model_fields
        changed += [f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name)]
    return changed


def waits_for_restart(key: str) -> bool:
    """Folders, names and the queue's bounds are what the parts were built on."""
    return key in AT_RESTART or key.partition(".")[0] in AT_RESTART


def with_live_changes(old: Settings, new: Settings) -> Settings:
    """`new`, but for what only a restart can change."""
    gallery = new.gallery.model_copy(update={"dir": old.gallery.dir})
    return new.model_copy(update={"node": old.node, "queue": old.queue, "gallery": gallery})


def touches(sections: Sequence[str], changed: Sequence[str]) -> bool:
    """Whether one of the changed keys is in one of the sections."""
    return any(key.partition(".")[0] in sections for key in changed)


def concerns_engine(changed: Sequence[str]) -> bool:
    """Whether an engine that was told of the old settings would work otherwise than a new one."""
    told = [key for key in changed if key not in BROKER_ONLY]
    return touches(ENGINE_SECTIONS, told) or any(key in ENGINE_KEYS for key in told)
