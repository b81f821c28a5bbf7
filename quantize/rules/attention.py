"""Attention of graphs that others exported: split heads, scores, softmax and all, as one node.

Fits what PyTorch's tracing and dynamo exporters make of `scaled_dot_product_attention` and of diffusers'
older processors (heads folded into the batch). Attention with a mask is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase

from .rule import MICROSOFT, ints, known_dim, module_of, producer, rank, scalar

_SPLIT = [0, 2, 1, 3]  # (batch, sequence, heads, d) <-> (batch, heads, sequence, d)
_SPLIT_AND_SWAP = [0, 2, 3, 1]  # the same with keys lying down: (batch, heads, d, sequence)
_SWAPS = ([0, 1, 3, 2], [0, 2, 1])


@dataclass(frozen=True)
class Heads:
    """What one input of the score or value product was made of.

    Attributes:
        packed: (batch, sequence, heads * d), before the heads were split.
        scale: what it was multiplied with on the way.
        swapped: whether the last two axes were swapped.
    """

    packed: ir.Value
    heads: int
    scale: float
    swapped: bool


@dataclass(frozen=True)
class FoundAttention:
    """The attention that ends in one value."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    heads: int
    scale: float
    module: str


class OneNode(RewriteRuleClassBase):
    """Reshape(Transpose(heads)) -> MultiHeadAttention, where the heads are attention's result."""

    def pattern(self, op: Any, heads: Any, shape: Any) -> Any:
        merged = op.Transpose(heads, perm=_SPLIT)
        return op.Reshape(merged, shape, _allow_other_attributes=True, _outputs=["packed"])

    def check(self, _context: Any, heads: ir.Value, packed: ir.Value, **_: Any) -> bool:
        found = find_attention(heads)
        return found is not None and rank(packed) == 3

    def rewrite(self, op: Any, heads: ir.Value, **_: Any) -> Any:
        found = find_attention(heads)
        assert found is not None
        return op.MultiHeadAttention(
            found.q,
            found.k,
            found.v,
            num_heads=found.heads,
            scale=found.scale,
            _domain=MICROSOFT,
            _name=f"{found.module}/MultiHeadAttention",
        )


def find_attention(mixed: ir.Value) -> FoundAttention | None:
    """What a value (batch, heads, sequence, d) is the attention of; None when it is something else."""
    if unfold := producer(mixed, "Reshape"):
        mixed = unfold.inputs[0]
    mix = producer(mixed, "MatMul")
    softmax = producer(mix.inputs[0], "Softmax") if mix else None
    if mix is None or softmax is None or softmax.attributes.get_int("axis", -1) not in (-1, 2, 3):
        return None
    if softmax.attributes.get_int("axis", -1) not in (-1, (rank(softmax.inputs[0]) or 0) - 1):
        return None
    scores, scale = _unscaled(softmax.inputs[0])
    product = producer(scores, "MatMul")
    if product is None:
        return None
    q, k, v = (_heads_of(x) for x in (*product.inputs, mix.inputs[1]))
    if q is None or k is None or v is None or q.swapped or v.swapped or not k.swapped or v.scale != 1:
        return None
    if not q.heads == k.heads == v.heads:
        return None
    return FoundAttention(
        q.packed, k.packed, v.packed, q.heads, scale * q.scale * k.scale, module_of(softmax)
    )


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """A value before it was multiplied with constants (or had nothing added), and their product."""
    scale = 1.0
    while node := producer(value, "Mul", "Div", "Add"):
        a, b = node.inputs
        if node.op_type == "Add":
            if not (_is_nothing(a) or _is_nothing(b)):
                break
            value = b if _is_nothing(a) else a
        elif (factor := scalar(b)) is not None:
            value, scale = a, scale * factor if node.op_type == "Mul" else scale / factor
        elif node.op_type == "Mul" and (factor := scalar(a)) is not None:
            value, scale = b, scale * factor
        else:
            break
    return value, scale


def _is_nothing(value: ir.Value | None) -> bool:
    """Zero: as a constant, or as something times zero (what `baddbmm` with beta 0 leaves)."""
    node = producer(value, "Mul")
    return scalar(value) == 0 or (node is not None and any(scalar(x) == 0 for x in node.inputs))


def _heads_of(value: ir.Value | None) -> Heads | None:
    """Walk back to where the heads were split, through scales, swaps and heads folded into the batch."""
    scale, swapped, split = 1.0, False, False
    while value is not None:
        value, factor = _unscaled(value)
        scale *= factor
        node = producer(value, "Transpose", "Reshape")
        if node is None:
            return None
        if node.op_type == "Reshape":
            heads = _split_into(node)
            if heads and split:
                return Heads(node.inputs[0], heads, scale, swapped)
            if not _folds(node):
                return None
        else:
            perm = list(node.attributes.get_ints("perm", []))
            if perm not in (_SPLIT, _SPLIT_AND_SWAP, *_SWAPS) or (split and perm not in _SWAPS):
                return None
            split = split or perm in (_SPLIT, _SPLIT_AND_SWAP)
            swapped ^= perm != _SPLIT
        value = node.inputs[0]
    return None


def _split_into(reshape: ir.Node) -> int | None:
    """Heads of a Reshape (batch, sequence, heads * d) -> (batch, sequence, heads, d); None of any other."""
    before, after = reshape.inputs[0], reshape.outputs[0]
    if rank(before) != 3 or rank(after) != 4:
        return None
    heads, size = known_dim(after, 2), known_dim(after, 3)
    return heads if heads and size and known_dim(before, 2) == heads * size else None


def _folds(reshape: ir.Node) -> bool:
    """Whether a Reshape only folds batch and heads into one axis, or unfolds them."""
    before, after = reshape.inputs[0], reshape.outputs[0]
    if {rank(before), rank(after)} != {3, 4}:
        return False
    kept = [(known_dim(before, axis), known_dim(after, axis)) for axis in (-1, -2)]
    target = ints(reshape.inputs[1])
    if target is not None and len(target) == 2:
        return False
    return all(a == b for a, b in kept) and any(a is not None for a, _ in kept)
