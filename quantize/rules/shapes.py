"""Dimensions that are the same in every run, as constants instead of questions asked of tensors."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from .rule import ints, known_dim, rank


class KnownDim(RewriteRuleClassBase):
    """Gather(Shape(x), i) -> a constant, where the dimension is known."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)

    def pattern(self, op: Any, x: Any, index: Any) -> Any:
        return op.Gather(op.Shape(x, _outputs=["shape"]), index, _allow_other_attributes=True)

    def check(self, _context: Any, x: ir.Value, index: ir.Value, shape: ir.Value) -> bool:
        return _is_whole(shape) and _gathered(x, index) is not None

    def rewrite(self, op: Any, x: ir.Value, index: ir.Value, **_: Any) -> Any:
        dims = _gathered(x, index) or []
        is_scalar = not index.const_value.shape
        return op.Constant(value_int=dims[0]) if is_scalar else op.Constant(value_ints=dims)


class KnownDims(RewriteRuleClassBase):
    """Slice(Shape(x), from, to) -> a constant, where the dimensions are known."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)

    def pattern(self, op: Any, x: Any, starts: Any, ends: Any) -> Any:
        return op.Slice(op.Shape(x, _outputs=["shape"]), starts, ends, _allow_other_inputs=True)

    def check(self, _context: Any, x: ir.Value, starts: ir.Value, ends: ir.Value, shape: ir.Value) -> bool:
        node = next((use.node for use in shape.uses() if use.node.inputs[1] is starts), None)
        steps = ints(node.inputs[4]) if node is not None and len(node.inputs) > 4 else [1]
        return _is_whole(shape) and steps == [1] and _sliced(x, starts, ends) is not None

    def rewrite(self, op: Any, x: ir.Value, starts: ir.Value, ends: ir.Value, **_: Any) -> Any:
        return op.Constant(value_ints=_sliced(x, starts, ends) or [])


def _is_whole(shape: ir.Value) -> bool:
    node = shape.producer()
    return node is not None and not node.attributes.get_int("start", 0) and "end" not in node.attributes


def _gathered(x: ir.Value, index: ir.Value) -> list[int] | None:
    return _known(x, ints(index))


def _sliced(x: ir.Value, starts: ir.Value, ends: ir.Value) -> list[int] | None:
    first, last = ints(starts), ints(ends)
    if not first or not last or rank(x) is None:
        return None
    return _known(x, list(range(rank(x) or 0))[first[0] : last[0]])


def _known(x: ir.Value, axes: list[int] | None) -> list[int] | None:
    dims = [known_dim(x, axis) for axis in axes or []]
    return [d for d in dims if d is not None] if dims and None not in dims else None
