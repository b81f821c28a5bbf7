"""Attention: `com.microsoft:MultiHeadAttention` of three inputs, with no mask, no bias and no cache.

Ours takes 16-bit integers in place of floats, of which processors with VNNI multiply twice as many in the
same time. What that rounds off is far less than what layers in 8 bits do."""

from __future__ import annotations

from .graph import DOMAIN, STOCK_DOMAIN, Graph, Node

OPERATOR = "MultiHeadAttention"


def take_attention(graph: Graph) -> None:
    """Turn over every attention that our operator can compute."""
    for node in graph.nodes:
        if _is_computable(node):
            graph.replace(node, node.moved_to(DOMAIN))


def _is_computable(node: Node) -> bool:
    if (node.domain, node.operator) != (STOCK_DOMAIN, OPERATOR):
        return False
    is_plain = len(node.inputs) == 3 and all(node.inputs) and len(node.outputs) == 1
    return is_plain and not node.attributes.get("unidirectional")
