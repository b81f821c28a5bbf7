"""The library behind numpy's matrix products, told to leave parallel work to its callers.

OpenBLAS, which numpy's wheels bring along, starts a thread for each core and lets one product at a time use
them. Threads that each multiply matrices then wait for one another, busily: three times the CPU seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

MAPS = Path("/proc/self/maps")
# numpy's wheels prefix and suffix the names of their copy; distributions' numpy uses the library as it is
NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Products within take one thread each, in this whole process. Other libraries than OpenBLAS stay as
    they are."""
    get, set_ = _thread_functions()
    threads = get()
    set_(1)
    try:
        yield
    finally:
        set_(threads)


@functools.cache
def _thread_functions() -> tuple[Callable[[], int], Callable[[int], object]]:
    """What tells the number of threads, and what sets it; both do nothing where there is no OpenBLAS."""
    for path in _loaded_libraries():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in NAMES:
            with contextlib.suppress(AttributeError):
                return library[name.format("get_num_threads")], library[name.format("set_num_threads")]
    return (lambda: 1), (lambda threads: threads)


def _loaded_libraries() -> list[str]:
    """Files of this process that may be OpenBLAS."""
    try:
        lines = MAPS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    paths = [line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6]
    return sorted({path for path in paths if "openblas" in path.rpartition("/")[2] or "/libblas" in path})
