"""What a pack lost: drift of every graph and of final pictures, and what a picture costs.

`python -m quantize compare A B` compares two packs; building a pack runs the same code against its own
float32 graphs and writes the result into `pack.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgegen.errors import EngineError

from .calibrate import Records
from .metrics import noise_ratio, psnr_db, ratio_db, relative_error, ssim
from .runner import Runner, first_outputs

SHEET_COLUMNS = 4
SHEET_GAP = 8  # pixels
MEASURE_TIMEOUT_S = 3600
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


@dataclass(frozen=True)
class PictureDrift:
    """How far pictures of the same words and seeds are apart; SSIM after Wang et al. 2004."""

    pictures: int
    psnr_db: float
    psnr_db_worst: float
    ssim: float
    ssim_worst: float


@dataclass(frozen=True)
class Cost:
    """One picture at default settings in a process of its own, on the CPU provider of this PC.

    Attributes:
        peak_mb: largest resident memory of the process, 10^6 bytes.
        load_s: opening the sessions.
        timed_steps: steps that were really made; a picture of all the default steps was reckoned from them.
    """

    seconds: float
    load_s: float
    peak_mb: int
    timed_steps: int


def graph_drift(graph: Path, records: Records) -> GraphDrift:
    """How far a graph is from what float gave for the same recorded inputs."""
    feeds = list(records)
    wanted, got = records.references(), first_outputs(graph, feeds)
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


def make_pictures(
    runner: Runner, prompts: Sequence[str], seed: int, advance: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """One picture of every prompt, with seeds from `seed` on; `advance` is called after each."""
    found = []
    for i, prompt in enumerate(prompts):
        found.append(runner.picture(prompt, seed + i))
        advance()
    return found


def picture_drift(reference: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> PictureDrift:
    """Mean and worst PSNR and SSIM of pairs of (h, w, 3) uint8 pictures."""
    pairs = list(zip(reference, got, strict=True))
    psnrs, ssims = [psnr_db(a, b) for a, b in pairs], [ssim(a, b) for a, b in pairs]
    psnr = round(float(np.mean(psnrs)), 2), round(min(psnrs), 2)
    return PictureDrift(len(pairs), *psnr, round(float(np.mean(ssims)), 4), round(min(ssims), 4))


def contact_sheet(reference: Sequence[np.ndarray], got: Sequence[np.ndarray], path: Path) -> None:
    """Pairs of pictures side by side, four pairs a row, as PNG."""
    high, wide = reference[0].shape[:2]
    pair_wide = 2 * wide + 3 * SHEET_GAP
    rows = -(-len(reference) // SHEET_COLUMNS)
    columns = min(SHEET_COLUMNS, len(reference))
    sheet = Image.new("RGB", (columns * pair_wide, rows * (high + SHEET_GAP) + SHEET_GAP), (96, 96, 96))
    for i, pair in enumerate(zip(reference, got, strict=True)):
        row, column = divmod(i, SHEET_COLUMNS)
        for side, pixels in enumerate(pair):
            x = column * pair_wide + SHEET_GAP + side * (wide + SHEET_GAP // 2)
            sheet.paste(Image.fromarray(pixels), (x, SHEET_GAP + row * (high + SHEET_GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def measure_cost(pack: Path, prompt: str, threads: int = 0, timed_steps: int = 0) -> Cost:
    """Make pictures with a pack in a new process; seconds are of one when all is warm.

    Args:
        timed_steps: make one of so few steps, at least 2, and reckon from its warm runs what the default's
            would take; 0: time a second picture of all steps.
    Raises:
        EngineError: the process failed; carries the end of what it said.
    """
    command = [sys.executable, "-m", "quantize.measure", str(pack.absolute()), prompt, str(threads)]
    command += [str(timed_steps)]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, timeout=MEASURE_TIMEOUT_S, cwd=root)
    if done.returncode != 0:
        raise EngineError(f"measuring {pack} failed: {done.stderr.strip()[-500:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as aligned columns of text; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * w for w in widths)


def as_json(drift: GraphDrift | PictureDrift | Cost) -> dict[str, Any]:
    """For `pack.json`; what was not measured is left out."""
    rows = {key: value for key, value in asdict(drift).items() if value != ()}
    return {key: [list(row) for row in v] if isinstance(v, tuple) else v for key, v in rows.items()}
