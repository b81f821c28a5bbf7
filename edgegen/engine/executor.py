"""Runs a checked workflow, as a generator: progress, preview and cancel belong to whoever iterates."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from ..diffusion.sampler import SamplerState
from ..errors import BadRequest, OutOfMemory, Problem
from ..pack import Manifest
from ..workflow import BadWorkflow, CheckedNode, CheckedWorkflow, Link, NodeProblem
from ..workflow.declare import PLAIN, Input, Unfit
from .nodes import NODES, SPECS, Shown
from .nodes.guiders import Guider
from .stages import Stages
from .workbench import Workbench

CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class NodeProgress:
    """Before a node's work (step 0), and after each step of one that samples.

    Attributes:
        index, count: which of the nodes that run it is, 1 to count.
        steps: 0 for nodes that make none.
        denoised: (b, c, h, w) float32, the picture's latents as predicted in this step; None before.
        all_done, all_steps: the same of all nodes of the run; those of nodes to come are as planned.
        manifest: of the pack that samples; None for other nodes.
        key: what the node's result depends on, hashed. state: where it may go on from; None before.
    """

    node_id: str
    class_type: str
    index: int
    count: int
    step: int = 0
    steps: int = 0
    denoised: np.ndarray | None = None
    all_done: int = 0
    all_steps: int = 0
    manifest: Manifest | None = None
    key: str = ""
    state: SamplerState | None = None


@dataclass(frozen=True)
class NodePictures:
    """What an output node shows: (h, w, 3) uint8 pictures; `prefix` None: only a preview."""

    node_id: str
    shown: Shown


class Executor:
    """Runs workflows one after the other; nodes that did not change since are not run again.

    Args:
        cache_bytes: how much of earlier results is kept; the longest unused go first.
    """

    def __init__(self, bench: Workbench, cache_bytes: int = CACHE_BYTES):
        self._bench = bench
        self._cache = _Cache(cache_bytes)

    def run(
        self, workflow: CheckedWorkflow, resume: Mapping[str, SamplerState] | None = None
    ) -> Generator[NodeProgress | NodePictures, None, None]:
        """Run what the outputs need. Close the iterator to cancel between two steps.

        Args:
            resume: by `NodeProgress.key`, where the samplers of a run that was cut off were.
        Raises:
            BadWorkflow: an input turned out wrong, as a prompt with too many tokens; names the node.
            OutOfMemory, EngineError, PackError: as text-to-image.
        """
        keys = content_keys(workflow, self._bench)
        known = {node_id: found for node_id, key in keys.items() if (found := self._cache.get(key))}
        todo = _unknown_nodes(workflow, known)
        waiting = Counter(link.node for node in todo for link in _links(node))
        live = {node_id: known[node_id] for node_id in waiting if node_id in known}
        known.clear()
        states = {node.id: state for node in todo if (state := (resume or {}).get(keys[node.id]))}
        tally = _Tally({node.id: _planned_steps(node) for node in todo})
        tally.done = {node_id: state.index for node_id, state in states.items()}
        for index, node in enumerate(todo, start=1):
            begun = NodeProgress(node.id, node.class_type, index, len(todo), key=keys[node.id])
            yield tally.told(begun)
            inputs = self._fitted(node, _filled(node, live))
            outputs = yield from self._work(node, inputs, begun, tally, states.get(node.id))
            if node.id in workflow.outputs:
                yield NodePictures(node.id, outputs[0])
            else:
                self._cache.put(keys[node.id], outputs)
                live[node.id] = outputs
            del outputs
            _free(node, waiting, live)

    def close(self) -> None:
        """Forget all results; safe to call twice."""
        self._cache.clear()

    def _fitted(self, node: CheckedNode, inputs: dict[str, Any]) -> dict[str, Any]:
        """Plain values that other nodes worked out, checked as written ones were. Raises BadWorkflow."""
        declared = SPECS[node.class_type].inputs
        told = [
            name
            for name, value in node.inputs.items()
            if isinstance(value, Link) and declared[name].kind in PLAIN
        ]
        if not told:
            return inputs
        fitted = inputs | {name: _fit(node, name, declared[name], inputs[name]) for name in told}
        plain = {name: value for name, value in fitted.items() if declared[name].kind in PLAIN}
        for name, message in NODES[node.class_type].check(self._bench, plain):
            raise _at_node(node, BadRequest([Problem(name, plain.get(name), message)]))
        return fitted

    def _work(
        self,
        node: CheckedNode,
        inputs: dict[str, Any],
        begun: NodeProgress,
        tally: _Tally,
        resume: SamplerState | None,
    ) -> Generator[NodeProgress, None, tuple[Any, ...]]:
        try:
            work = NODES[node.class_type].work(
                self._bench, **inputs, **({"resume": resume} if resume else {})
            )
            with closing(work):
                while True:
                    step = next(work)
                    tally.note(node.id, step.index, step.total)
                    now = replace(
                        begun, step=step.index, steps=step.total, denoised=step.denoised, state=step.state
                    )
                    if (stages := _stages(inputs)) is not None:
                        now = replace(now, manifest=stages.pack.manifest)
                    yield tally.told(now)
        except StopIteration as done:
            outputs: tuple[Any, ...] = done.value
            return outputs
        except BadRequest as err:
            raise _at_node(node, err) from err
        except MemoryError as err:
            raise OutOfMemory(
                f"node {node.id} ({node.class_type}): not enough memory: lower width, height and "
                "batch_size, take a smaller pack or free memory on this machine"
            ) from err


def _stages(inputs: Mapping[str, Any]) -> Stages | None:
    """The pack that a node works with, its own or its guider's."""
    guider = inputs.get("guider")
    stages = guider.stages if isinstance(guider, Guider) else inputs.get("model")
    return stages if isinstance(stages, Stages) else None


