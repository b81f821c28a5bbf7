"""The front of a device whose configuration is broken: no triggers, no engine, but it says what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .config.files import database_path, gallery_dir, salvaged_settings, socket_path
from .config.reload import ConfigSource
from .errors import ConfigError, EdgegenError, Problem
from .jobs.closing import Closing
from .jobs.gallery import Gallery
from .jobs.hub import Hub
from .jobs.queue import JobQueue
from .jobs.sdnotify import SystemdNotifier
from .jobs.service import JobService
from .jobs.wakeup import ReloadRequest, StopRequest, Wakeup
from .jobs.wire import Message
from .settings import Settings

log = logging.getLogger(__name__)

ENDS_S = 3.0  # queue and hub, each


class SafeMode(EdgegenError):
    """The device takes no jobs, for its configuration is broken."""

    code = "safe_mode"
    exit_code = ConfigError.exit_code


def wait_in_safe_mode(
    source: ConfigSource, wakeup: Wakeup, stop: StopRequest, reload: ReloadRequest
) -> Settings | None:
    """Serve the control socket until SIGHUP finds the configuration mended; None when asked to stop.

    Jobs that wait in the queue stay there; new ones are refused with what is wrong.

    Raises:
        StorageError: the queue or the control socket cannot be made.
    """
    while not stop.is_asked:
        try:
            source.sweep()
            return source.load()
        except ConfigError as err:
            with Closing() as closing:
                serve_safely(source, err.problems, closing, wakeup, stop, reload)
            closing.leave_if_stuck()
    return None


def serve_safely(
    source: ConfigSource,
    problems: Sequence[Problem],
    closing: Closing,
    wakeup: Wakeup,
    stop: StopRequest,
    reload: ReloadRequest,
) -> None:
    """Until SIGHUP or the end. Folders and socket are where the readable part of the configuration says."""
    settings = salvaged_settings(source.path)
    notifier = SystemdNotifier()
    queue = JobQueue(database_path(settings.node), settings.queue)
    closing.add("the queue", queue.close, ENDS_S)
    service = JobService(queue, Gallery(gallery_dir(settings), queue.database, settings.gallery))
    said = [str(problem) for problem in problems]

    def refuse(request: Message) -> Message:  # noqa: ARG001 - whatever it is
        raise SafeMode(f"safe mode, no jobs are taken: {'; '.join(said)}")

    hub = Hub(socket_path(settings.node), service, refuse, about=lambda: about_safe_mode(said))
    hub.start()
    closing.add("the hub", hub.close, ENDS_S)
    for line in said:
        log.error("safe mode: %s", line)
    log.error("safe mode: mend the configuration, then: systemctl reload edgegen-front (or SIGHUP)")
    notifier.ready(f"safe mode: {said[0]}")
    while not (stop.is_asked or reload.take()):
        if hub.is_alive:
            notifier.alive()
        wakeup.wait(notifier.watchdog_s)


def about_safe_mode(said: Sequence[str]) -> dict[str, Any]:
    """For `edgegen status`, as `LiveConfig.describe` has it."""
    return {
        "safe_mode": True,
        "config": {"problems": list(said), "waiting_for_restart": [], "trial_left_s": None},
    }
