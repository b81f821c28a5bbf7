"""One float32 graph to INT8: calibrate, judge every layer, keep the loudest few float, check the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .calibrate import Method, Records, tensor_ranges
from .graphs import load_graph, save_graph
from .int8 import FORMATS, Target, quantize_layers, split_layers
from .metrics import ratio_db
from .rewrites import stamp
from .rules import rules_of
from .sensitivity import LayerNoise, first_outputs, layer_noises, loudest_to_keep, noise_ratio

JUDGED = 12  # recorded inputs the whole graph is judged by
ROUNDS = 3
TARGET_SQNR_DB = {"text_encoder": 40.0, "unet": 36.0, "vae_decoder": 36.0, "vae_encoder": 36.0}


@dataclass(frozen=True)
class Int8Options:
    """How far to go.

    Attributes:
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
        sqnr_db: of the result, on recorded inputs.
        sqnr_db_all: with every layer quantized that no pattern keeps.
        noises: of every layer alone, loudest first; empty when not judged.
        float_layers: what stayed float.
    """

    sqnr_db: float
    sqnr_db_all: float
    target_sqnr_db: float
    float_layers: tuple[str, ...]
    noises: tuple[LayerNoise, ...]

    def as_json(self) -> dict[str, object]:
        """For `pack.json`: layers by name with the SQNR each would leave alone."""
        return {
            "calibration_sqnr_db": round(self.sqnr_db, 2),
            "calibration_sqnr_db_all_int8": round(self.sqnr_db_all, 2),
            "target_sqnr_db": self.target_sqnr_db,
            "float_layers": list(self.float_layers),
            "layer_sqnr_db": {n.name: round(n.sqnr_db, 1) for n in self.noises},
        }


class Int8Converter:
    """Quantizes one graph, as often as it takes, from one calibration.

    Args:
        graph: float32, from `export`.
        records: its inputs along real runs.
        work: scratch folder.
    """

    def __init__(self, graph: Path, records: Records, options: Int8Options, work: Path, version: str):
        self._graph, self._options, self._version = graph, options, version
        self._records, self._format = records, FORMATS[options.target]
        self._ranges = tensor_ranges(graph, records, options.method, work)
        self._judged = list(records.spread(JUDGED))
        self._reference = first_outputs(graph, self._judged)

    def convert(self, role: str, out: Path) -> Int8Report:
        """Write the INT8 graph with as few float layers as the target needs and the budget allows."""
        out.parent.mkdir(parents=True, exist_ok=True)
        names, kept = split_layers(load_graph(self._graph, weights=False), self._options.keep_float)
        target_db = self._options.target_sqnr_db.get(role, 0.0)
        everything = noise = self._write(names, out)
        noises = self._judge() if self._options.sensitivity else []
        candidates = [layer for layer in noises if layer.name in set(names)]
        budget = self._options.float_budget * sum(layer.weight_bytes for layer in noises)
        target = 10 ** (-target_db / 10)
        for attempt in range(ROUNDS):
            if noise <= target or not candidates:
                break
            # noises are not quite independent: each round asks for a little more than the one before
            wanted = target * 0.8**attempt
            kept_now = loudest_to_keep(candidates, everything, wanted, budget)
            kept = [*dict.fromkeys([*kept, *kept_now])]
            noise = self._write([name for name in names if name not in set(kept)], out)
        return Int8Report(
            ratio_db(1.0, noise), ratio_db(1.0, everything), target_db, tuple(kept), tuple(noises)
        )

    def _judge(self) -> Sequence[LayerNoise]:
        return layer_noises(self._graph, self._ranges, self._records, self._format)

    def _write(self, names: Sequence[str], out: Path) -> float:
        model = quantize_layers(load_graph(self._graph), self._ranges, names, self._format)
        for rule in rules_of("int8", self._options.without_rules):
            rule.apply(model)
        stamp(model, self._version)
        save_graph(model, out)
        return noise_ratio(self._reference, first_outputs(out, self._judged))