@dataclass
class _Tally:
    """How far the samplers of a run are: steps planned and done, by node."""

    planned: dict[str, int]
    done: dict[str, int] = field(default_factory=dict)

    def note(self, node_id: str, step: int, steps: int) -> None:
        self.planned[node_id], self.done[node_id] = steps, step

    def told(self, progress: NodeProgress) -> NodeProgress:
        done, planned = sum(self.done.values()), sum(self.planned.values())
        return replace(progress, all_done=done, all_steps=max(done, planned))


def _planned_steps(node: CheckedNode) -> int:
    values = {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}
    try:
        return NODES[node.class_type].planned_steps(values)
    except KeyError:  # an input that another node computes
        return 0


def content_keys(workflow: CheckedWorkflow, bench: Workbench) -> dict[str, str]:
    """For each node the SHA-256 of all that its result depends on: class, values, files and its ancestors."""
    keys: dict[str, str] = {}
    for node in workflow.nodes.values():
        values = {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}
        links = {
            name: [keys[link.node], link.slot] for name, link in node.inputs.items() if isinstance(link, Link)
        }
        try:
            more = NODES[node.class_type].fingerprint(bench, values)
        except BadRequest as err:  # a file that was there when the workflow was checked
            raise _at_node(node, err) from err
        text = json.dumps([node.class_type, values, links, more], sort_keys=True)
        keys[node.id] = hashlib.sha256(text.encode()).hexdigest()
    return keys


def _unknown_nodes(workflow: CheckedWorkflow, known: Mapping[str, Any]) -> list[CheckedNode]:
    """The outputs and what they need, in order; what lies behind a known result is not needed."""
    needed: set[str] = set()
    waiting = list(workflow.outputs)
    while waiting:
        node_id = waiting.pop()
        if node_id not in needed and node_id not in known:
            needed.add(node_id)
            waiting += [link.node for link in _links(workflow.nodes[node_id])]
    return [node for node in workflow.nodes.values() if node.id in needed]


def _links(node: CheckedNode) -> Iterable[Link]:
    return (value for value in node.inputs.values() if isinstance(value, Link))


def _filled(node: CheckedNode, live: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    return {
        name: live[value.node][value.slot] if isinstance(value, Link) else value
        for name, value in node.inputs.items()
    }


def _fit(node: CheckedNode, name: str, declared: Input, value: Any) -> Any:
    """Raises BadWorkflow: the input refuses the value."""
    try:
        return declared.fit(value)
    except Unfit as err:
        raise BadWorkflow([NodeProblem(err.kind, node.id, node.class_type, name, value, str(err))]) from err


def _free(node: CheckedNode, waiting: Counter[str], live: dict[str, tuple[Any, ...]]) -> None:
    """Let go of results that no node waits for any more."""
    for link in _links(node):
        waiting[link.node] -= 1
        if not waiting[link.node]:
            live.pop(link.node, None)


def _at_node(node: CheckedNode, err: BadRequest) -> BadWorkflow:
    if isinstance(err, BadWorkflow):
        return err
    kind = "custom_validation_failed"
    return BadWorkflow(
        [NodeProblem(kind, node.id, node.class_type, p.field, p.value, p.message) for p in err.problems]
    )


class _Cache:
    """Results by content key, the longest unused first to go."""

    def __init__(self, most_bytes: int):
        self._most_bytes = most_bytes
        self._results: OrderedDict[str, tuple[Any, ...]] = OrderedDict()

    def get(self, key: str) -> tuple[Any, ...] | None:
        if key in self._results:
            self._results.move_to_end(key)
        return self._results.get(key)

    def put(self, key: str, outputs: tuple[Any, ...]) -> None:
        self._results[key] = outputs
        while sum(map(_bytes_of, self._results.values())) > self._most_bytes:
            self._results.popitem(last=False)

    def clear(self) -> None:
        self._results.clear()


def _bytes_of(value: Any) -> int:
    """The bytes of all arrays in it; a pack's graphs are not a result's."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, tuple | list):
        return sum(map(_bytes_of, value))
    if is_dataclass(value) and not isinstance(value, type | Stages):
        return sum(_bytes_of(getattr(value, field.name)) for field in fields(value))
    return 0
