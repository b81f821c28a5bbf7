"""What the front tells, over its Unix socket; the front may come and go."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ...errors import EdgegenError
from ...jobs.link import FrontError, ShellLink
from ...jobs.wire import Message

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
ASK_TIMEOUT_S = 10.0
MOST_WAITING = 1000  # messages; more are a front gone mad, and the oldest go


class Feed:
    """A thread that listens, and connects again when the front was lost.

    Messages are those of the hub's `watch`, and two of ours: `snapshot` {running, newest, problems} after
    each connection, how things stand then (jobs as `describe_job` has them, or None), and `away` when the
    front is not there.

    Args:
        path: the front's socket. wake: called when there are messages to `take`.
        previews: ask for previews, too.
    """

    def __init__(self, path: Path, wake: Callable[[], object], previews: bool):
        self._path = path
        self._wake = wake
        self._previews = previews
        self._messages: deque[Message] = deque(maxlen=MOST_WAITING)
        self._closed = threading.Event()
        self._link: ShellLink | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> list[Message]:
        """What came since the last time, oldest first."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._messages.popleft())
        return taken

    def close(self) -> None:
        """Safe to call twice."""
        self._closed.set()
        if link := self._link:
            link.hang_up()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause, told = FIRST_RETRY_S, ""
        while not self._closed.is_set():
            try:
                self._listen()
            except EdgegenError as err:
                if self._closed.is_set():
                    return
                if not isinstance(err, FrontError) or str(err) != told:
                    log.info("the front is away: %s", err)
                pause = FIRST_RETRY_S if self._link else min(LONGEST_RETRY_S, pause * 2)
                told = str(err)
            self._link = None
            self._put({"type": "away"})
            self._closed.wait(pause * random.uniform(0.5, 1.0))

    def _listen(self) -> None:
        """Until the front is lost. Watching begins before the look at how things stand: nothing is missed."""
        with ShellLink(self._path, ASK_TIMEOUT_S, "display") as link:
            events = link.watch(self._previews)
            self._put(look(self._path))
            self._link = link
            if self._closed.is_set():  # `close` may have looked for the link before it was there to hang up
                return
            for message in events:
                self._put(message)

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._wake()


def look(path: Path) -> Message:
    """A `snapshot`: the running job, the newest with a picture, and what is wrong with the configuration.

    Raises:
        FrontError: the front is not there.
    """
    with ShellLink(path, ASK_TIMEOUT_S) as link:
        status = link.ask("status")
        running = link.ask("jobs", states=["running"], limit=1)["jobs"]
        newest = link.ask("jobs", states=["done"], limit=1)["jobs"]
    problems = (status.get("config") or {}).get("problems") if status.get("safe_mode") else None
    return {
        "type": "snapshot",
        "running": running[0] if running else None,
        "newest": newest[0] if newest else None,
        "problems": problems or [],
    }
