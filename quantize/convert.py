"""One float32 graph to INT8: calibrate, judge every layer, keep a few loud ones float, check the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onnxruntime.quantization.calibrate import TensorsData

from .calibrate import Records, observations
from .floatchoice import cheapest_to_keep
from .freeing import give_back
from .graphs import load_graph, save_graph, weights_read_from
from .int8 import FORMATS, Target, quantize_layers, split_layers
from .metrics import noise_ratio, ratio_db
from .observe import Observations
from .rewrites import stamp
from .rules import rules_of
from .runner import first_outputs
from .sensitivity import CROP_LATENTS, LayerNoise, layer_noises

Method = Literal["minmax", "percentile", "entropy", "mse", "auto"]
TRIED: tuple[Method, ...] = ("minmax", "percentile", "mse")

JUDGED = 12  # held-out runs the whole graph is judged by
PROBES = 6  # of them, those that layers are judged by
ROUNDS = 3
TARGET_SQNR_DB = {
    "text_encoder": 40.0,
    "text_encoder_2": 40.0,
    "unet": 36.0,
    "vae_decoder": 36.0,
    "vae_encoder": 36.0,
}


@dataclass(frozen=True)
class Int8Options:
    """How far to go.

    Attributes:
        method: how ranges are chosen; `auto` tries minmax, percentile and mse.
        keep_float: patterns of layer names that stay float whatever is measured.
        float_budget: share of a graph's weights that may stay float for the target's sake, 0 to 1.
        target_sqnr_db: role -> signal to noise ratio to reach, on recorded inputs.
        sensitivity: judge layers one by one; without it only `keep_float` stays float.
        without_rules: names of rewrites to leave out.
    """

    target: Target = "any"
    method: Method = "mse"
    keep_float: tuple[str, ...] = ()
    float_budget: float = 0.03
    target_sqnr_db: dict[str, float] = field(default_factory=lambda: dict(TARGET_SQNR_DB))
    sensitivity: bool = True
    without_rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8Report:
    """What became of one graph.

    Attributes:
        method: how ranges were chosen.
        sqnr_db: of the result, on held-out runs.
        sqnr_db_all: with every layer quantized that no pattern keeps.
        noises: of every layer alone, loudest first; empty when not judged.
        float_layers: what stayed float.
    """

    method: Method
    sqnr_db: float
    sqnr_db_all: float
    target_sqnr_db: float
    float_layers: tuple[str, ...]
    noises: tuple[LayerNoise, ...]

    def as_json(self) -> dict[str, object]:
        """For `pack.json`: layers by name with the SQNR each would leave alone."""
        return {
            "ranges": self.method,
            "calibration_sqnr_db": round(self.sqnr_db, 2),
            "calibration_sqnr_db_all_int8": round(self.sqnr_db_all, 2),
            "target_sqnr_db": self.target_sqnr_db,
            "float_layers": list(self.float_layers),
            "layers_in_quiet_groups": sum(n.is_shared for n in self.noises),
            "layer_sqnr_db": {n.name: round(n.sqnr_db, 1) for n in self.noises},
        }


class Int8Converter:
    """Quantizes one graph, as often as it takes, from one calibration.

    Args:
        graph: float32, from `export`.
        records: held-out runs of it.
        seen: what its tensors held in the others.
        probes, crop: how many of the records layers are judged by, and the side their pictures are cut to.
        rounds: how often the graph may be written anew to reach its target.
        group: neighbouring layers that are judged together first, see `layer_noises`.
    """

    def __init__(
        self,
        graph: Path,
        records: Records,
        seen: Observations,
        options: Int8Options,
        version: str,
        probes: int = PROBES,
        crop: int = CROP_LATENTS,
        rounds: int = ROUNDS,
        group: int = 1,
    ):
        self._graph, self._options, self._version = graph, options, version
        self._records, self._seen, self._format = records, seen, FORMATS[options.target]
        self._probes, self._crop, self._rounds, self._group = probes, crop, rounds, group
        self._judged = records.spread(JUDGED)
        self._reference = self._judged.references()

    def convert(self, role: str, out: Path) -> Int8Report:
        """Write the INT8 graph with as few float layers as the target needs and the budget allows."""
        out.parent.mkdir(parents=True, exist_ok=True)
        names, kept = split_layers(load_graph(self._graph, weights=False), self._options.keep_float)
        target_db = self._options.target_sqnr_db.get(role, 0.0)
        method, everything = self._choose_ranges(names, out)
        ranges, noise = self._seen.ranges(method), everything
        noises = self._judge(ranges) if self._options.sensitivity else []
        candidates = [layer for layer in noises if layer.name in set(names)]
        budget = self._options.float_budget * sum(layer.weight_bytes for layer in noises)
        target = 10 ** (-target_db / 10)
        for attempt in range(self._rounds):
            if noise <= target or not candidates:
                break
            # noises are not quite independent: each round asks for a little more than the one before
            wanted = target * 0.8**attempt
            kept_now = cheapest_to_keep(candidates, everything, wanted, budget)
            if set(kept_now) <= set(kept):
                break  # the budget is spent
            kept = [*dict.fromkeys([*kept, *kept_now])]
            noise = self._write(ranges, [name for name in names if name not in set(kept)], out)
        return Int8Report(
            method, ratio_db(1.0, noise), ratio_db(1.0, everything), target_db, tuple(kept), tuple(noises)
        )

    def _choose_ranges(self, names: Sequence[str], out: Path) -> tuple[Method, float]:
        """The method to use and its noise with all of `names` quantized; its graph is at `out`."""
        asked = self._options.method
        tried = {m: self._write(self._seen.ranges(m), names, out) for m in _methods(asked)}
        best = min(tried, key=lambda m: tried[m])
        if best != list(tried)[-1]:
            self._write(self._seen.ranges(best), names, out)
        return best, tried[best]

    def _judge(self, ranges: TensorsData) -> Sequence[LayerNoise]:
        probes = self._records.spread(self._probes)
        how = self._format, self._crop, self._group
        found = layer_noises(self._graph, self._seen, ranges, probes, *how)
        give_back()
        return found

    def _write(self, ranges: TensorsData, names: Sequence[str], out: Path) -> float:
        out = out.absolute()
        with weights_read_from(self._graph) as model:
            model = quantize_layers(model, ranges, names, self._format)
            for rule in rules_of("int8", self._options.without_rules):
                rule.apply(model)
            stamp(model, self._version)
            save_graph(model, out)
            del model
        return noise_ratio(self._reference, first_outputs(out, self._judged))


def _methods(asked: Method) -> tuple[Method, ...]:
    return TRIED if asked == "auto" else (asked,)


def convert_recorded(
    graph: Path,
    recorded: Path,
    role: str,
    out: Path,
    options: Int8Options,
    version: str,
    judging: tuple[int, int, int, int],
) -> Int8Report:
    """Write one role's INT8 graph from what a `Recorder` left in its folder.

    Args:
        judging: probes, crop, rounds and group of an `Int8Converter`.
    """
    records, seen = Records.of(recorded, role), observations(recorded, role)
    try:
        return Int8Converter(graph, records, seen, options, version, *judging).convert(role, out)
    finally:
        give_back()
