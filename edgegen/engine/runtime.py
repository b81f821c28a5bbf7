"""ONNX Runtime, imported late and with its telemetry off: nothing else here imports it."""

from __future__ import annotations

import os
from types import ModuleType

FATAL_ONLY = 4  # failures reach us as exceptions; the log would only repeat them


def onnxruntime() -> ModuleType:
    """The onnxruntime module.

    From 1.29 on it reports usage on Linux unless this variable is set before its first import. The import
    takes about 100 ms and 50 MB, so commands that run no graph must not pay for it.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    ort.disable_telemetry_events()
    ort.set_default_logger_severity(FATAL_ONLY)
    return ort


def usable_cores() -> int:
    """Cores this process may run on (an affinity mask or a cpuset may leave fewer than there are)."""
    return max(1, len(os.sched_getaffinity(0)))
