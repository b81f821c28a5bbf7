"""The same workflows by us and by ComfyUI's own code, on one small random Stable Diffusion 1.

    tools/peers.sh comfyui && python -m bench.comfyui [--work DIR] [--sheet FILE]

ComfyUI's code is that of March 2023, the newest on PyPI (comfylib); `theirs` says where today's way is taken.
Prints a Markdown table: the largest difference of a value (0 to 255), PSNR, and the standard deviation of the
picture itself, so that a flat one does not count as agreement. Needs the dev environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.nodes import check_for
from edgegen.engine.workbench import Workbench
from edgegen.settings import LimitSettings
from edgegen.workflow.parse import workflow_from

from . import model
from .cases import SIDE, Graph, cases

ROOT = Path(__file__).resolve().parent.parent.parent
PEER = ROOT / ".venv/peers-comfyui"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.comfyui",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, help="keep checkpoint, pack and pictures here")
    parser.add_argument("--sheet", type=Path, help="write theirs and ours side by side here")
    args = parser.parse_args()
    if not (PEER / "bin/python").exists():
        sys.exit("ComfyUI's code is not installed: tools/peers.sh comfyui")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        theirs, ours = by_comfyui(folder), by_us(folder)
    print(table(theirs, ours))
    if args.sheet:
        sheet(theirs, ours).save(args.sheet)


def prepare(folder: Path) -> None:
    (tokenizer,) = PEER.glob("lib/python3*/site-packages/comfy/hazard/sd1_tokenizer")
    (folder / "cases.json").write_text(json.dumps(cases()), "utf-8")
    if not (folder / "packs/small").exists():
        (folder / "packs").mkdir(exist_ok=True)
        source = model.write(folder, tokenizer)
        command = [sys.executable, "-m", "quantize", str(source), "-o", str(folder / "packs/small")]
        options = ["--precision", "fp32", "--with-encoder", "--no-evaluate", "--name", "small"]
        subprocess.run([*command, *options], check=True, cwd=ROOT)
        manifest = folder / "packs/small/pack.json"
        data = json.loads(manifest.read_text("utf-8"))
        data["sizes"]["min"] = SIDE  # below half of the checkpoint's own size, which a pack offers by itself
        manifest.write_text(json.dumps(data), "utf-8")


def by_comfyui(folder: Path) -> dict[str, np.ndarray]:
    worker = Path(__file__).with_name("theirs.py")
    subprocess.run(
        [PEER / "bin/python", "-W", "ignore", worker, folder], check=True, stdout=subprocess.DEVNULL
    )
    with np.load(folder / "theirs.npz") as found:
        return dict(found)


def by_us(folder: Path) -> dict[str, np.ndarray]:
    bench = Workbench([folder / "packs"], {"*": "small"}, folder / "input", LimitSettings(), "cpu", 2)
    try:
        return {name: picture(bench, graph) for name, graph in cases().items()}
    finally:
        bench.close()


def picture(bench: Workbench, graph: Graph) -> np.ndarray:
    items = Executor(bench).run(check_for(bench, workflow_from(graph)))
    (found,) = [item for item in items if isinstance(item, NodePictures)]
    return found.shown.pixels[0]


def table(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> str:
    rows = ["| workflow | largest difference | PSNR dB | std |", "|---|---:|---:|---:|"]
    for name, wanted in theirs.items():
        off = wanted.astype(np.float64) - ours[name]
        error = float(np.mean(off**2))
        psnr = "equal" if error == 0 else f"{10 * np.log10(255**2 / error):.1f}"
        rows.append(f"| `{name}` | {np.abs(off).max():.0f} | {psnr} | {wanted.std():.1f} |")
    return "\n".join(rows)


def sheet(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> Image.Image:
    """A row a workflow: theirs, ours, the difference times 32."""
    rows = []
    for name, wanted in theirs.items():
        off = np.abs(wanted.astype(np.int16) - ours[name])
        rows.append(np.hstack([wanted, ours[name], np.minimum(32 * off, 255).astype(np.uint8)]))
    half = (len(rows) + 1) // 2
    columns = [np.vstack(rows[:half]), np.vstack(rows[half:])]
    columns[1] = np.pad(columns[1], ((0, len(columns[0]) - len(columns[1])), (0, 0), (0, 0)))
    return Image.fromarray(np.hstack(columns))


if __name__ == "__main__":
    main()
