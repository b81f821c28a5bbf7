"""The gated linear unit of a transformer's feed-forward layer (Shazeer, https://arxiv.org/abs/2002.05202).

In INT8 graphs that is QuantizeLinear(Gemm(x) * GELU(Gemm(x))). Ours makes the bytes of the result at once,
where ONNX Runtime writes two float tensors of four times as many bytes, changes them and reads them again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .graph import FLOAT, INT8, INT32, UINT8, Graph, Node, Tensor, make_node

OPERATOR = "GEGLU"
GATE = "Erf"
DEPTH_DIVISOR, WIDTH_DIVISOR, MOST_DEPTH = 4, 32, 1 << 16  # as in native/geglu.c
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Product:
    """A Gemm of bytes. `x`: those, scale and zero point. `weights`: those, their scales, the bias."""

    x: tuple[str, ...]
    weights: tuple[str, ...]
    sides: tuple[int, int]


@dataclass(frozen=True)
class _Unit:
    """A gated linear unit. `shapes`: nodes that ask for the shape of its result, which is `shape`."""

    value: _Product
    gate: _Product
    quantize: Node
    shapes: list[Node]
    shape: str


def take_geglu(graph: Graph) -> None:
    """Turn over every gated linear unit whose products, and what becomes of them, are in 8 bits."""
    for node in graph.nodes:
        if node.operator == GATE and (unit := _find(graph, node)):
            inputs = [*unit.value.x, *unit.value.weights, *unit.gate.weights, *unit.quantize.inputs[1:]]
            graph.replace(unit.quantize, make_node(OPERATOR, inputs, unit.quantize.outputs))
            for asking in unit.shapes:
                graph.replace(asking, make_node("Identity", [unit.shape], asking.outputs, domain=""))


def _find(graph: Graph, erf: Node) -> _Unit | None:
    """The unit around an error function."""
    gate = _divided(graph, erf, math.sqrt(2))
    value, result = _gated(graph, erf, gate) if gate else ("", "")
    first, second = _product(graph, value), _product(graph, gate)
    takers = graph.takers(result)
    shapes = [node for node in takers if node.operator == "Shape" and not node.attributes]
    others = [node for node in takers if node not in shapes]
    quantize = _past_rows(graph, others[0], first.sides[1]) if first and len(others) == 1 else None
    shape = _shape_of(graph, value)
    if not (first and second and quantize and _fit(graph, first, second, quantize)) or (shapes and not shape):
        return None
    return _Unit(first, second, quantize, shapes, shape)


def _gated(graph: Graph, erf: Node, gate: str) -> tuple[str, str]:
    """What is multiplied with GELU(gate) = gate * (1 + erf) * 0.5, and the product; "" when nothing is."""
    name = other = erf.outputs[0]
    for operator, wanted in (("Add", 1.0), ("Mul", gate), ("Mul", 0.5), ("Mul", None)):
        node = graph.only_taker(name)
        if node is None or node.operator != operator:
            return "", ""
        other = next((given for given in node.inputs if given != name), "")
        if not (wanted is None or other == wanted or _is_constant(graph, other, wanted)):
            return "", ""
        name = node.outputs[0]
    return other, name


def _past_rows(graph: Graph, node: Node, width: int) -> Node | None:
    """What takes the result once it is rows of that width, as ours is."""
    shape = graph.tensor(node.inputs[1]) if node.operator == "Reshape" else None
    return graph.only_taker(node.outputs[0]) if shape and shape.whole_numbers == (-1, width) else None


def _shape_of(graph: Graph, name: str) -> str:
    """The name of a value's shape, where it was put together of sides that are known; else ""."""
    reshape = graph.maker(name)
    made = graph.maker(reshape.inputs[1]) if reshape and reshape.operator == "Reshape" else None
    if made is None or made.operator != "Concat" or not all(_are_sides(graph, part) for part in made.inputs):
        return ""
    return made.outputs[0]


