"""A configuration on trial: in force until its time is over, and for good only when confirmed.

The files themselves stay as they are. A trial is one more file, `config.toml.trial`, that holds what they
would say; whoever loads the configuration reads those texts instead while the trial is good. So rolling
back needs no write: a trial that is over, or from before a reboot, is simply not heeded any more, by a
daemon that may not write to /etc as little as after a power cut.

Time is the machine's time since its boot, with the boot's id: a Raspberry Pi's clock may jump.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigError, StorageError
from .store import config_lock, replace_config, sync_folder, write_atomically

SUFFIX = ".trial"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_TRIAL_BYTES = 16 << 20
TIMEOUT_S = (5, 86_400)  # least and most


@dataclass(frozen=True)
class BootTime:
    """Seconds since the boot of that id; time asleep counts."""

    boot_id: str
    seconds: float


def boot_time(boot_id: Path = BOOT_ID) -> BootTime:
    """Now. The id is empty where the kernel tells none, and then no trial is ever good."""
    try:
        name = boot_id.read_text().strip()
    except OSError:
        name = ""
    return BootTime(name, time.clock_gettime(time.CLOCK_BOOTTIME))


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
        boot_id, deadline_s: it is good until then in that boot.
        texts: what the files say while it is tried.
        before: SHA-256 of what they said when it began, None for a file that was not there.
        is_confirmed: it is being made permanent, so it stays good until that is done.
    """

    boot_id: str
    deadline_s: float
    texts: dict[Path, str]
    before: dict[Path, str | None]
    is_confirmed: bool = False

    def left_s(self, now: BootTime) -> float:
        """Seconds until it rolls back; 0 when it is not good any more."""
        if not now.boot_id or now.boot_id != self.boot_id:
            return 0.0
        return max(0.0, self.deadline_s - now.seconds)

    def is_good(self, now: BootTime) -> bool:
        return self.is_confirmed or self.left_s(now) > 0


def trial_file(main: Path) -> Path:
    """Beside the main configuration file."""
    return main.with_name(main.name + SUFFIX)


def stored_trial(main: Path) -> Trial | None:
    """What was begun and neither confirmed nor rolled back; it may be over. Damaged files count as none."""
    try:
        with trial_file(main).open("rb") as file:
            told = json.loads(file.read(MAX_TRIAL_BYTES))
        texts = {Path(name): str(text) for name, text in told["texts"].items()}
        before = {Path(name): digest for name, digest in told["before"].items()}
        deadline_s = float(told["deadline_s"])
        return Trial(str(told["boot_id"]), deadline_s, texts, before, told["is_confirmed"] is True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def current_trial(main: Path | None, now: BootTime | None = None) -> Trial | None:
    """The trial in force; None without any."""
    trial = stored_trial(main) if main else None
    return trial if trial and trial.is_good(now or boot_time()) else None


def begin(main: Path, texts: Mapping[Path, str], timeout_s: float, now: BootTime | None = None) -> Trial:
    """From here on the configuration is what `texts` say, for `timeout_s` seconds.

    Raises:
        ConfigError: a trial goes on already, or this machine tells no boot id.
        StorageError: it cannot be written.
    """
    now = now or boot_time()
    if not now.boot_id:
        raise ConfigError(f"{BOOT_ID} cannot be read, so nothing could be rolled back after a reboot")
    with config_lock(main.parent):
        sweep(main, now)
        if going_on := current_trial(main, now):
            left = going_on.left_s(now)
            raise ConfigError(f"a trial goes on for {left:.0f} s more: confirm it or roll it back first")
        before = {file: digest(file) for file in texts}
        trial = Trial(now.boot_id, now.seconds + timeout_s, dict(texts), before)
        _write(main, trial)
    return trial


def confirm(main: Path, now: BootTime | None = None) -> list[Path]:
    """Make the trial permanent; returns the files written.

    Raises:
        ConfigError: no trial is in force, or a file was changed meanwhile. StorageError: not written; the
            trial goes on.
    """
    now = now or boot_time()
    with config_lock(main.parent):
        trial = current_trial(main, now)
        if trial is None:
            sweep(main, now)
            raise ConfigError("nothing to confirm: no trial is in force (one that was is rolled back)")
        for file, old in trial.before.items():
            if not trial.is_confirmed and digest(file) != old:
                raise ConfigError(f"{file}: changed since the trial began: roll back, then try again")
        _write(main, replace(trial, is_confirmed=True))  # a power cut from here on loses nothing
        return _make_permanent(main, trial)


def rollback(main: Path) -> bool:
    """End the trial; False when there is none. Raises StorageError: it cannot be removed."""
    with config_lock(main.parent):
        is_there = trial_file(main).exists()
        _remove(main)
        return is_there


def sweep(main: Path, now: BootTime | None = None) -> str:
    """Clear away what is over, and finish a confirmation that was cut short; says what was done, or "".

    Raises:
        StorageError: the folder is not ours to write. The trial is over all the same.
    """
    trial = stored_trial(main)
    now = now or boot_time()
    if trial is None and not trial_file(main).exists():
        return ""
    if trial and trial.is_confirmed:
        _make_permanent(main, trial)
        return "the configuration that was confirmed is permanent now"
    if trial and trial.is_good(now):
        return ""
    _remove(main)
    why = "its time was over" if trial and trial.boot_id == now.boot_id else "the machine was restarted"
    return f"the configuration on trial was rolled back: {why if trial else 'its file was damaged'}"


def _make_permanent(main: Path, trial: Trial) -> list[Path]:
    """A file that a person changed after a confirmation was cut short stays theirs."""
    written = [file for file in trial.texts if digest(file) == trial.before.get(file)]
    for file in written:
        replace_config(file, trial.texts[file])
    _remove(main)
    return written


def _write(main: Path, trial: Trial) -> None:
    told = {
        "boot_id": trial.boot_id,
        "deadline_s": trial.deadline_s,
        "texts": {str(file): text for file, text in trial.texts.items()},
        "before": {str(file): old for file, old in trial.before.items()},
        "is_confirmed": trial.is_confirmed,
    }
    write_atomically(trial_file(main), json.dumps(told).encode(), like=main if main.exists() else None)


def _remove(main: Path) -> None:
    try:
        trial_file(main).unlink(missing_ok=True)
        sync_folder(main.parent)
    except OSError as err:
        raise StorageError(f"{trial_file(main)}: cannot be removed: {err.strerror}") from err


def digest(file: Path) -> str | None:
    """SHA-256 of a file; None when there is none."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StorageError(f"{file}: cannot be read: {err.strerror}") from err
