"""Where a setting stands, and what is wrong with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Problem


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: a file and its line (0: no line), a variable, or the defaults (no place)."""

    place: str = ""
    line: int = 0

    @property
    def is_default(self) -> bool:
        return not self.place

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place or "default"


@dataclass(frozen=True)
class ConfigProblem(Problem):
    """A problem with the place it stands at. `allowed` is empty where no range or choice is known."""

    origin: Origin = Origin()
    allowed: str = ""

    def __str__(self) -> str:
        """`mqtt.port: 0 is not allowed: 1 to 65535 (/etc/edgegen/config.toml:3)`."""
        if not self.field:
            return f"{self.origin}: {self.message}"
        return f"{self.field}: {self.message} ({self.origin})"
