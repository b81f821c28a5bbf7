"""How far a graph is from what float32 gave for the same recorded inputs: numpy and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .calibrate import Records
from .metrics import noise_ratio, ratio_db, relative_error
from .runner import Feeds

TIMESTEP_BUCKET = 50  # training steps


@dataclass(frozen=True)
class GraphDrift:
    """How far a graph's first output is from float32's on recorded inputs.

    Attributes:
        sqnr_db: energy of the outputs over energy of the differences.
        relative_error: largest difference over largest output.
        sqnr_db_by_timestep: (timestep, dB) pairs from noise to picture, one for every 50 training steps that
            were recorded; empty for graphs without a timestep.
    """

    sqnr_db: float
    relative_error: float
    sqnr_db_by_timestep: tuple[tuple[float, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `pack.json`; without timesteps nothing is said of them."""
        rows = {key: value for key, value in asdict(self).items() if value != ()}
        return {k: [list(row) for row in v] if isinstance(v, tuple) else v for k, v in rows.items()}

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> GraphDrift:
        """What `as_json` wrote."""
        rows = tuple((float(t), float(db)) for t, db in found.get("sqnr_db_by_timestep", ()))
        return cls(float(found["sqnr_db"]), float(found["relative_error"]), rows)


def drift_of(run: Callable[[Feeds], np.ndarray], records: Records) -> GraphDrift:
    """How far a graph is from what float gave for the same recorded inputs.

    Args:
        run: inputs to the graph's first output.
    """
    feeds = list(records)
    wanted, got = records.references(), [run(feed) for feed in feeds]
    worst = max(relative_error(w, g) for w, g in zip(wanted, got, strict=True))
    timesteps = [float(feed["timestep"][0]) for feed in feeds if "timestep" in feed]
    overall = round(ratio_db(1.0, noise_ratio(wanted, got)), 2)
    return GraphDrift(overall, round(worst, 5), drift_by_timestep(timesteps, wanted, got))


def drift_by_timestep(
    timesteps: Sequence[float], wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> tuple[tuple[float, float], ...]:
    """SQNR in dB of the runs of every 50 training steps: (their mean timestep, dB), latest timestep first."""
    buckets: dict[int, list[int]] = {}
    for i, t in enumerate(timesteps):
        buckets.setdefault(int(t // TIMESTEP_BUCKET), []).append(i)
    rows = []
    for _, members in sorted(buckets.items(), reverse=True):
        ratio = noise_ratio([wanted[i] for i in members], [got[i] for i in members])
        mean = float(np.mean([timesteps[i] for i in members]))
        rows.append((round(mean, 1), round(ratio_db(1.0, ratio), 2)))
    return tuple(rows)
