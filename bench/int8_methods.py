"""Which way to INT8 is closest to float: ranges, SmoothQuant, NNCF, layers kept float, weights alone.

    python bench/int8_methods.py CHECKPOINT --pictures 12 [--nncf /path/to/venv/bin/python]

The denoiser of a checkpoint is quantized every way; text encoder and decoder stay float32. Noise is judged
on runs that no way has seen; pictures are compared with float32's.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from smoothquant import channel_maxima, smooth

from edgegen.pack import Pack
from quantize import evaluate as ev
from quantize.build import BuildOptions, build_pack
from quantize.calibrate import Recorder, Records, observations, record_runs
from quantize.convert import Int8Converter, Int8Options
from quantize.graphs import annotate_types, graph_bytes, load_graph, save_graph
from quantize.histogram import CHOOSERS
from quantize.metrics import noise_ratio, ratio_db
from quantize.observe import observed_graph
from quantize.prompts import calibration_prompts, evaluation_prompts
from quantize.runner import Recipe, Runner, first_outputs, open_session
from quantize.weightonly import convert_weight_only

SEED = 900_000
ALPHAS = (0.5, 0.8)


class Ways:
    """Every way to quantize one float graph, as (name, path)."""

    def __init__(self, graph: Path, calibration: Path, work: Path, nncf: str | None):
        self.graph, self.calibration, self.work, self.nncf = graph, calibration, work, nncf
        self.records, self.seen = Records.of(calibration, "unet"), observations(calibration, "unet")

    def all(self) -> Iterator[tuple[str, Path]]:
        for method in CHOOSERS:
            yield f"ours, all layers, {method}", self._ours(method, self.graph, self.seen, float_budget=0.0)
        for alpha in ALPHAS:
            yield f"ours, all layers, mse, SmoothQuant {alpha}", self._smoothed(alpha)
        yield "ours, mse, loudest layers float (the default)", self._ours("mse", self.graph, self.seen, 0.03)
        if self.nncf:
            for kind in ("plain", "transformer"):
                yield f"NNCF, {kind}", self._nncf(kind)
        for bits in (8, 4):
            out = self._out(f"w{bits}")
            convert_weight_only(self.graph, out, bits, "bench")
            yield f"weights alone, {bits} bits", out

    def _out(self, name: str) -> Path:
        return self.work / "ways" / name / "model.onnx"

    def _ours(self, method: str, graph: Path, seen: object, float_budget: float, tag: str = "") -> Path:
        out = self._out(f"{method}{tag}{float_budget}")
        options = Int8Options(method=method, float_budget=float_budget, sensitivity=float_budget > 0)
        Int8Converter(graph, self.records, seen, options, "bench").convert("unet", out)
        return out

    def _smoothed(self, alpha: float) -> Path:
        smoothed = self.work / "smooth" / f"{alpha}" / "model.onnx"
        smoothed.parent.mkdir(parents=True)
        model = load_graph(self.graph)
        smooth(model, channel_maxima(self.graph, self.records), alpha)
        save_graph(model, smoothed)
        smoothed.write_bytes(annotate_types(load_graph(smoothed, weights=False)).SerializeToString())
        folder = self.work / "smooth" / f"{alpha}-seen"
        recorder, session = Recorder(folder, 128), open_session(observed_graph(smoothed))
        names = [o.name for o in session.get_outputs()]
        for path in sorted((self.work / "calibration-all" / "unet").glob("0*.npz")):
            feed = Records([path])[0]
            recorder("unet", feed, dict(zip(names, session.run(None, feed), strict=True)))
        recorder.save()
        return self._ours("mse", smoothed, observations(folder, "unet"), 0.0, f"-smooth{alpha}")

    def _nncf(self, kind: str) -> Path:
        out = self._out(f"nncf-{kind}")
        script = str(Path(__file__).with_name("nncf_int8.py"))
        records = str(self.work / "calibration-all" / "unet")
        subprocess.run([str(self.nncf), script, str(self.graph), records, str(out), kind], check=True)
        return out


def seconds_a_run(graph: Path, records: Records) -> float:
    """Median of five runs after one."""
    session, feed = open_session(graph), records[0]
    times = []
    for _ in range(6):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def measure(
    checkpoint: Path, work: Path, pictures: int, recorded: int, nncf: str | None
) -> Iterator[tuple[str, ...]]:
    """Rows of the table; the first is its head."""
    build_pack(checkpoint, work / "float", BuildOptions(precision="fp32", evaluate=False))
    pack = Pack.open(work / "float")
    recipe, graphs = Recipe.of_pack(pack), {role: pack.graph(role) for role in pack.manifest.graphs}
    for path in graphs.values():
        path.write_bytes(annotate_types(load_graph(path, weights=False)).SerializeToString())
    record_runs(graphs, recipe, calibration_prompts(recorded), 0, work / "calibration", 128)
    record_all(graphs, recipe, calibration_prompts(recorded), work / "calibration-all")
    words = evaluation_prompts(pictures)
    heldout = Recorder(work / "heldout", 32, hold_out=False)
    wanted = ev.make_pictures(Runner(graphs, recipe, observer=heldout), words, SEED)
    records = Records.of(work / "heldout", "unet")
    yield ("denoiser", "MB", "SQNR dB", "PSNR dB", "worst", "SSIM", "worst", "to float32, time")
    float_s = seconds_a_run(graphs["unet"], records)
    for name, path in Ways(graphs["unet"], work / "calibration", work, nncf).all():
        got = ev.make_pictures(Runner({**graphs, "unet": path}, recipe), words, SEED)
        d = ev.picture_drift(wanted, got)
        noise = noise_ratio(records.references(), first_outputs(path, records))
        numbers = (graph_bytes(path) / 1e6, ratio_db(1, noise), d.psnr_db, d.psnr_db_worst)
        cells = [f"{number:.1f}" for number in numbers] + [f"{d.ssim:.4f}", f"{d.ssim_worst:.4f}"]
        yield (name, *cells, f"{seconds_a_run(path, records) / float_s:.2f}")


def record_all(graphs: dict[str, Path], recipe: Recipe, prompts: list[str], folder: Path) -> None:
    """What the ways that bring their own calibration are given: the same pictures' runs."""
    recorder = Recorder(folder, 64, hold_out=False)
    ev.make_pictures(Runner(graphs, recipe, observer=recorder), prompts, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--recorded", type=int, default=24)
    parser.add_argument("--nncf", help="a Python that has nncf, onnx and onnxruntime")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for row in measure(args.checkpoint, Path(work), args.pictures, args.recorded, args.nncf):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
