"""Work that changes nothing, by onnxscript's own rules."""

from __future__ import annotations

from onnxscript.rewriter.rules.common import _basic_rules as basic
from onnxscript.rewriter.rules.common import _no_op as no_op

# Dropout is left out: what is exported for inference has none. Cast(Cast(x)) is left out: it may round.
NO_OPS = [
    *no_op.mul_by_1_rule.commute(),
    *no_op.add_0_rule.commute(),
    no_op.sub_0_rule,
    no_op.div_by_1_rule,
    basic.no_op_cast_rule,
]
MOVES = [basic.no_op_transpose_rule, basic.transpose_transpose_rule, basic.reshape_reshape_rule]
