"""Applying the rules to a float graph, with shapes known and constants folded in between."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer

from ..graphs import INLINE_BELOW, annotate_types
from . import rules_of
from .rule import Rule

ROUNDS = 8  # a shape found makes others known; deeper chains do not occur


def tune(model: ir.Model, without: Collection[str] = ()) -> dict[str, int]:
    """Fold constants and apply every rule of the stage `float`; weights stay where they are.

    Args:
        model: changed in place.
        without: names of rules to leave out.
    Returns:
        Rule -> how often it fired, for those that did.
    Raises:
        UnknownRule: `without` names a rule there is not.
    """
    rules = rules_of("float", without)
    simplify(model)
    annotate(model)
    fired = {rule.name: _until_quiet(rule, model) for rule in rules}
    return {name: count for name, count in fired.items() if count}


def _until_quiet(rule: Rule, model: ir.Model) -> int:
    total = 0
    for _ in range(ROUNDS):
        found = rule.apply(model)
        if not found:
            break
        total += found
        simplify(model)
        annotate(model)
    return total


def simplify(model: ir.Model) -> None:
    """Fold constants, merge what is computed twice, drop what is not used.

    onnxscript's whole optimizer does no more for these graphs, and takes most of its time looking for it.
    """
    onnxscript.optimizer.fold_constants(model)
    for clean in (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
    ):
        clean(model)


def annotate(model: ir.Model) -> None:
    """Note shapes and types of all values, as far as they can be inferred without reading the weights."""
    with _weights_set_aside(model):
        proto = ir.to_proto(model)
    inferred = {info.name: info for info in annotate_types(proto).graph.value_info}
    for node in model.graph:
        for value in node.outputs:
            if value.name in inferred and not value.is_graph_output():
                value.shape = None
                ir.serde.deserialize_value_info_proto(inferred[value.name], value)


@contextlib.contextmanager
def _weights_set_aside(model: ir.Model) -> Iterator[None]:
    """Weights as references to no file while the block runs: inference needs their shapes only."""
    kept = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= INLINE_BELOW:
            kept[value] = tensor
            value.const_value = ir.ExternalTensor(
                "aside", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=str(value.name)
            )
    try:
        yield
    finally:
        for value, tensor in kept.items():
            value.const_value = tensor
