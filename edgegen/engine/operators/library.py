"""The library that holds our operators."""

from __future__ import annotations

import ctypes
import functools
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

log = logging.getLogger(__name__)

LIBRARIES = [Path(__file__).with_name(f"_native{suffix}") for suffix in EXTENSION_SUFFIXES]


@functools.cache
def own_operators() -> Path | None:
    """The library to register with sessions; None: it was not built, or is nothing for this processor."""
    for path in LIBRARIES:
        if path.is_file() and choose_kind(path):
            return path
    return None


def choose_kind(path: Path, wanted: str = "") -> str:
    """Make a library's operators take these instructions, or the best the processor has.

    Args:
        wanted: `avx512-vnni`, `avx-vnni`, or `avx2`, which is no faster than ONNX Runtime and never the best.
    Returns:
        what they take in sessions made from now on; "" when it stays as it was.
    """
    try:
        choose = ctypes.CDLL(str(path)).edgegen_choose
    except (OSError, AttributeError) as err:
        log.warning("%s is not used: %s", path, err)
        return ""
    choose.restype, choose.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    found: bytes = choose(wanted.encode())
    return found.decode()
