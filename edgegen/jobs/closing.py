"""The end of a process, in stages: each has its time, and one that hangs does not keep the others."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)


class Closing:
    """Calls what it was given when the block ends, the last one first; a context manager.

    What fails is logged. What takes too long is logged and left behind, on a thread of its own.

    Attributes:
        stuck: the names of what was left behind.
    """

    def __init__(self) -> None:
        self.stuck: list[str] = []
        self._stages: list[tuple[str, Callable[[], object], float]] = []

    def add(self, name: str, close: Callable[[], object], within_s: float) -> None:
        """Call `close` at the end, and wait for it so many seconds at most."""
        self._stages.append((name, close, within_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._stages:
            self._end(*self._stages.pop())

    def _end(self, name: str, close: Callable[[], object], within_s: float) -> None:
        thread = threading.Thread(target=_guarded, args=(name, close), name=f"close-{name}", daemon=True)
        thread.start()
        thread.join(within_s)
        if thread.is_alive():
            log.error("%s did not end within %g s: left behind", name, within_s)
            self.stuck.append(name)

    def leave_if_stuck(self) -> None:
        """End this process now, with exit code 1, if anything was left behind: it might hold up the end."""
        if self.stuck:
            log.error("ended without waiting any longer for: %s", ", ".join(self.stuck))
            logging.shutdown()
            os._exit(1)


def _guarded(name: str, close: Callable[[], object]) -> None:
    try:
        close()
    except Exception:
        log.exception("%s did not end as it should", name)
