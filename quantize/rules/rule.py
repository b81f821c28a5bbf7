"""What a rule is, and small questions rules ask of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

Apply = Callable[[Any], int]
"""Changes a graph in place and says how often: an `onnx_ir.Model` at stage float, a `ModelProto` after it."""

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Rule:
    """One rewrite.

    Attributes:
        name: for `--without-rule`.
        does, pays: one sentence each, for people: what changes, and what that is worth.
        stage: `float` after export, before anything is quantized; `int8` and `fp16` on the packed graph.
    """

    name: str
    does: str
    pays: str
    apply: Apply
    stage: str = "float"


def by_patterns(*patterns: RewriteRule) -> Apply:
    """Apply rewrite patterns until none fits any more (a rewrite can make way for another)."""
    rules = RewriteRuleSet(list(patterns))

    def apply(model: ir.Model) -> int:
        total = 0
        while found := rules.apply_to_model(model):
            total += found
        return total

    return apply


def scalar(value: ir.Value | None) -> float | None:
    """The number a constant of one element holds; None for what is no such constant."""
    tensor = value.const_value if value is not None else None
    if tensor is None or tensor.size != 1:
        return None
    return float(tensor.numpy().reshape(()))


def ints(value: ir.Value | None) -> list[int] | None:
    """A constant list of integers; None for what is computed at run time."""
    tensor = value.const_value if value is not None else None
    return None if tensor is None else [int(x) for x in tensor.numpy().reshape(-1)]


def known_dim(value: ir.Value | None, axis: int) -> int | None:
    """A dimension that is the same in every run."""
    shape = value.shape if value is not None else None
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    return dim if isinstance(dim, int) else None


def rank(value: ir.Value | None) -> int | None:
    """How many dimensions a value has; None when the graph does not say."""
    return None if value is None or value.shape is None else len(value.shape)


def weight(value: ir.Value | None, dims: int) -> bool:
    """Whether a value is a stored weight with so many dimensions."""
    return value is not None and value.const_value is not None and len(value.const_value.shape) == dims


def array(value: ir.Value) -> np.ndarray:
    """A stored weight's numbers."""
    tensor = value.const_value
    assert tensor is not None, f"{value.name} is computed, not stored"
    return np.asarray(tensor.numpy())


def stored(op: Any, values: np.ndarray, name: str) -> ir.Value:
    """A new weight; its name must be new too."""
    value: ir.Value = op.initializer(ir.tensor(np.ascontiguousarray(values), name=name), name=name)
    return value


def producer(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node a value comes from, when it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in kinds else None


def module_of(node: ir.Node) -> str:
    """The module path in a node's name: `/unet/mid_block/attn1` of `/unet/mid_block/attn1/Softmax`."""
    return (node.name or "").rpartition("/")[0]
