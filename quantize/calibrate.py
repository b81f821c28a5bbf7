"""Recording what the graphs see along real denoising runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgegen.diffusion.pixels import to_model_input

from .observe import Observations, observed_graph
from .runner import Feeds, Recipe, Runner

HELD_OUT_EVERY = 5  # odd: guidance alternates two kinds of runs, and both must be held out
_REFERENCE = "reference:"
_OBSERVATIONS = "observations.npz"


class Recorder:
    """Keeps on disk what graphs were run with and gave, and what their tensors held.

    Every fifth run of a graph is held out: it does not count for the ranges, and the quantized graph is
    judged by it. Of a graph that ran less than five times the same runs serve both ends.

    Args:
        folder: where the records go, one .npz each.
        limit: held-out runs kept per role; beyond it each newcomer replaces a random one with the chance
            that keeps the sample uniform (Vitter 1985, "Random sampling with a reservoir", algorithm R).
        hold_out: False: every run may be kept, and no ranges are found.
    """

    def __init__(self, folder: Path, limit: int, seed: int = 0, hold_out: bool = True):
        self._folder, self._limit, self._hold_out = folder, limit, hold_out
        self._runs: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._observations: dict[str, Observations] = {}
        self._rng = np.random.default_rng(seed)

    def __call__(self, role: str, feeds: Feeds, outputs: Feeds) -> None:
        """Observe one run: the signature of `runner.Observer`."""
        run = self._runs[role] = self._runs.get(role, 0) + 1
        is_held_out = not self._hold_out or run % HELD_OUT_EVERY == 0
        if not is_held_out:
            self._observations.setdefault(role, Observations()).add(outputs)
        if is_held_out or run < HELD_OUT_EVERY:
            self._keep(role, run, is_held_out, {**feeds, **_reference(outputs)})

    def _keep(self, role: str, run: int, is_held_out: bool, arrays: Feeds) -> None:
        folder = self._folder / role
        folder.mkdir(parents=True, exist_ok=True)
        if not is_held_out:
            np.savez(folder / f"early-{run}.npz", **arrays)  # type: ignore[arg-type]
            return
        for early in folder.glob("early-*.npz"):
            early.unlink()
        seen = self._kept[role] = self._kept.get(role, 0) + 1
        place = seen - 1 if seen <= self._limit else int(self._rng.integers(seen))
        if place < self._limit:
            np.savez(folder / f"{place:06d}.npz", **arrays)  # type: ignore[arg-type]

    def save(self) -> None:
        """Write what the tensors held; the records are written already."""
        for role, observations in self._observations.items():
            observations.save(self._folder / role / _OBSERVATIONS)


def _reference(outputs: Feeds) -> Feeds:
    """The graph's first output, under a name no input has."""
    name, value = next(iter(outputs.items()))
    return {_REFERENCE + name: value}


class Records(Sequence[Feeds]):
    """Inputs of one graph, read from disk one by one."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)

    @classmethod
    def of(cls, folder: Path, role: str) -> Records:
        """What a `Recorder` kept of a role in its folder."""
        rows = sorted((folder / role).glob("*.npz"))
        return cls([path for path in rows if path.name != _OBSERVATIONS])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return Records(self._paths[i])
        with np.load(self._paths[i], allow_pickle=False) as data:
            return {name: data[name] for name in data.files if not name.startswith(_REFERENCE)}

    def reference(self, i: int) -> np.ndarray:
        """What the float graph gave then: its first output."""
        with np.load(self._paths[i], allow_pickle=False) as data:
            return next(data[name] for name in data.files if name.startswith(_REFERENCE))

    def references(self) -> list[np.ndarray]:
        """Of all records."""
        return [self.reference(i) for i in range(len(self))]

    def as_text(self) -> str:
        """For another process's `of_text`."""
        return json.dumps([str(path.absolute()) for path in self._paths])

    @classmethod
    def of_text(cls, text: str) -> Records:
        """What `as_text` told."""
        return cls([Path(path) for path in json.loads(text)])

    def spread(self, count: int) -> Records:
        """At most `count` of them, evenly spread."""
        if count >= len(self):
            return self
        return Records([self._paths[i * len(self) // count] for i in range(count)])


def observations(folder: Path, role: str) -> Observations:
    """What a saved `Recorder` saw in a role's tensors."""
    return Observations.load(folder / role / _OBSERVATIONS)


def record_runs(
    graphs: dict[str, Path],
    recipe: Recipe,
    prompts: Sequence[str],
    seed: int,
    folder: Path,
    limit: int,
    advance: Callable[[], None] = lambda: None,
    shown: Callable[[int], tuple[Feeds, Feeds]] = lambda _: ({}, {}),
) -> None:
    """Make a picture of every prompt, each with its own seed from `seed` on, recording all runs.

    Guidance runs as at run time: both the words and the empty prompt are seen, at all timesteps.

    Args:
        graphs: float graphs; with a `vae_encoder` among them it is given the pictures.
        limit: records kept per graph.
        advance: called after every run of the denoiser.
        shown: number of a picture -> what both sides of guidance are told beside its words.
    """
    recorder = Recorder(folder, limit, seed)

    def observe(role: str, feeds: Feeds, outputs: Feeds) -> None:
        recorder(role, feeds, outputs)
        if role == "unet":
            advance()

    runner = Runner({role: observed_graph(path) for role, path in graphs.items()}, recipe, observer=observe)
    for i, prompt in enumerate(prompts):
        pixels = runner.picture(prompt, seed + i, *shown(i))
        if "vae_encoder" in graphs:
            runner.run("vae_encoder", {"sample": to_model_input(pixels)})
    recorder.save()
