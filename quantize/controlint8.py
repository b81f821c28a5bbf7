"""A ControlNet in 8 bits: ranges recorded while it leads a denoiser, judged by the pictures it leads to.

It is judged by all that it gives, side by side as one output. Where led pictures fall below the rule
(SSIM 0.95 on average), more layers stay float, until they do not or no more may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgegen import __version__
from edgegen.pack import Pack

from . import evaluate as ev
from .calibrate import Recorder, Records, observations
from .convert import Int8Converter, Int8Options, Int8Report
from .graphs import load_graph
from .observe import observed_graph
from .refusal import SourceError
from .runner import DRAWING_ROLES, NOTHING, Feeds, Observer, Recipe, Runner

ROLE, LED, HINT = "controlnet", "unet_control", "controlnet_cond"
TOGETHER = "residuals"
LEAST_SSIM = 0.95
TRIES = ((36.0, 0.03), (42.0, 0.1), (48.0, 0.3))
"""Signal to noise in dB to reach, and the share of the weights that may stay float for it."""
RECORDED, SEED, JUDGING_SEED = 64, 0, 900_000


class LedRunner(Runner):
    """Makes pictures that a ControlNet leads, by hints in turn.

    Args:
        pack: whose denoiser listens. net: the ControlNet's graph.
        hints: (1, 3, h, w) float32, 0 to 1, of the recipe's size.
    """

    def __init__(self, pack: Pack, net: Path, hints: Sequence[np.ndarray], observer: Observer | None = None):
        roles = [role for role in DRAWING_ROLES if role in pack.manifest.graphs and role != "unet"]
        graphs = {role: pack.graph(role) for role in (*roles, LED)} | {ROLE: net}
        super().__init__(graphs, Recipe.of_pack(pack), observer=observer)
        self._hints, self._made = hints, -1
        self._wanted = {i.name for i in self._sessions[ROLE].get_inputs()}
        self._heard = {i.name for i in self._sessions[LED].get_inputs()}

    def picture(
        self, prompt: str, seed: int, wanted: Feeds = NOTHING, unwanted: Feeds = NOTHING
    ) -> np.ndarray:
        self._made += 1
        return super().picture(prompt, seed, wanted, unwanted)

    def _denoise(self, latents: np.ndarray, timestep: float, words: Feeds) -> np.ndarray:
        feeds = {"sample": latents.astype(np.float32), "timestep": np.array([timestep], np.float32), **words}
        told = {**feeds, HINT: self._hints[self._made % len(self._hints)]}
        found = self.run(ROLE, {name: told[name] for name in self._wanted})
        residuals = {name: value for name, value in found.items() if name in self._heard}
        return self.run(LED, feeds | residuals)["out_sample"]


def check_base(pack: Pack, words_width: int) -> None:
    """Raises SourceError: a ControlNet of so many channels cannot lead its denoiser."""
    if LED not in pack.manifest.graphs:
        raise SourceError(f"pack {pack.name} cannot be led: build it with --with-control")
    graph = load_graph(pack.graph(LED), weights=False).graph
    words = next(i for i in graph.input if i.name == "encoder_hidden_states")
    width = words.type.tensor_type.shape.dim[2].dim_value
    if width not in (0, words_width):
        both = f"words of {width} channels, this ControlNet of {words_width}"
        raise SourceError(f"pack {pack.name} is of another family: it reads {both}")


def own_hints(pack: Pack, prompts: Sequence[str]) -> list[np.ndarray]:
    """What the pack draws unled, by turns as edges and in grey, as hints come: (1, 3, h, w) float32."""
    runner = Runner.of_pack(pack)
    pictures = (runner.picture(prompt, SEED + i) for i, prompt in enumerate(prompts))
    return [_hint(pixels, as_edges=i % 2 == 0) for i, pixels in enumerate(pictures)]


def _hint(pixels: np.ndarray, as_edges: bool) -> np.ndarray:
    grey = pixels.astype(np.float32).mean(axis=2) / 255
    if as_edges:
        slope = np.hypot(*np.gradient(grey))
        grey = (slope > np.quantile(slope, 0.9)).astype(np.float32)
    return np.repeat(grey[None, None], 3, axis=1)


def add_together(graph: Path) -> None:
    """Give the graph a first output `residuals` (batch, values): all its others side by side."""
    model = load_graph(graph, weights=False)
    names = [output.name for output in model.graph.output]
    shape = numpy_helper.from_array(np.array([0, -1], np.int64), f"{TOGETHER}/shape")
    model.graph.initializer.append(shape)
    flat = [f"{TOGETHER}/{name}" for name in names]
    nodes = [
        helper.make_node("Reshape", [name, shape.name], [end], end)
        for name, end in zip(names, flat, strict=True)
    ]
    model.graph.node.extend([*nodes, helper.make_node("Concat", flat, [TOGETHER], TOGETHER, axis=1)])
    before = [*model.graph.output]
    del model.graph.output[:]
    told = helper.make_tensor_value_info(TOGETHER, TensorProto.FLOAT, ["batch", "values"])
    model.graph.output.extend([told, *before])
    graph.write_bytes(model.SerializeToString())


def drop_together(graph: Path) -> None:
    """The way back."""
    model = load_graph(graph, weights=False)
    for rows in (model.graph.node, model.graph.output, model.graph.initializer):
        kept = [row for row in rows if row.name != TOGETHER and not row.name.startswith(f"{TOGETHER}/")]
        del rows[:]
        rows.extend(kept)
    graph.write_bytes(model.SerializeToString())


@dataclass(frozen=True)
class Int8Net:
    """How a ControlNet was converted, and for its manifest what that did."""

    report: Int8Report
    evaluation: dict[str, Any]


def convert_net(
    graph: Path,
    out: Path,
    pack: Pack,
    prompts: tuple[Sequence[str], Sequence[str]],
    options: Int8Options,
    say: Callable[[str], None] = lambda _: None,
) -> Int8Net:
    """Write the graph in 8 bits.

    Args:
        graph: float, from `export`; changed.
        pack: the denoiser that it leads meanwhile.
        prompts: to record ranges with, and to judge by.
    Raises:
        SourceError: led pictures stay below the rule, whatever stays float.
    """
    recording, judging = prompts
    add_together(graph)
    folder = graph.parent / "recorded"
    recorder = Recorder(folder, RECORDED, SEED)
    hints = own_hints(pack, recording)
    runner = LedRunner(pack, observed_graph(graph), hints, _of_net(recorder))
    ev.make_pictures(runner, recording, SEED)
    recorder.save()
    records, seen = Records.of(folder, ROLE), observations(folder, ROLE)
    wanted = ev.make_pictures(LedRunner(pack, graph, hints), judging, JUDGING_SEED)
    for target, budget in TRIES:
        asked = replace(options, target_sqnr_db={ROLE: target}, float_budget=budget)
        converter = Int8Converter(graph, records, seen, asked, __version__)
        report = converter.convert(ROLE, out)
        got = ev.make_pictures(LedRunner(pack, out, hints), judging, JUDGING_SEED)
        pictures = ev.picture_drift(wanted, got)
        kept = f"{len(report.float_layers)} layers float"
        say(f"int8 {ROLE}: {report.sqnr_db:.1f} dB, led pictures SSIM {pictures.ssim:.4f}, {kept}")
        if pictures.ssim >= LEAST_SSIM:
            break
    else:
        found = f"SSIM {pictures.ssim:.3f} with {kept}"
        raise SourceError(f"led pictures keep {found}, below {LEAST_SSIM}: take fp16")
    drift = ev.graph_drift(out, records).as_json()
    drop_together(out)
    size = sum(path.stat().st_size for path in out.parent.iterdir())
    graphs = {ROLE: {"bytes": size, **drift, **report.as_json()}}
    return Int8Net(report, {"graphs": graphs, "pictures": ev.as_json(pictures), "base": pack.name})


def _of_net(recorder: Recorder) -> Observer:
    """Only what the ControlNet does is recorded."""

    def observe(role: str, feeds: Feeds, outputs: Feeds) -> None:
        if role == ROLE:
            recorder(role, feeds, outputs)

    return observe
