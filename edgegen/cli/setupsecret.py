"""The broker's password on its way from the keyboard into a file that only the daemon may read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import StorageError

if TYPE_CHECKING:
    from edgegen.settings import MqttSettings

NAME = "mqtt-password"


class Secret:
    """A password that is written only with the configuration that names its file.

    A new file each time: on the way back the old configuration finds its old password.
    A context manager that leaves nothing of an unused one.
    """

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self._password: str | None = None
        self._path: Path | None = None
        self._is_needed = False

    def __enter__(self) -> Secret:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path and not self._is_needed:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def keep(self, password: str) -> Path:
        """Where it will be; nothing is written there yet."""
        self._password = password
        self._path = self._path or free_place(self._folder)
        return self._path

    def typed_for(self, mqtt: MqttSettings) -> str | None:
        """The password for a login that is only tried; None: the one that `mqtt` names is there already."""
        return self._password if mqtt.password_file == self._path else None

    def write(self, mqtt: MqttSettings) -> None:
        """Before a configuration that names it comes into force.

        Raises:
            StorageError: it cannot be written.
        """
        if self._password is None or self._path is None or mqtt.password_file != self._path:
            return
        from edgegen.config.store import write_atomically

        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, f"{self._password}\n".encode(), mode=0o600)
        if self._gives_group():
            try:  # in /etc/edgegen: root writes, edgegen reads
                os.chown(self._path, -1, self._folder.stat().st_gid)
                self._path.chmod(0o640)
            except OSError as err:
                raise StorageError(f"{self._path}: its group cannot be given: {err.strerror}") from err

    def settle(self) -> None:
        """The configuration that names it stays."""
        self._is_needed = True

    def _gives_group(self) -> bool:
        return os.geteuid() == 0 and self._folder.exists() and self._folder.stat().st_gid != 0


def free_place(folder: Path) -> Path:
    names = (NAME if n == 1 else f"{NAME}-{n}" for n in range(1, 1_000_000))
    return next(folder / name for name in names if not (folder / name).exists())
