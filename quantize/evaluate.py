"""What a pack lost: drift of every graph and of final pictures, and what a picture costs.

`python -m quantize compare A B` compares two packs; building a pack runs the same code against its own
float32 graphs and writes the result into `pack.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from edgegen.errors import EngineError

from .calibrate import Records
from .drift import GraphDrift, drift_of
from .measure import ASKED, DRAWN, PICTURES
from .metrics import psnr_db, ssim
from .runner import Runner, open_session

SHEET_COLUMNS = 4
SHEET_GAP = 8  # pixels


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
        timed_steps: steps that were made; where that is not all, the picture was reckoned from them.
    """

    seconds: float
    load_s: float
    peak_mb: int
    timed_steps: int


def graph_drift(graph: Path, records: Records) -> GraphDrift:
    """How far a graph is from what float gave for the same recorded inputs."""
    session = open_session(graph)
    return drift_of(lambda feed: session.run(None, feed)[0], records)


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


def measure_cost(pack: Path, prompt: str, threads: int = 0) -> Cost:
    """Make two pictures with a pack in a new process; seconds are of the second. Raises EngineError."""
    return draw_with(pack, [prompt] * 2, 1, threads=threads)[1]


def draw_with(
    pack: Path,
    prompts: Sequence[str],
    seed: int,
    steps: int | None = None,
    threads: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[np.ndarray], Cost]:
    """Pictures by a pack in a process of its own, and what one costs there when all is warm.

    Args:
        seed: of the first picture; each next has the next.
        steps: where the pack's default takes too long, fewer: its seconds are reckoned from these.
        advance: called after each picture.
    Returns:
        The pictures, (h, w, 3) uint8, and the cost of one at the pack's default settings.
    Raises:
        EngineError: the process failed; carries the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="edgegen-draw-") as name:
        folder = Path(name)
        asked = {"prompts": list(prompts), "seed": seed, "steps": steps, "threads": threads}
        (folder / ASKED).write_text(json.dumps(asked), "utf-8")
        command = [sys.executable, "-m", "quantize.measure", str(pack.absolute()), str(folder)]
        with (folder / "said").open("wb") as said:
            code, last = _follow(command, said, advance)
        if code != 0:
            text = (folder / "said").read_text("utf-8", "replace").strip()[-500:]
            raise EngineError(f"measuring {pack} failed: {text}")
        with (folder / PICTURES).open("rb") as file:
            pictures = [np.load(file, allow_pickle=False) for _ in prompts]
        return pictures, Cost(**json.loads(last))


def _follow(command: Sequence[str], said: IO[bytes], advance: Callable[[], None]) -> tuple[int, str]:
    """Exit code and last line of a process that writes a line a picture; it never outlives this."""
    root, last = Path(__file__).parent.parent, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=root) as process:
        try:
            for line in process.stdout or ():
                if line.strip() == DRAWN:
                    advance()
                else:
                    last = line
        except BaseException:
            process.kill()
            raise
    return process.returncode, last


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as aligned columns of text; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * w for w in widths)


def as_json(found: PictureDrift | Cost) -> dict[str, Any]:
    """For `pack.json`."""
    return asdict(found)
