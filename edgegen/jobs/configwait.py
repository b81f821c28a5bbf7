"""An engine with a broken configuration waits; the front tells what is wrong and takes no jobs meanwhile."""

from __future__ import annotations

import logging

from ..config.reload import ConfigSource
from ..errors import ConfigError
from ..settings import Settings
from .sdnotify import SystemdNotifier
from .wakeup import StopRequest, Wakeup

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


def wait_for_settings(
    source: ConfigSource,
    wakeup: Wakeup,
    stop: StopRequest,
    notifier: SystemdNotifier | None = None,
    look_every_s: float = LOOK_EVERY_S,
) -> Settings | None:
    """The settings, as soon as they can be read; None when asked to stop before.

    To systemd a waiting engine is up: an exit would be followed by a start every few seconds, for ever.
    """
    notifier = notifier or SystemdNotifier()
    told: str | None = None
    while not stop.is_asked:
        try:
            return source.load()
        except ConfigError as err:
            said = str(err)
        if said != told:
            log.error("the engine waits until the configuration is mended: %s", said)
            notifier.ready(f"waits, the configuration is broken: {said.splitlines()[0]}")
            told = said
        notifier.alive()
        wakeup.wait(min(look_every_s, notifier.watchdog_s or look_every_s))
    return None
