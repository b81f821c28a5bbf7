"""`edgegen display`: the process that shows the newest picture. The only file that constructs it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...config.files import gallery_dir, run_dir, salvaged_settings, socket_path
from ...config.reload import ConfigSource
from ...errors import ConfigError, StorageError
from ...jobs.sdnotify import SystemdNotifier
from ...jobs.wakeup import ReloadRequest, StopRequest, Wakeup
from ...jobs.wire import Message
from ...settings import DisplaySettings, Settings
from .console import Console
from .drawing import Style
from .easel import Easel, Screen
from .feed import Feed
from .framebuffer import Framebuffer
from .lettering import readable_typeface
from .pixelformat import DisplayError
from .plot import Plot
from .pngfile import PngFile

log = logging.getLogger(__name__)

HELLO_S = 0.5  # a front that is there has answered by then: no waiting screen flashes up before its picture


def run_display(path: Path | None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        path: the configuration's main file; None takes the default places. It is read again on SIGHUP and
            when the front has done so.
    Raises:
        ConfigError: the control socket's path is too long.
    """
    wakeup = Wakeup()
    stop, reload = StopRequest(wakeup), ReloadRequest(wakeup)
    stop.install()
    reload.install()
    console = Console(sys.stdin.fileno() if sys.stdin else -1, wakeup.wake)
    process = DisplayProcess(ConfigSource(path), console, SystemdNotifier(), wakeup, stop, reload)
    try:
        process.run()
    finally:
        console.close()
    return 0


class DisplayProcess:
    """One thread that draws; it sleeps but for what there is to draw."""

    def __init__(
        self,
        source: ConfigSource,
        console: Console,
        notifier: SystemdNotifier,
        wakeup: Wakeup,
        stop: StopRequest,
        reload: ReloadRequest,
    ):
        self._source = source
        self._console = console
        self._notifier = notifier
        self._wakeup = wakeup
        self._stop = stop
        self._reload = reload
        self._told = ""

    def run(self) -> None:
        """Begins anew with other settings until it is asked to stop."""
        self._notifier.ready("starting")
        while not self._stop.is_asked:
            settings = self._read_settings()
            is_on = settings.display.output != "off"
            feed = Feed(socket_path(settings.node), self._wakeup.wake, is_on and settings.display.previews)
            feed.start()
            self._notifier.status(f"draws on: {settings.display.output}")
            try:
                self._show(settings, feed) if is_on else self._rest(settings, feed)
            finally:
                feed.close()
        self._notifier.stopping()

    def _rest(self, settings: Settings, feed: Feed) -> None:
        """Switched off: only another configuration matters."""
        log.info("display.output is off: nothing is shown")
        self._console.close()
        while not self._must_begin_anew(settings, feed.take()):
            self._sleep()

    def _show(self, settings: Settings, feed: Feed) -> None:
        takes_console = settings.display.output == "framebuffer"
        self._console.open() if takes_console else self._console.close()
        easel, plot = make_easel(settings), Plot(settings.display, time.monotonic())
        self._wakeup.wait(HELLO_S)
        try:
            while not self._must_begin_anew(settings, messages := feed.take()):
                self._console.attend()
                for message in messages:
                    plot.hear(message, time.monotonic())
                self._draw(plot, easel)
                self._sleep(*self._waits(plot, easel))
        finally:
            easel.close()

    def _must_begin_anew(self, settings: Settings, messages: Sequence[Message]) -> bool:
        """Asked to; or the front has read its settings again, or may have done so unheard."""
        types = {message["type"] for message in messages}
        is_stale = not types.isdisjoint({"snapshot", "away"}) and self._read_settings() != settings
        return self._stop.is_asked or self._reload.take() or "config" in types or is_stale

    def _read_settings(self) -> Settings:
        """What is right of the configuration: with a broken one the screen is where somebody may see it."""
        told, self._told = self._told, ""
        try:
            return self._source.load()
        except ConfigError as err:
            self._told = str(err)
            if self._told != told:
                log.error("the configuration is broken, what is right of it stands: %s", err)
            return salvaged_settings(self._source.path)

    def _draw(self, plot: Plot, easel: Easel) -> None:
        """One look at what belongs on the screen; a picture that cannot be shown is given up."""
        if not self._console.is_in_view:
            easel.forget()  # somebody works at another terminal, and draws there
            return
        try:
            easel.show(plot.scene(time.monotonic()))
        except StorageError as err:
            log.error("the picture is passed over: %s", err)
            plot.lose_picture()
            easel.show(plot.scene(time.monotonic()))

    def _waits(self, plot: Plot, easel: Easel) -> tuple[float | None, float | None]:
        """Seconds until there is something to draw without anybody saying so."""
        now = time.monotonic()
        is_in_view = self._console.is_in_view
        return plot.next_change(now), easel.due_s(plot.scene(now)) if is_in_view else None

    def _sleep(self, *waits: float | None) -> None:
        self._notifier.alive()
        known = [wait for wait in (*waits, self._notifier.watchdog_s) if wait is not None]
        self._wakeup.wait(min(known, default=None))


def make_easel(settings: Settings) -> Easel:
    face = readable_typeface(settings.display.font)
    style = Style(settings.display.background, face, gallery_dir(settings))
    return Easel(lambda: open_screen(settings), settings.display, style, time.monotonic)


def open_screen(settings: Settings) -> Screen:
    """The screen that the settings name. Raises DisplayError."""
    display = settings.display
    if display.output == "framebuffer":
        return Framebuffer(display.device)
    return PngFile(png_path(settings), png_size(display))


def png_path(settings: Settings) -> Path:
    """Where the PNG of output `file` goes. Raises DisplayError."""
    if settings.display.file:
        return settings.display.file.expanduser().absolute()
    try:
        return run_dir(settings.node) / "screen.png"
    except ConfigError as err:
        raise DisplayError(str(err)) from err


def png_size(display: DisplaySettings) -> tuple[int, int]:
    width, height = display.file_size.split("x")
    return int(width), int(height)
