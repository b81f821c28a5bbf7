"""Execution providers: which one runs the graphs on this machine, and why.

OpenVINO comes as the plugin package `onnxruntime-ep-openvino` beside onnxruntime. (The older wheel
`onnxruntime-openvino` overwrites onnxruntime's own files and cannot stand beside it.)
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProviderError
from .compiled import CompiledCache
from .operators.library import own_operators
from .runtime import onnxruntime

PROVIDERS = ("auto", "cpu", "openvino")
OPERATORS = ("auto", "runtime")
CPUINFO = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"
PLUGIN_MODULE = "onnxruntime_ep_openvino"
INSTALL_HINT = "install it: pip install 'edgegen[openvino]' (x86-64 only)"


@dataclass(frozen=True)
class ProviderChoice:
    """The provider that runs the graphs.

    Attributes:
        name: `cpu` or `openvino`.
        reason: for people: why this one.
        devices: ONNX Runtime's OrtEpDevice of the provider; empty for the built-in CPU provider.
        make_options: threads and a folder for compiled graphs -> the plugin's options.
        version: of the plugin; what it compiled fits no other.
        compiled: where compiled graphs are kept; None: nowhere.
        operators: library of our own operators, for the CPU provider; None: ONNX Runtime's compute all.
    """

    name: str
    reason: str
    devices: tuple[Any, ...] = ()
    make_options: Callable[[int, Path | None], dict[str, str]] = lambda threads, folder: {}  # noqa: ARG005
    version: str = ""
    compiled: CompiledCache | None = None
    operators: Path | None = None


def choose_provider(
    wanted: str = "auto",
    cpuinfo: Path = CPUINFO,
    compiled: CompiledCache | None = None,
    operators: str = "auto",
) -> ProviderChoice:
    """`auto` takes OpenVINO on an Intel chip when it is installed, else the CPU provider, and says why.

    Args:
        compiled: where OpenVINO may keep what it compiled; the CPU provider compiles nothing.
        operators: `auto`: our own take their part on the CPU provider, where this processor has what they
            need; `runtime`: ONNX Runtime's alone.
    Raises:
        ProviderError: OpenVINO was asked for and cannot run here, or a name is unknown.
    """
    if operators not in OPERATORS:
        raise ProviderError(f"operators is {operators!r}; known are {', '.join(OPERATORS)}")
    if wanted == "cpu":
        return _cpu("asked for", operators)
    if wanted == "openvino":
        return _openvino("asked for", compiled)
    if wanted != "auto":
        raise ProviderError(f"provider is {wanted!r}; known are {', '.join(PROVIDERS)}")
    vendor = cpu_vendor(cpuinfo)
    if vendor != INTEL:
        return _cpu(f"the processor is {vendor or 'not an Intel one'}; OpenVINO is for Intel's", operators)
    try:
        return _openvino("an Intel processor, and OpenVINO is installed", compiled)
    except ProviderError as err:
        return _cpu(f"an Intel processor, but {err}", operators)


def _cpu(reason: str, operators: str) -> ProviderChoice:
    return ProviderChoice("cpu", reason, operators=own_operators() if operators == "auto" else None)


def cpu_vendor(cpuinfo: Path = CPUINFO) -> str:
    """`GenuineIntel`, `AuthenticAMD`, ...; empty where the kernel names none (ARM) or hides it."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _openvino(reason: str, compiled: CompiledCache | None) -> ProviderChoice:
    devices = openvino_devices()
    version = importlib.metadata.version("onnxruntime-ep-openvino")
    return ProviderChoice("openvino", reason, devices[:1], openvino_options, version, compiled)


def openvino_options(threads: int, folder: Path | None = None) -> dict[str, str]:
    """The plugin takes OpenVINO's own properties as JSON, per device; `folder`: for compiled graphs."""
    properties = {"INFERENCE_NUM_THREADS": str(threads)}
    if folder is not None:
        properties["CACHE_DIR"] = str(folder)
    return {"load_config": json.dumps({"CPU": properties})}


@functools.cache
def openvino_devices() -> tuple[Any, ...]:
    """The CPU devices that the OpenVINO plugin offers; loads its library (once).

    Raises:
        ProviderError: not installed, does not load, or offers nothing: it enumerates Intel hardware only,
            although OpenVINO itself would run on other x86-64 processors.
    """
    if importlib.util.find_spec(PLUGIN_MODULE) is None:
        raise ProviderError(f"the OpenVINO provider is not installed; {INSTALL_HINT}, or use provider cpu")
    ort = onnxruntime()
    try:
        ep_name = _register_plugin(PLUGIN_MODULE)
        offered = [d for d in ort.get_ep_devices() if d.ep_name == ep_name]
    except Exception as err:
        raise ProviderError(
            f"the OpenVINO provider does not load: {_first_line(err)}; use provider cpu"
        ) from err
    found = tuple(d for d in offered if d.ep_metadata.get("ov_device") == "CPU")
    if not found:
        vendor = cpu_vendor() or "unknown"
        raise ProviderError(
            f"the OpenVINO provider offers no device on this processor ({vendor}): its plugin serves Intel "
            "hardware only; use provider cpu"
        )
    return found


@functools.cache
def _register_plugin(module: str) -> str:
    """Load the plugin's library, which ONNX Runtime allows only once; returns the provider's name."""
    plugin = importlib.import_module(module)
    onnxruntime().register_execution_provider_library(module, plugin.get_library_path())
    return str(plugin.get_ep_name())


def _first_line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
