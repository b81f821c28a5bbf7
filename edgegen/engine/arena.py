"""One arena for the tensors of all graphs in this process: what the denoiser has freed the decoder takes.

On its own each session would keep an arena, and in it all that it ever needed at a time, for as long as it
is loaded. A shared one outlives the sessions: it gives memory back when a run asks for that, whose graph does
not matter (ONNX Runtime's `session.use_env_allocators` and `memory.enable_memory_arena_shrinkage`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np

from .protobuf import message, text, whole, write_message
from .runtime import FATAL_ONLY, onnxruntime

log = logging.getLogger(__name__)

ONE = {"x": np.zeros(1, np.float32)}

# numbers of fields, and of a type, in onnx.proto
_IR_VERSION, _GRAPH, _OPERATOR_SET, _SET_VERSION = 1, 7, 8, 2
_NODE, _GRAPH_NAME, _INPUT, _OUTPUT = 1, 2, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR = 1, 2, 4
_NAME, _TYPE, _TENSOR_TYPE, _ELEMENTS, _SHAPE, _DIMENSION, _LENGTH, _FLOAT = 1, 2, 1, 1, 2, 1, 1, 1


def share_arena(options: Any) -> None:
    """Have a session with these options take its tensors from the one arena."""
    if _shrinker() is not None:
        options.add_session_config_entry("session.use_env_allocators", "1")


def shrink_arena() -> None:
    """Give back what no loaded graph holds; nothing where no graph has shared it yet."""
    shrinker = _shrinker() if _shrinker.cache_info().currsize else None
    if shrinker is not None:
        options = onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        shrinker.run(None, ONE, options)


@functools.cache
def _shrinker() -> Any:
    """Makes the arena, once; a session whose runs may shrink it. None: ONNX Runtime does not make one."""
    ort = onnxruntime()
    kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), ort.OrtArenaCfg({}))
        session = ort.InferenceSession(_negation(), options, providers=["CPUExecutionProvider"])
        session.run(None, ONE)  # the first piece of an arena is never given back: let it be a small one
        return session
    except Exception as err:  # noqa: BLE001 - ONNX Runtime's are of any kind
        log.warning("graphs keep an arena each: %s", err)
        return None


def _negation() -> bytes:
    """An ONNX file: y = -x, one float each. (ONNX Runtime leaves out nodes that do nothing.)"""
    one = message(_SHAPE, [message(_DIMENSION, [whole(_LENGTH, 1)])])
    kind = message(_TYPE, [message(_TENSOR_TYPE, [whole(_ELEMENTS, _FLOAT), one])])
    node = [text(_NODE_INPUT, "x"), text(_NODE_OUTPUT, "y"), text(_OPERATOR, "Neg")]
    ends = [message(_INPUT, [text(_NAME, "x"), kind]), message(_OUTPUT, [text(_NAME, "y"), kind])]
    graph = message(_GRAPH, [message(_NODE, node), text(_GRAPH_NAME, "negation"), *ends])
    return write_message([whole(_IR_VERSION, 8), graph, message(_OPERATOR_SET, [whole(_SET_VERSION, 13)])])
