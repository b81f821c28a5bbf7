"""Screens of this machine: which there are, and whether the configured one can be drawn on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import EdgegenError

from .checks import Check
from .machine import Roots, read_text

if TYPE_CHECKING:
    from edgegen.frontends.display.framebuffer import Framebuffer
    from edgegen.settings import NodeSettings, Settings

START_IT = "where the units are installed: sudo systemctl enable --now edgegen-display; else: edgegen display"
SEE_SCREENS = "edgegen setup lists the screens of this machine"


@dataclass(frozen=True)
class FoundScreen:
    """A framebuffer as /sys tells of it; `told` is its driver, size and depth."""

    device: Path
    told: str


def found_screens(roots: Roots) -> list[FoundScreen]:
    """The framebuffers of this machine, /dev/fb0 first; none where no screen was connected at its start."""
    places = (roots.sys / "class/graphics").glob("fb[0-9]*")
    numbers = sorted(int(place.name[2:]) for place in places if place.name[2:].isdecimal())
    return [FoundScreen(roots.dev / f"fb{n}", _told(roots.sys / f"class/graphics/fb{n}")) for n in numbers]


def _told(folder: Path) -> str:
    facts = (
        read_text(folder / "name"),
        (read_text(folder / "virtual_size") or "").replace(",", "x"),
        f"{bits} bits a pixel" if (bits := read_text(folder / "bits_per_pixel")) else "",
    )
    return ", ".join(fact for fact in facts if fact)


def open_framebuffer(device: Path) -> Framebuffer:
    """Raises DisplayError; imported late, for it needs Pillow."""
    from edgegen.frontends.display.framebuffer import Framebuffer

    return Framebuffer(device)


def check_display(
    settings: Settings, roots: Roots, open_screen: Callable[[Path], Framebuffer] = open_framebuffer
) -> Iterator[Check]:
    """Whether there is what `display.output` names, and whether somebody draws there."""
    display = settings.display
    if display.output == "off":
        found = ", ".join(str(screen.device) for screen in found_screens(roots))
        yield Check("display", "ok", f"off{f'; there is {found}' if found else ''}")
        return
    runs = display_runs(settings.node)
    if display.output == "file":
        yield check_file(settings)
    elif not (runs and display.device.exists()):  # the one that runs may open it, we perhaps not
        yield check_screen(display.device, open_screen)
    else:
        yield Check("display", "ok", f"{display.device}: in the hands of `edgegen display`")
    if not runs:
        yield Check("display", "warn", "no `edgegen display` listens to a daemon here", START_IT)


def check_screen(device: Path, open_screen: Callable[[Path], Framebuffer]) -> Check:
    try:
        screen = open_screen(device)
    except EdgegenError as err:
        return Check("display", "bad", str(err), SEE_SCREENS)
    screen.close()
    return Check("display", "ok", str(screen))


def check_file(settings: Settings) -> Check:
    """Whether the PNG's folder is there and writable, for us."""
    from edgegen.frontends.display.process import png_path

    path = png_path(settings)
    if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK):
        return Check("display", "ok", f"draws into {path}")
    advice = "choose another display.file; under systemd: /run/edgegen-display/screen.png"
    return Check("display", "warn", f"{path.parent} is no folder that this user may write to", advice)


def display_runs(node: NodeSettings) -> bool:
    """Whether the daemon says that an `edgegen display` listens to it."""
    from edgegen.jobs.link import FrontError

    from .access import connect

    try:
        with connect(node) as link:
            return bool(link.ask("status").get("display"))
    except FrontError:
        return False
