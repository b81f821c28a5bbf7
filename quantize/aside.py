"""A second process of a build, for work that nothing waits for yet.

Much of exporting and converting is one thread's work: small graphs are made here while the large one is made
there. It is a fork, so that what was imported counts once in time and memory; it must be made before this
process has computed anything, as threads of OpenMP do not survive a fork. It ends with this process, however
that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from edgegen.errors import EdgegenError, EngineError

from . import runner
from .freeing import give_back

PR_SET_PDEATHSIG = 1  # prctl(2)
Work = Callable[[], Any]


class Aside:
    """Does one thing after the other, with one thread; results are asked for later, in any order."""

    def __init__(self) -> None:
        self._ours, theirs = get_context("fork").Pipe()
        known = theirs, self._ours, os.getpid()
        self._process = get_context("fork").Process(target=_serve, args=known, daemon=True)
        self._process.start()
        theirs.close()
        self._asked, self._found = 0, dict[int, tuple[bool, Any]]()

    def begin(self, work: Work) -> Work:
        """Have it done.

        Args:
            work: can be pickled, and so can what it returns and raises.
        Returns:
            What waits for the result and returns it, or raises what the work raised.
        """
        number = self._asked = self._asked + 1
        self._ours.send((number, work))
        return lambda: self._result(number)

    def _result(self, number: int) -> Any:
        while number not in self._found:
            try:
                found, is_good, value = self._ours.recv()
            except (EOFError, ConnectionError):
                self._process.join()
                code = self._process.exitcode
                raise EngineError(
                    f"the build's second process ended with {code} (out of memory?); "
                    "the same command goes on from the last finished step"
                ) from None
            self._found[found] = is_good, value
        is_good, value = self._found.pop(number)
        if not is_good:
            raise value
        return value

    def close(self) -> None:
        """Whatever it does is cut off; safe to call twice."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def can_be_made() -> bool:
    """On Linux with two cores: elsewhere forks do not end with their parent, or nothing is gained."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1


def _serve(pipe: Connection, other_end: Connection, parent: int) -> None:
    other_end.close()  # else this process would never hear that the other one ended
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    runner.DEFAULT_THREADS = 1
    while True:
        try:
            number, work = pipe.recv()
        except (EOFError, ConnectionError):
            return
        pipe.send((number, *_done(work)))
        del work
        give_back()  # while this one waits, the other process needs the memory


def _done(work: Work) -> tuple[bool, Any]:
    """Whether it was done, and the result or the error."""
    try:
        return True, work()
    except EdgegenError as err:
        return False, err
    except Exception as err:  # noqa: BLE001  it is raised again where the result is asked for
        words = "".join(traceback.format_exception(err))
        return False, RuntimeError(f"in the build's second process: {words}")
