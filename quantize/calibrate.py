"""Recording what the graphs see along real denoising runs, and the ranges their tensors take."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData, create_calibrator
from tqdm import tqdm

from edgegen.diffusion.pixels import to_model_input

from .graphs import LAYER_OPS
from .ranges import best_range
from .runner import Feeds, Recipe, Runner

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: dict[str, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
    "mse": CalibrationMethod.Percentile,  # for its histograms
}
PERCENTILE = 99.999


class Recorder:
    """Keeps a uniform sample of the inputs every graph was run with, on disk.

    Args:
        folder: where the records go, one .npz each.
        limit: records kept per role; beyond it each newcomer replaces a random one with the chance that
            keeps the sample uniform (Vitter 1985, "Random sampling with a reservoir", algorithm R).
    """

    def __init__(self, folder: Path, limit: int, seed: int = 0):
        self._folder, self._limit = folder, limit
        self._seen: dict[str, int] = {}
        self._rng = np.random.default_rng(seed)

    def __call__(self, role: str, feeds: Feeds) -> None:
        """Observe one run: the signature of `runner.Observer`."""
        seen = self._seen[role] = self._seen.get(role, 0) + 1
        place = seen - 1 if seen <= self._limit else int(self._rng.integers(seen))
        if place < self._limit:
            (self._folder / role).mkdir(parents=True, exist_ok=True)
            np.savez(self._folder / role / f"{place:06d}.npz", **feeds)  # type: ignore[arg-type]

    def records(self, role: str) -> Records:
        """What was kept of a role."""
        return Records(sorted((self._folder / role).glob("*.npz")))


class Records(Sequence[Feeds]):
    """Inputs of one graph, read from disk one by one."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return Records(self._paths[i])
        with np.load(self._paths[i], allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def spread(self, count: int) -> Records:
        """At most `count` of them, evenly spread."""
        if count >= len(self):
            return self
        return Records([self._paths[i * len(self) // count] for i in range(count)])


def record_runs(
    graphs: dict[str, Path],
    recipe: Recipe,
    prompts: Sequence[str],
    seed: int,
    folder: Path,
    limit: int,
    encoder: bool = False,
) -> Recorder:
    """Make a picture of every prompt, each with its own seed from `seed` on, recording all inputs.

    Guidance runs as at run time: both the words and the empty prompt are seen, at all timesteps.

    Args:
        limit: records kept per graph.
        encoder: also record the pictures, as what `vae_encoder` will see.
    """
    recorder = Recorder(folder, limit, seed)
    runner = Runner(graphs, recipe, observer=recorder)
    for i, prompt in enumerate(tqdm(prompts, desc="recording runs", unit="picture", leave=False)):
        pixels = runner.picture(prompt, seed + i)
        if encoder:
            recorder("vae_encoder", {"sample": to_model_input(pixels)})
    return recorder


class _Reader(CalibrationDataReader):
    def __init__(self, records: Records):
        self._rows: Iterator[Feeds] = iter(records)

    def get_next(self) -> Feeds | None:
        return next(self._rows, None)


def tensor_ranges(graph: Path, records: Records, method: Method, work: Path) -> TensorsData:
    """Ranges of all activations that enter or leave a layer with weights.

    Args:
        graph: float graph with annotated types.
        method: `minmax` takes what was seen; `percentile` leaves out the farthest 0.001 %; `entropy` keeps
            the most information (Migacz 2017); `mse` makes the mean squared error of 8 bits smallest.
        work: scratch folder for the instrumented graph.
    """
    work.mkdir(parents=True, exist_ok=True)
    calibrator = create_calibrator(
        graph,
        list(LAYER_OPS),
        augmented_model_path=str(work / "instrumented.onnx"),
        calibrate_method=METHODS[method],
        use_external_data_format=True,
        extra_options=_EXTRA[method],
    )
    for i in tqdm(range(len(records)), desc=f"calibrating {graph.parent.name}", leave=False):
        with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print
            calibrator.collect_data(_Reader(records[i : i + 1]))  # one by one: all its tensors are in memory
    if method != "mse":
        with contextlib.redirect_stdout(io.StringIO()):
            return calibrator.compute_data()
    histograms = calibrator.collector.get_histogram_dict()
    ranges = {name: best_range(h[0], h[1], float(h[2]), float(h[3])) for name, h in histograms.items()}
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, data)


_EXTRA: dict[str, dict[str, object]] = {
    "minmax": {},
    "percentile": {"symmetric": False, "num_bins": 2048, "percentile": PERCENTILE},
    "entropy": {},
    "mse": {"symmetric": False, "num_bins": 2048},
}
