"""A norm's scale and offset per channel: into the convolution that reads them, else in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from .rule import array, rank, stored, weight


class AffineIntoConv(RewriteRuleClassBase):
    """Conv(x * scale + offset) -> Conv with scaled weights, for 1x1 kernels without padding."""

    def pattern(self, op: Any, x: Any, scale: Any, offset: Any, w: Any, b: Any) -> Any:
        moved = op.Add(op.Mul(x, scale), offset)
        return op.Conv(moved, w, b, _allow_other_attributes=True, _outputs=["result"])

    def check(self, _context: Any, result: ir.Value, w: ir.Value, b: ir.Value, **values: ir.Value) -> bool:
        if not weight(w, 4) or not weight(b, 1) or list(array(w).shape[2:]) != [1, 1]:
            return False
        conv = result.producer()
        plain = conv is not None and conv.attributes.get_int("group", 1) == 1
        pads = conv.attributes.get_ints("pads", []) if conv is not None else [1]
        return plain and not any(pads) and _per_channel(array(w).shape[1], values["scale"], values["offset"])

    def rewrite(self, op: Any, x: ir.Value, result: ir.Value, **values: ir.Value) -> Any:
        w, b, scale, offset = (array(values[name]) for name in ("w", "b", "scale", "offset"))
        conv = result.producer()
        assert conv is not None
        scaled = stored(op, w * scale[None], f"{conv.name}_scaled_weight")
        moved = stored(op, b + w[:, :, 0, 0] @ offset.reshape(-1), f"{conv.name}_moved_bias")
        strides = conv.attributes.get_ints("strides", [1, 1])
        return op.Conv(x, scaled, moved, kernel_shape=[1, 1], strides=list(strides), _name=conv.name)


class AffineInOnePass(RewriteRuleClassBase):
    """x * scale + offset -> BatchNormalization with mean 0 and variance 1."""

    def pattern(self, op: Any, x: Any, scale: Any, offset: Any) -> Any:
        return op.Add(op.Mul(x, scale, _outputs=["scaled"]), offset)

    def check(self, _context: Any, x: ir.Value, scale: ir.Value, offset: ir.Value, **_: Any) -> bool:
        return rank(x) == 4 and weight(scale, 3) and _per_channel(array(scale).shape[0], scale, offset)

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, offset: ir.Value, scaled: ir.Value) -> Any:
        name = str(scaled.producer().name)
        columns = array(scale).reshape(-1), array(offset).reshape(-1)
        one = np.ones_like(columns[0])
        parts = zip(("scale", "offset", "mean", "variance"), (*columns, 0 * one, one), strict=True)
        weights = [stored(op, values, f"{name}_{what}") for what, values in parts]
        return op.BatchNormalization(x, *weights, epsilon=0.0, _name=f"{name}_and_Add")


def _per_channel(channels: int, *values: ir.Value) -> bool:
    return all(weight(value, 3) and list(array(value).shape) == [channels, 1, 1] for value in values)
