"""What a graph costs alone: seconds a run, seconds to load, peak memory; each in a process of its own.

`python -m quantize.report.cost GRAPH FEEDS THREADS` is that process: ONNX Runtime and numpy, nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from edgegen.errors import EngineError

from ..calibrate import Records
from ..measure import peak_bytes
from ..runner import Feeds, open_session
from .data import CostPair, GraphCost, Machine

BUDGET_S = 2.0  # of runs after which no other begins: one of a large UNet, many of a small one
MOST_RUNS = 20
TIMEOUT_S = 3600.0
ROOT = Path(__file__).parents[2]


def measure_costs(
    references: Mapping[str, Path],
    graphs: Mapping[str, Path],
    records: Mapping[str, Records],
    rounds: int = 1,
    threads: int = 0,
) -> dict[str, CostPair]:
    """Role -> cost of the float32 graph and of the pack's, for every role with a recorded input.

    Args:
        rounds: processes for each graph, float32 and the pack's in turns: on a machine that also does other
            things several of them are fair to both.
    Raises:
        EngineError: a process failed; carries the end of what it said.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="edgegen-cost-") as name:
        feeds = Path(name) / "feeds.npz"
        for role in graphs:
            if not records.get(role):
                continue
            np.savez(feeds, **records[role][0])
            turns = [paths[role] for _ in range(rounds) for paths in (references, graphs)]
            costs = [measure_cost(path, feeds, threads) for path in turns]
            found[role] = CostPair(reference=median_cost(costs[::2]), pack=median_cost(costs[1::2]))
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


def measure_cost(graph: Path, feeds: Path, threads: int = 0) -> GraphCost:
    """One graph, run in a new process on the inputs of an .npz file. Raises EngineError."""
    command = [sys.executable, "-m", "quantize.report.cost", str(graph.absolute()), str(feeds), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise EngineError(f"measuring {graph} took more than {TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise EngineError(f"measuring {graph} failed: {done.stderr.strip()[-500:]}")
    return GraphCost.model_validate_json(done.stdout.splitlines()[-1])


def this_machine(threads: int = 0) -> Machine:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpu=_cpu_name(), cores=cores, threads=threads, onnxruntime=onnxruntime.__version__)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    rows = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    named = [row.partition(":")[2].strip() for row in rows if row.startswith(("model name", "Model"))]
    return ", ".join([*named[:1], platform.machine()])


def _run_seconds(graph: Path, feeds: Feeds, threads: int) -> tuple[float, list[float]]:
    start = time.perf_counter()
    session = open_session(graph, threads)
    load_s, runs = time.perf_counter() - start, list[float]()
    while not runs or (sum(runs) < BUDGET_S and len(runs) < MOST_RUNS):
        start = time.perf_counter()
        session.run(None, feeds)
        runs.append(time.perf_counter() - start)
    return load_s, runs


def main() -> None:
    """Load, run, print a `GraphCost` as one line of JSON."""
    graph, path, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with np.load(path, allow_pickle=False) as data:
        feeds = {name: data[name] for name in data.files}
    base = peak_bytes()
    load_s, runs = _run_seconds(graph, feeds, threads)
    warm = runs[1:] or runs
    cost = {
        "seconds": float(f"{statistics.median(warm):.4g}"),
        "load_s": round(load_s, 3),
        "peak_mb": round(peak_bytes() / 1e6),
        "base_mb": round(base / 1e6),
        "runs": len(warm),
        "bytes": sum(path.stat().st_size for path in graph.parent.iterdir()),
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
