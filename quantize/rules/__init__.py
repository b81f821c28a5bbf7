"""The rewrites of the quantizer: small, named, each tested to compute the same, each to be switched off.

What ONNX Runtime fuses by itself when it loads a graph is not repeated here: x * sigmoid(x) (as QuickGelu),
GELU by erf, LayerNormalization in parts, Transposes that cancel around 8-bit convolutions. Measured and left
out: SkipLayerNormalization (its CPU kernel is slower than Add and LayerNormalization), GroupNorm in other
forms (no CPU kernel but InstanceNormalization's).
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from edgegen.errors import EdgegenError

from ..rewrites import int8_embeddings, leftovers_as_fp16
from . import affine, attention, clean, linear, shapes
from .rule import Rule, by_patterns

RULES: tuple[Rule, ...] = (
    Rule(
        "known-dims",
        "Dimensions that never change become constants, and what is computed from them is folded.",
        "Other rules can read heads and widths; dozens of nodes less.",
        by_patterns(shapes.KnownDim.rule(), shapes.KnownDims.rule()),
    ),
    Rule(
        "no-ops",
        "Multiplying and dividing by 1, adding 0, Casts to the same type.",
        "Each is a pass over a whole activation: diffusers divides every residual sum by 1.",
        by_patterns(*clean.NO_OPS),
    ),
    Rule(
        "moves",
        "Transposes that undo each other, Reshapes of Reshapes.",
        "Each Transpose is a copy of a whole activation.",
        by_patterns(*clean.MOVES),
    ),
    Rule(
        "one-node-attention",
        "Attention spelled out (split heads, scores, softmax) becomes one MultiHeadAttention.",
        "The kernel never stores all scores: at 4096 tokens and 8 heads they are 537 MB.",
        by_patterns(attention.OneNode.rule()),
    ),
    Rule(
        "sliced-linear",
        "A slice of a layer's result becomes a layer with a slice of its weights (the two halves of GEGLU).",
        "The large result is neither copied nor read twice.",
        by_patterns(*linear.SlicedLinear.rule().commute()),
    ),
    Rule(
        "bias-into-gemm",
        "MatMul with weights and the Add of its bias become one Gemm over rows.",
        "ONNX Runtime adds the bias inside the 8-bit kernel, but only of a Gemm.",
        by_patterns(*linear.BiasIntoGemm.rule().commute()),
    ),
    Rule(
        "affine-into-conv",
        "A norm's scale and offset per channel go into the weights of the 1x1 convolution after it.",
        "Two passes over the activation less.",
        by_patterns(affine.AffineIntoConv.rule()),
    ),
    Rule(
        "affine-in-one-pass",
        "The scale and offset of other group norms become one BatchNormalization.",
        "One pass over the activation less; ONNX Runtime has no GroupNormalization for CPUs.",
        by_patterns(affine.AffineInOnePass.rule()),
    ),
    Rule(
        "int8-embeddings",
        "Embedding tables are stored as 8 bits with a scale for each row.",
        "A quarter of the bytes; only the rows looked up become float.",
        int8_embeddings,
        stage="int8",
    ),
    Rule(
        "fp16-leftovers",
        "Weights that stay float in an 8-bit graph are stored as 16 bits.",
        "Half of their bytes; ONNX Runtime unfolds them when it loads the graph.",
        leftovers_as_fp16,
        stage="int8",
    ),
)


class UnknownRule(EdgegenError, ValueError):
    """A rule was named that there is not."""

    code = "unknown_rule"


def rules_of(stage: str, without: Collection[str] = ()) -> list[Rule]:
    """The rules of a stage in the order in which they apply, without those switched off.

    Raises:
        UnknownRule: `without` names a rule there is not.
    """
    check_names(without)
    return [rule for rule in RULES if rule.stage == stage and rule.name not in without]


def check_names(names: Collection[str]) -> None:
    """Raises UnknownRule for the first name that is none, with the nearest that is."""
    known = [rule.name for rule in RULES]
    for name in names:
        if name not in known:
            near = get_close_matches(name[:100], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UnknownRule(f"there is no rule {name!r}; {hint}")
