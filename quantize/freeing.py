"""Memory that is no longer used, back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Free what nothing refers to, and let malloc keep none of it, where the libc can (malloc_trim(3)).

    After a graph of gigabytes was closed glibc holds most of what it took, while another process or the next
    stage wants as much.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
