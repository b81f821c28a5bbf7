"""Stable Diffusion XL at full size, from a checkpoint to a picture below a hard memory limit.

    python bench/sdxl.py FOLDER [--limits 0 400 300] [--flags ...]

Makes an SDXL-Turbo checkpoint with random weights in FOLDER/checkpoint and an INT8 pack of it in FOLDER/pack,
tells seconds and peak memory of every stage, and draws a picture of one step below each limit: see
`low_memory.py`. What is there already stays; cut off, a build goes on where it was. FOLDER takes 32 GB of
disk while the pack is built, 11 GB after; the limits need root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red apple on a blue table\n"
# random weights say nothing of which layers are loud, and judging them is most of the work
FAST = ["--no-sensitivity", "--no-evaluate", "--keep-float", "*conv_in*", "--keep-float", "*conv_out*"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", nargs="+", default=["0", "400", "300"], metavar="MB")
    parser.add_argument("--modes", nargs="+", default=["low"], help="as of low_memory.py")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=FAST, help="of `quantize`")
    args = parser.parse_args()
    checkpoint, pack = args.folder / "checkpoint", args.folder / "pack"
    if not (checkpoint / "done").exists():
        run(["bench/checkpoints.py", "sdxl-turbo", str(checkpoint.absolute()), "--fp16"])
    if not pack.exists():
        for row in build(checkpoint, pack, args.flags):
            print(row, flush=True)
    how = ["--steps", "1", "--guidance", "1", "--modes", *args.modes, "--limits", *args.limits]
    run(["bench/low_memory.py", str(pack.absolute()), *how])


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environ(), check=True)


def environ() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def build(checkpoint: Path, pack: Path, flags: list[str]) -> Iterator[str]:
    """Build the pack; a Markdown table of its stages as they end."""
    prompts = pack.with_name("prompts.txt")
    prompts.write_text(PROMPT, "utf-8")
    command = [sys.executable, "-m", "quantize", str(checkpoint.absolute()), "-o", str(pack.absolute())]
    command += ["--steps", "1", "--calibration-prompts", str(prompts.absolute()), "--json", *flags]
    yield from ("| stage | s | peak MB |", "|---|---|---|")
    with subprocess.Popen(command, cwd=ROOT, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            event = json.loads(line)
            if event["event"] == "stage" and event["state"] == "done":
                yield f"| {event['stage']} | {event['stage_s']:.0f} | {event['peak_mb']} |"
    if process.returncode:
        raise SystemExit(f"quantize ended with {process.returncode}")


if __name__ == "__main__":
    main()
