"""The display's step of `edgegen setup`: which screen, and which way up it hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import EdgegenError

from .ask import NOTHING, ask, ask_yes, paragraph
from .machine import Roots
from .output import note, say
from .screens import FoundScreen, found_screens, open_framebuffer
from .setupkeys import ask_key, set_key

if TYPE_CHECKING:
    from edgegen.config.draft import Draft
    from edgegen.frontends.display.framebuffer import Framebuffer

OFF, FILE = NOTHING, "file"
MEANING = (
    "The number of a screen above, or a framebuffer such as /dev/fb1; file for a PNG that another program "
    f"shows; {OFF} for none."
)


def ask_display(
    draft: Draft, roots: Roots, open_screen: Callable[[Path], Framebuffer] = open_framebuffer
) -> None:
    """Which one, then a test card on it until it is upright."""
    paragraph(
        "A screen on this device shows the newest picture, and how the next one comes along. It needs no "
        "desktop; on a machine with one, choose none."
    )
    found = found_screens(roots)
    for number, screen in enumerate(found, 1):
        say(f"  {number}  {screen.device}: {screen.told}")
    if not found:
        say("  no screen was found: one is seen only if it was connected when this machine started")
    ask("Screen", lambda line: take_screen(draft, found, line), current(draft), MEANING)
    display = draft.settings.display
    if display.output == "framebuffer":
        turn_upright(draft, open_screen)
    elif display.output == "file":
        ask_key(draft, "display.file", "PNG file", can_be_empty=True)


def current(draft: Draft) -> str:
    """What is configured, as one would answer."""
    display = draft.settings.display
    return {"off": OFF, "file": FILE}.get(display.output, str(display.device))


def take_screen(draft: Draft, found: list[FoundScreen], line: str) -> None:
    """One answer. Raises EdgegenError for one that names no screen."""
    if line in (OFF, FILE, "off"):
        set_key(draft, "display.output", "file" if line == FILE else "off")
        return
    if line.isdecimal():
        if not 0 < int(line) <= len(found):
            raise EdgegenError(f"{line}: {f'a number from 1 to {len(found)}' if found else 'no such number'}")
        line = str(found[int(line) - 1].device)
    if not line.startswith("/"):
        raise EdgegenError(f"{line}: a number, a path such as /dev/fb0, file, or {OFF} for none")
    set_key(draft, "display.device", line)
    set_key(draft, "display.output", "framebuffer")


def turn_upright(draft: Draft, open_screen: Callable[[Path], Framebuffer]) -> None:
    """Shows a test card; where that cannot be done, the rotation is only asked for."""
    try:
        screen = open_screen(draft.settings.display.device)
    except EdgegenError as err:
        note(f"no test card: {err}")
        ask_key(draft, "display.rotate", "Turned clockwise by (0, 90, 180, 270)")
        return
    with contextlib.closing(screen):
        saved = screen.saved()
        try:
            show_until_upright(draft, screen)
        finally:
            screen.restore(saved)


def show_until_upright(draft: Draft, screen: Framebuffer) -> None:
    """A quarter further with each no; after a whole turn it is as it was."""
    from edgegen.frontends.display.testcard import show_test_card

    first = draft.settings.display.rotate
    meaning = "A no turns the card by a quarter. A border that is cut off: switch overscan off at the screen."
    for turn in range(0, 360, 90):
        set_key(draft, "display.rotate", (first + turn) % 360)
        show_test_card(screen, draft.settings.display.rotate)
        if ask_yes("A test card is on the screen. Does its arrow point up?", True, meaning):
            return
    set_key(draft, "display.rotate", first)
    note(f"that was a whole turn: it stays at {first}°; is this the right screen?")