def _are_sides(graph: Graph, name: str) -> bool:
    """Sides of a tensor, or constants that are none of Reshape's signs (0: as before, -1: what is left)."""
    tensor, made = graph.tensor(name), graph.maker(name)
    if tensor is not None:
        return min(tensor.whole_numbers, default=0) > 0
    while made and made.operator in ("Slice", "Gather", "Unsqueeze"):
        made = graph.maker(made.inputs[0])
    return made is not None and made.operator == "Shape"


def _divided(graph: Graph, node: Node, divisor: float) -> str:
    """What is divided to be the node's input; "" where it is not."""
    made = graph.maker(node.inputs[0])
    if made is None or made.operator != "Div" or not _is_constant(graph, made.inputs[1], divisor):
        return ""
    return made.inputs[0]


def _is_constant(graph: Graph, name: str, value: float | str) -> bool:
    tensor = graph.tensor(name)
    found = tensor.scalar if tensor else None
    return found is not None and not isinstance(value, str) and math.isclose(found, value, rel_tol=_TOLERANCE)


def _product(graph: Graph, name: str) -> _Product | None:
    """The Gemm of bytes that makes this value."""
    node = graph.maker(name)
    while node and node.operator == "Reshape":
        node = graph.maker(node.inputs[0])
    if node is None or node.operator != "Gemm" or len(node.inputs) != 3 or not _is_plain(node):
        return None
    x, w, bias = (graph.maker(name) for name in node.inputs)
    if not (x and w and bias and all(n.operator == "DequantizeLinear" for n in (x, w, bias))):
        return None
    sides = _weight_sides(graph, w)
    tensor = graph.tensor(bias.inputs[0])
    if sides is None or len(x.inputs) != 3 or tensor is None or tensor.type != INT32:
        return None
    return _Product(x.inputs, (*w.inputs[:2], bias.inputs[0]), sides)


def _is_plain(gemm: Node) -> bool:
    """Neither scaled nor transposed."""
    found = gemm.attributes
    is_scaled = found.get("alpha", 1) != 1 or found.get("beta", 1) != 1
    return not (is_scaled or found.get("transA") or found.get("transB"))


def _weight_sides(graph: Graph, dequantize: Node) -> tuple[int, int] | None:
    """(depth, width) of weights in signed bytes around 0, with a scale for each column; None: of others."""
    weights, scales = (graph.tensor(name) for name in dequantize.inputs[:2])
    if weights is None or scales is None or weights.type != INT8 or len(weights.sides) != 2:
        return None
    depth, width = (int(side) for side in weights.sides)
    if (scales.type, scales.sides) != (FLOAT, [width]) or dequantize.attributes.get("axis", 1) not in (1, -1):
        return None
    if any(not _is_zero(graph, name) for name in dequantize.inputs[2:]):
        return None
    is_whole = depth % DEPTH_DIVISOR == width % WIDTH_DIVISOR == 0
    return (depth, width) if is_whole and 0 < depth <= MOST_DEPTH and width > 0 else None


def _is_zero(graph: Graph, name: str) -> bool:
    tensor = graph.tensor(name)
    return tensor is not None and tensor.raw is not None and not any(tensor.raw)


def _fit(graph: Graph, first: _Product, second: _Product, quantize: Node) -> bool:
    """Whether both take the same bytes, and levels are unsigned with one scale."""
    if quantize.operator != "QuantizeLinear" or len(quantize.inputs) != 3:
        return False
    if first.x != second.x or first.sides != second.sides:
        return False
    points = [graph.tensor(name) for name in (first.x[2], quantize.inputs[2])]
    scales = [graph.tensor(name) for name in (first.x[1], quantize.inputs[1])]
    return all(map(_is_scalar, points, (UINT8, UINT8))) and all(map(_is_scalar, scales, (FLOAT, FLOAT)))


def _is_scalar(tensor: Tensor | None, kind: int) -> bool:
    return tensor is not None and tensor.type == kind and not tensor.sides
