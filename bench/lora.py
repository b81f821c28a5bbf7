"""What LoRA costs: seconds to switch a pack's graphs to one, and seconds of a step with it.

    python bench/lora.py PACK [--lora FILE] [--modes full mapped low] [--rounds 5] [--steps 3]

Without --lora a file with random weights is made for the pack: kohya's names, FP16, on all attention and
feed-forward layers of the denoiser and the text encoder. In one process for each memory mode both graphs go
in turns: loaded as the pack has them, then to the file, then to another strength of it. Seconds, and CPU
seconds of all threads, are medians; a step's cost is the ratio of steps with and without, as they alternate.
`mb` is the anonymous memory held with the denoiser, `peak mb` the most while it was made ready.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.engine.freememory import own_anonymous_mb
from edgegen.engine.lora.merge import LoraUse
from edgegen.engine.memory import MODES
from edgegen.engine.providers import choose_provider
from edgegen.engine.stages import Stages
from edgegen.pack import LAYER_TABLE, Pack, builtin_packs_dir, find_pack

ROOT = Path(__file__).resolve().parent.parent
WIDELY_TRAINED = {
    "unet": ("lora_unet_", re.compile(r"\.(attn\d|ff)\.|attentions\.\d+\.proj_(in|out)$")),
    "text_encoder": ("lora_te_", re.compile(r"\.(self_attn|mlp)\.")),
}
WATCH_S = 0.01
STRENGTHS = (0.8, 0.5)
TURNS = ("loading", "to a LoRA", "to another")
PROMPT = "a fox on a teal background"


def main() -> None:
    args = arguments()
    if args.one:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        lora = args.lora or write_lora(opened(args.pack), Path(folder) / "bench.safetensors", args.rank)
        rows = [run(args, lora, mode) for mode in args.modes]
    print("\n".join(table(rows)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", help="name or folder")
    parser.add_argument("--lora", type=Path, metavar="FILE", help="a .safetensors that fits the pack")
    parser.add_argument("--rank", type=int, default=16, help="of the file that is made (default 16)")
    parser.add_argument("--modes", nargs="+", default=["full", "mapped", "low"], choices=MODES)
    parser.add_argument("--rounds", type=int, default=5, help="switches there and back (default 5)")
    parser.add_argument("--steps", type=int, default=3, help="runs of the denoiser a switch (default 3)")
    parser.add_argument("--size", type=int, default=0, help="pixels a side; 0: the pack's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # one mode, in this process
    return parser.parse_args()


def opened(name: str) -> Pack:
    return find_pack(name, [builtin_packs_dir()])


def write_lora(pack: Pack, path: Path, rank: int) -> Path:
    """A file with random weights for the layers that most LoRAs change."""
    sys.path.insert(0, str(ROOT))
    from tests.loras import write_tensors

    rng, tensors = np.random.default_rng(0), {}
    for role, (prefix, trained) in WIDELY_TRAINED.items():
        for module, (outputs, inputs) in layer_shapes(pack, role).items():
            if trained.search(module):
                stem = prefix + module.replace(".", "_")
                down, up = rng.normal(0, inputs**-0.5, (rank, inputs)), rng.normal(0, 0.02, (outputs, rank))
                tensors[f"{stem}.lora_down.weight"] = down.astype(np.float16)
                tensors[f"{stem}.lora_up.weight"] = up.astype(np.float16)
                tensors[f"{stem}.alpha"] = np.array(rank, np.float16)
    return write_tensors(path, tensors)


def layer_shapes(pack: Pack, role: str) -> dict[str, tuple[int, int]]:
    """Module -> outputs and inputs of a graph's matrices and 1x1 convolutions, parts put together."""
    found: dict[str, tuple[int, int]] = {}
    for entry in json.loads(pack.graph(role).with_name(LAYER_TABLE).read_bytes())["layers"]:
        outputs, inputs, *kernel = entry["weight"]["shape"]
        if not entry["outputs_first"]:
            outputs, inputs = inputs, outputs
        if all(side == 1 for side in kernel):
            found[entry["module"]] = found.get(entry["module"], (0, 0))[0] + outputs, inputs
    return found


def run(args: argparse.Namespace, lora: Path, mode: str) -> dict[str, Any]:
    """One memory mode in a fresh process, as `low` tunes malloc for good."""
    command = [sys.executable, __file__, args.pack, "--one", "--lora", str(lora), "--modes", mode]
    for name in ("rounds", "steps", "size", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Graphs without and with the file in turns; medians."""
    (mode,) = args.modes
    plain = Stages(opened(args.pack), choose_provider("cpu"), args.threads, MODES[mode])
    adapted = [plain.with_loras(LoraUse(args.lora, strength, strength)) for strength in STRENGTHS]
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in TURNS}
    one_turn(plain, args)  # hashes the files, fills the page cache
    for _ in range(args.rounds):
        plain.sessions.close()
        for name, stages in zip(TURNS, (plain, *adapted), strict=True):
            turns[name].append(one_turn(stages, args))
    return {"mode": mode} | {name: medians(found) for name, found in turns.items()}


def one_turn(stages: Stages, args: argparse.Namespace) -> dict[str, float]:
    """Both graphs made ready: seconds and CPU seconds of each, and of a step."""
    pack = stages.pack.manifest
    side = (args.size or pack.defaults.width) // pack.latent_downscale
    latents = np.zeros((1, pack.latent_channels, side, side), np.float32)
    told = timed("text_encoder", lambda: stages.sessions.get("text_encoder"))
    encoding = stages.encode(PROMPT)
    told |= timed("unet", lambda: stages.sessions.get("unet"))
    told["mb"] = own_anonymous_mb()
    for _ in range(args.steps):
        told |= timed("step", lambda: stages.unet(latents, 500, encoding))  # the last: the first one warms up
    return told


def timed(name: str, do: Callable[[], object]) -> dict[str, float]:
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(WATCH_S):
            peak[0] = max(peak[0], own_anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, cpu = time.perf_counter(), time.process_time()
    do()
    found = {name: time.perf_counter() - began, f"{name} cpu": time.process_time() - cpu}
    stop.set()
    watcher.join()
    return found | {f"{name} peak": peak[0]}


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(turn[name] for turn in turns), 3) for name in turns[0]}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown, a row for each memory mode and turn."""
    names = (
        "memory mode",
        "turn",
        "denoiser s",
        "CPU s",
        "text encoder s",
        "CPU s",
        "both s",
        "step s",
        "ratio",
    )
    lines = [f"| {' | '.join((*names, 'mb', 'peak mb'))} |", "|" + "---|" * 11]
    for row in rows:
        for name in TURNS:
            turn = row[name]
            cells = [turn[key] for key in ("unet", "unet cpu", "text_encoder", "text_encoder cpu")]
            cells += [turn["unet"] + turn["text_encoder"], turn["step"], turn["step"] / row[TURNS[0]]["step"]]
            sizes = [f"{turn[key]:.0f}" for key in ("mb", "unet peak")]
            lines.append(f"| {' | '.join([row['mode'], name, *(f'{cell:.2f}' for cell in cells), *sizes])} |")
    return lines


if __name__ == "__main__":
    main()
