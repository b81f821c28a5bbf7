"""Brings scenes onto a screen: turned as it hangs, and only what has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from PIL import Image

from ...errors import EdgegenError, StorageError
from ...settings import DisplaySettings
from .drawing import Style, draw_part, draw_parts, legible
from .layout import Box, Part, layout
from .scenes import Dark, Scene

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
TURNS = {  # Pillow turns the other way round
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


Piece = tuple[Image.Image, int, int]  # RGB, and where its upper left corner goes: left, top


class Screen(Protocol):
    """Somewhere to draw. Its methods raise DisplayError.

    Attributes:
        size: width and height in pixels. rest_s: seconds that should lie between two small changes.
    """

    size: tuple[int, int]
    rest_s: float

    def show(self, pieces: Sequence[Piece]) -> None: ...
    def dark(self, is_dark: bool) -> None: ...
    def close(self) -> None: ...


def turned(image: Image.Image, rotate: int) -> Image.Image:
    """Clockwise by 0, 90, 180 or 270 degrees."""
    return image.transpose(TURNS[rotate]) if rotate else image


def turned_corner(box: Box, size: tuple[int, int], rotate: int) -> tuple[int, int]:
    """Where the upper left corner of a box comes to lie on the screen.

    Args:
        size: of the picture before it is turned.
    """
    left, top, right, bottom = box
    width, height = size
    return {0: (left, top), 90: (height - bottom, left), 180: (width - right, height - bottom),
            270: (top, width - right)}[rotate]  # fmt: skip


class Easel:
    """One screen and what stands on it.

    A screen that cannot be drawn on is told of once and tried again, first after a second, then less often.

    Args:
        open_screen: opens it; raises DisplayError.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        open_screen: Callable[[], Screen],
        settings: DisplaySettings,
        style: Style,
        now: Callable[[], float],
    ):
        self._open_screen = open_screen
        self._settings = settings
        self._style = style
        self._now = now
        self._screen: Screen | None = None
        self._parts: tuple[Part, ...] | None = None  # None: who knows what stands there
        self._is_dark = False
        self._told = ""
        self._retry_s = FIRST_RETRY_S
        self._due = float("-inf")

    def show(self, scene: Scene) -> None:
        """Draw what differs from what stands there, unless it is too early for that: see `due_s`.

        Raises:
            StorageError: the picture that the scene wants cannot be shown.
        """
        if self._now() < self._due:
            return
        try:
            self._draw(scene)
        except StorageError:
            raise
        except Exception as err:  # noqa: BLE001 - a driver's or a library's: the next scene may be drawn
            self._give_up(err)
        else:
            self._retry_s, self._told = FIRST_RETRY_S, ""

    def due_s(self, scene: Scene) -> float | None:
        """Seconds until `show` should be called again with that scene; None when it stands there."""
        is_there = self._screen is not None and self._is_same(scene)
        return None if is_there else max(0.0, self._due - self._now())

    def forget(self) -> None:
        """Somebody else drew there: the next `show` draws everything."""
        self._parts = None

    def close(self) -> None:
        """The picture stays. Safe to call twice."""
        screen, self._screen = self._screen, None
        if screen:
            screen.close()

    def _is_same(self, scene: Scene) -> bool:
        if isinstance(scene, Dark) or self._is_dark:
            return isinstance(scene, Dark) and self._is_dark and self._parts is not None
        return self._parts == self._layout(scene)

    def _layout(self, scene: Scene) -> tuple[Part, ...]:
        assert self._screen is not None
        size = self._unturned(self._screen)
        return layout(legible(scene, self._style), size, self._settings)

    def _unturned(self, screen: Screen) -> tuple[int, int]:
        width, height = screen.size
        return (height, width) if self._settings.rotate in (90, 270) else (width, height)

    def _draw(self, scene: Scene) -> None:
        if self._screen is None:
            self._screen, self._parts = self._open_screen(), None
            log.info("drawing on %s", self._screen)
        if self._is_same(scene):
            return
        if isinstance(scene, Dark):
            self._screen.dark(True)
            self._is_dark, self._parts = True, ()
            return
        self._draw_parts(self._screen, self._layout(scene))

    def _draw_parts(self, screen: Screen, parts: tuple[Part, ...]) -> None:
        before = {} if self._parts is None or self._is_dark else {p.box: p.content for p in self._parts}
        size, rotate = self._unturned(screen), self._settings.rotate
        if before.keys() == {part.box for part in parts}:
            changed = [part for part in parts if before[part.box] != part.content]
            screen.show(
                [
                    (turned(draw_part(part, self._style), rotate), *turned_corner(part.box, size, rotate))
                    for part in changed
                ]
            )
            self._due = self._now() + screen.rest_s
        else:
            image = draw_parts(parts, size, self._style)
            if self._is_dark:
                screen.dark(False)
            screen.show([(turned(image, rotate), 0, 0)])
        self._is_dark, self._parts = False, parts

    def _give_up(self, err: Exception) -> None:
        """Until later; the reason is told when it is a new one."""
        reason = str(err) if isinstance(err, EdgegenError) else f"{type(err).__name__}: {err}"
        if reason != self._told:
            log.error("nothing can be shown, tried again and again: %s", reason)
        self._told = reason
        self.close()
        self._due = self._now() + self._retry_s
        self._retry_s = min(LONGEST_RETRY_S, self._retry_s * 2)
