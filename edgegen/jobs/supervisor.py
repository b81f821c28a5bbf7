"""Starts the engine, notices its death whatever the cause, and starts it again.

The engine gets its settings as one line on standard input, which stays open: when the front dies, the
pipe breaks and the engine ends on its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .wire import Message

log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "edgegen.jobs.worker")
BACKOFF_S = (1.0, 60.0)
STEADY_S = 60.0  # an engine that lived this long starts again without a longer pause
STOP_TIMEOUT_S = 10.0
FRONTS_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
HUGE_PAGES = "glibc.malloc.hugetlb=1"


@dataclass(frozen=True)
class Death:
    """Why an engine ended. `is_blamed` is False when we stopped it: the job is not at fault."""

    reason: str
    is_blamed: bool


RETIRED = Death("retired between two jobs", is_blamed=False)


class Supervisor:
    """Owns the engine process from `start` to `close`; one thread, asleep unless something happens.

    Args:
        settings_json: the whole configuration, for the engine.
        on_death: called on the supervisor's thread after each death, before the next start.
        step_timeout_s: the longest silence of an engine that has a job; then it is killed.
    """

    def __init__(
        self,
        settings_json: str,
        on_death: Callable[[Death], object],
        step_timeout_s: float,
        command: Sequence[str] = ENGINE_COMMAND,
        backoff_s: tuple[float, float] = BACKOFF_S,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ):
        self._settings_json = settings_json
        self._on_death = on_death
        self._step_timeout_s = step_timeout_s
        self._command = tuple(command)
        self._backoff_s = backoff_s
        self._stop_timeout_s = stop_timeout_s
        self._happened: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closing = False
        self._told_json = settings_json
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    @property
    def pid(self) -> int | None:
        """The engine's process id while it lives."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    def start(self) -> None:
        self._thread.start()

    def note(self, message: Message) -> None:
        """What an engine said: signs of life, and whether it has a job."""
        if message.get("pid") == self.pid:
            self._happened.put(message)

    def renew(self, settings_json: str, step_timeout_s: float) -> None:
        """The next engine gets these; one that retires because it `is_stale` is followed at once."""
        self._settings_json, self._step_timeout_s = settings_json, step_timeout_s

    @property
    def is_stale(self) -> bool:
        """Whether the engine was started with other settings than those of now."""
        return self._told_json != self._settings_json

    def close(self) -> None:
        """Ask the engine to give its job back and end, then kill it; safe to call twice."""
        self._is_closing = True
        self._happened.put({"type": "close"})
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause, longest = self._backoff_s
        while not self._is_closing:
            began = time.monotonic()
            death = self._live()
            self._tell(death)
            if time.monotonic() - began > STEADY_S:
                pause = self._backoff_s[0]
            if death is RETIRED:
                log.info("the engine %s: a new one starts with the settings of now", death.reason)
            elif not self._is_closing:
                log.error("the engine %s; it starts again in %g s", death.reason, pause)
                self._wait_for(("close",), pause)
                pause = min(longest, pause * 2)

    def _live(self) -> Death:
        """One engine from its start to its end."""
        try:
            process = self._spawn()
        except OSError as err:
            return Death(f"could not be started: {err}", is_blamed=False)
        watcher = threading.Thread(target=self._watch, args=(process,), name="engine-exit", daemon=True)
        watcher.start()
        death = self._attend(process)
        watcher.join()
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        return death

    def _spawn(self) -> subprocess.Popen[bytes]:
        told = self._settings_json
        environ = engine_environ(os.environ)
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, env=environ, start_new_session=True)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code tells
            process.stdin.write(told.encode() + b"\n")
            process.stdin.flush()
        self._told_json = told
        self._process = process
        log.info("started engine %d", process.pid)
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """A thread of its own, since Popen.wait with a timeout polls."""
        process.wait()
        self._happened.put({"type": "exited", "pid": process.pid})

    def _attend(self, process: subprocess.Popen[bytes]) -> Death:
        timeout: float | None = None
        while True:
            message = self._next(timeout)
            match message["type"] if message else "silence":
                case "claimed" | "step":
                    timeout = self._step_timeout_s
                case "done" | "failed" | "idle":
                    timeout = None
                case "exited":
                    if message and message["pid"] == process.pid:
                        return self._exited(process.returncode)
                case "silence":
                    self._kill(process)
                    return Death(f"hung: a step took longer than {self._step_timeout_s:g} s", is_blamed=True)
                case "close":
                    return self._stop(process)

    def _exited(self, code: int) -> Death:
        return RETIRED if self.is_stale and code == 0 else Death(describe_exit(code), is_blamed=True)

    def _next(self, timeout: float | None) -> Message | None:
        """What happens next; None when nothing does in time."""
        try:
            return self._happened.get(timeout=timeout)
        except queue.Empty:
            return None

    def _wait_for(self, types: tuple[str, ...], timeout_s: float) -> bool:
        """True when one of these happened within the time; other things are passed over."""
        give_up = time.monotonic() + timeout_s
        while (left := give_up - time.monotonic()) > 0:
            message = self._next(left)
            if message and message["type"] in types:
                return True
        return False

    def _stop(self, process: subprocess.Popen[bytes]) -> Death:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        if not self._wait_for(("exited",), self._stop_timeout_s):
            log.warning("engine %d did not end within %g s: killed", process.pid, self._stop_timeout_s)
            self._kill(process)
        return Death("was stopped", is_blamed=False)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        self._wait_for(("exited",), 60)

    def _tell(self, death: Death) -> None:
        try:
            self._on_death(death)
        except Exception:
            log.exception("after the engine %s", death.reason)


def engine_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine whose front has this one.

    glibc is asked to back its memory with huge pages where the kernel leaves that to programs (`madvise`): a
    step reads all weights, which takes a quarter of a million pages of 4 KB, or some hundred of 2 MB. It
    listens only when a process starts. The engine's unit says the same.
    """
    others = {name: value for name, value in environ.items() if name not in FRONTS_OWN}
    return {"GLIBC_TUNABLES": HUGE_PAGES, **others, "ORT_DISABLE_TELEMETRY": "1"}


def describe_exit(code: int) -> str:
    """An exit code in words, to follow `the engine`: `was killed (out of memory?)`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return "was killed (SIGKILL: out of memory?)" if -code == signal.SIGKILL else f"died of {name}"
