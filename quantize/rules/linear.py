"""Layers with weights: their bias inside the kernel, and no part of a result computed only to be cut off."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from .rule import array, ints, rank, stored, weight


class BiasIntoGemm(RewriteRuleClassBase):
    """Add(MatMul(x, w), b) -> Gemm on rows, between two Reshapes that move nothing."""

    def pattern(self, op: Any, x: Any, w: Any, b: Any) -> Any:
        return op.Add(op.MatMul(x, w, _outputs=["product"]), b)

    def check(self, _context: Any, x: ir.Value, w: ir.Value, b: ir.Value, **_: Any) -> bool:
        return _is_linear(w, b) and (rank(x) or 0) >= 2

    def rewrite(self, op: Any, x: ir.Value, w: ir.Value, b: ir.Value, product: ir.Value) -> Any:
        name = _name_of(product)
        if rank(x) == 2:
            return op.Gemm(x, w, b, _name=name)
        inner, outer = array(w).shape
        zero, last = op.Constant(value_ints=[0]), op.Constant(value_ints=[-1])
        leading = op.Slice(op.Shape(x), zero, last, zero)  # Shape's own `end` needs opset 15
        shape = op.Concat(leading, op.Constant(value_ints=[outer]), axis=0)
        rows = op.Reshape(x, op.Constant(value_ints=[-1, inner]), _name=f"{name}_rows")
        return op.Reshape(op.Gemm(rows, w, b, _name=name), shape, _name=f"{name}_unrows")


class SlicedLinear(RewriteRuleClassBase):
    """Slice(Add(MatMul(x, w), b)) along the channels -> Add(MatMul(x, part of w), part of b)."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)  # the other slices still read the whole

    def pattern(self, op: Any, x: Any, w: Any, b: Any, starts: Any, ends: Any, axes: Any) -> Any:
        whole = op.Add(op.MatMul(x, w, _outputs=["product"]), b, _outputs=["whole"])
        return op.Slice(whole, starts, ends, axes)

    def check(self, _context: Any, w: ir.Value, b: ir.Value, whole: ir.Value, **values: ir.Value) -> bool:
        if not _is_linear(w, b) or whole.is_graph_output():
            return False
        if any(use.node.op_type != "Slice" for use in whole.uses()):
            return False  # the whole is computed anyway
        axes, starts, ends = (ints(values[name]) for name in ("axes", "starts", "ends"))
        return axes in ([-1], [(rank(whole) or 0) - 1]) and bool(starts and ends)

    def rewrite(
        self, op: Any, x: ir.Value, w: ir.Value, b: ir.Value, product: ir.Value, **values: ir.Value
    ) -> Any:
        start, end = ((ints(values[which]) or [0])[0] for which in ("starts", "ends"))
        start, end, _ = slice(start, end).indices(array(b).shape[0])
        name = f"{_name_of(product)}_{start}_{end}"
        part_w = stored(op, array(w)[:, start:end], f"{name}_weight")
        part_b = stored(op, array(b)[start:end], f"{name}_bias")
        return op.Add(op.MatMul(x, part_w, _name=name), part_b, _name=f"{name}_add")


def _is_linear(w: ir.Value, b: ir.Value) -> bool:
    return weight(w, 2) and weight(b, 1) and array(b).shape[0] == w.const_value.shape[1]


def _name_of(product: ir.Value) -> str:
    return str(product.producer().name)
