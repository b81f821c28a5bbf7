"""How warm the CPU is, as the kernel tells; nothing is written, and a machine that does not tell is fine."""

from __future__ import annotations

from pathlib import Path

SYS = Path("/sys")
_CPU_WORDS = ("cpu", "pkg", "soc")


def cpu_temperature(sys: Path = SYS) -> float | None:
    """The hottest CPU zone in °C; every zone counts where none is named after the CPU. None: unknown."""
    zones = sorted((sys / "class/thermal").glob("thermal_zone*"))
    named = [(_text(zone / "type"), _milli(_text(zone / "temp"))) for zone in zones]
    known = [(kind, temp) for kind, temp in named if temp is not None]
    of_cpu = [temp for kind, temp in known if any(word in kind for word in _CPU_WORDS)]
    return max(of_cpu or [temp for _, temp in known], default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _milli(text: str) -> float | None:
    try:
        value = int(text) / 1000
    except ValueError:
        return None
    return value if -50 < value < 200 else None
