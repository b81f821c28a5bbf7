"""Which nodes a workflow needs, and in which order they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .parse import GraphNode, Link


def sources(node: GraphNode) -> Iterator[tuple[str, Link]]:
    """(input's name, link) for every linked input."""
    for name, value in node.inputs.items():
        if isinstance(value, Link):
            yield name, value


def needed_by(nodes: Mapping[str, GraphNode], outputs: Iterable[str]) -> set[str]:
    """The ids of the outputs and of all that they depend on; links to nowhere are passed over."""
    found: set[str] = set()
    waiting = [node_id for node_id in outputs if node_id in nodes]
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting += [link.node for _, link in sources(nodes[node_id]) if link.node in nodes]
    return found


def run_order(nodes: Mapping[str, GraphNode], needed: Iterable[str]) -> tuple[list[str], list[str]]:
    """Every node after those it needs, otherwise in the workflow's own order (Kahn 1962).

    Returns:
        (ids in order, ids that lie on a cycle or behind one).
    """
    wanted = set(needed)
    waits = {
        node_id: {link.node for _, link in sources(nodes[node_id]) if link.node in wanted}
        for node_id in nodes
        if node_id in wanted
    }
    order: list[str] = []
    while ready := [node_id for node_id, missing in waits.items() if not missing]:
        order += ready
        for node_id in ready:
            del waits[node_id]
        for missing in waits.values():
            missing.difference_update(ready)
    return order, list(waits)


def cycle_in(nodes: Mapping[str, GraphNode], stuck: list[str]) -> list[str]:
    """One cycle among nodes that `run_order` left over: a, b, ..., each fed by the next, the last by a."""
    left = set(stuck)
    path, at = [], stuck[0]
    while at not in path:
        path.append(at)
        at = next(link.node for _, link in sources(nodes[at]) if link.node in left)
    return path[path.index(at) :]
