"""What a graph costs alone: seconds a run, seconds to load, peak memory; each in a process of its own.

`python -m quantize.report.cost GRAPH RECORDS THREADS WHAT` is that process: ONNX Runtime and numpy, nothing
else. As the graph is loaded there, it also tells how far it is from what float32 gave for the same inputs
(WHAT `drift`; else `cost`).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from edgegen.errors import EngineError

from ..calibrate import Records
from ..drift import GraphDrift, drift_of
from ..measure import peak_bytes
from ..runner import Feeds, open_session
from .data import CostPair, GraphCost, Machine

BUDGET_S = 2.0  # of runs after which no other begins: one of a large UNet, many of a small one
MOST_RUNS = 20
TIMEOUT_S = 3600.0
COST, DRIFT = "cost", "drift"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measured:
    """What was found of one role's graphs; drift of the pack's."""

    costs: CostPair
    drift: GraphDrift


def measure_costs(
    references: Mapping[str, Path],
    graphs: Mapping[str, Path],
    records: Mapping[str, Records],
    rounds: int = 1,
    threads: int = 0,
) -> dict[str, Measured]:
    """Role -> cost of the float32 graph and of the pack's and how far that is from float32's, for every role
    with a recorded input.

    Args:
        rounds: processes for each graph, float32 and the pack's in turns: on a machine that also does other
            things several of them are fair to both. The first one tells the drift.
    Raises:
        EngineError: a process failed; carries the end of what it said.
    """
    found = {}
    for role in graphs:
        if not records.get(role):
            continue
        wanted, drift = list[GraphCost](), None
        got = list[GraphCost]()
        for _ in range(rounds):
            wanted.append(measure_cost(references[role], records[role], threads)[0])
            cost, told = measure_cost(graphs[role], records[role], threads, with_drift=drift is None)
            got, drift = [*got, cost], drift or told
        assert drift is not None, "at least one round"
        found[role] = Measured(CostPair(reference=median_cost(wanted), pack=median_cost(got)), drift)
    return found


def median_cost(costs: Sequence[GraphCost]) -> GraphCost:
    """Median times and the largest memory of several processes with one graph."""
    return GraphCost(
        seconds=statistics.median(cost.seconds for cost in costs),
        load_s=statistics.median(cost.load_s for cost in costs),
        peak_mb=max(cost.peak_mb for cost in costs),
        base_mb=max(cost.base_mb for cost in costs),
        runs=sum(cost.runs for cost in costs),
        bytes=costs[0].bytes,
    )


def measure_cost(
    graph: Path, records: Records, threads: int = 0, with_drift: bool = False
) -> tuple[GraphCost, GraphDrift | None]:
    """One graph in a new process, by the first of its records, its drift by all. Raises EngineError."""
    command = [sys.executable, "-m", "quantize.report.cost", str(graph.absolute()), records.as_text()]
    command += [str(threads), DRIFT if with_drift else COST]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise EngineError(f"measuring {graph} took more than {TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise EngineError(f"measuring {graph} failed: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return GraphCost.model_validate(found[COST]), GraphDrift.of_json(found[DRIFT]) if with_drift else None


def this_machine(threads: int = 0) -> Machine:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpu=_cpu_name(), cores=cores, threads=threads, onnxruntime=onnxruntime.__version__)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    rows = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    named = [row.partition(":")[2].strip() for row in rows if row.startswith(("model name", "Model"))]
    return ", ".join([*named[:1], platform.machine()])


class _Timed:
    """A graph with seconds to load and of its first runs."""

    def __init__(self, graph: Path, feeds: Feeds, threads: int):
        start = time.perf_counter()
        self._session = open_session(graph, threads)
        self.load_s, self.runs = time.perf_counter() - start, list[float]()
        while not self.runs or (sum(self.runs) < BUDGET_S and len(self.runs) < MOST_RUNS):
            start = time.perf_counter()
            self._first = self._session.run(None, feeds)[0]
            self.runs.append(time.perf_counter() - start)

    def drift(self, records: Records) -> GraphDrift:
        """By all records; what the first of them gave is known."""
        known = [self._first]
        return drift_of(lambda feed: known.pop() if known else self._session.run(None, feed)[0], records)


def main() -> None:
    """Load, run, print a `GraphCost` and perhaps a `GraphDrift` as one line of JSON."""
    graph, records, threads = Path(sys.argv[1]), Records.of_text(sys.argv[2]), int(sys.argv[3])
    feeds, base = records[0], peak_bytes()
    timed = _Timed(graph, feeds, threads)
    warm = timed.runs[1:] or timed.runs
    cost = {
        "seconds": float(f"{statistics.median(warm):.4g}"),
        "load_s": round(timed.load_s, 3),
        "peak_mb": round(peak_bytes() / 1e6),
        "base_mb": round(base / 1e6),
        "runs": len(warm),
        "bytes": sum(path.stat().st_size for path in graph.parent.iterdir()),
    }
    drift = {DRIFT: timed.drift(records).as_json()} if sys.argv[4] == DRIFT else {}
    print(json.dumps({COST: cost, **drift}))


if __name__ == "__main__":
    main()
