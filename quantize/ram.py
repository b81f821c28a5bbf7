"""What a pack needs of memory in every memory mode: the device's own command draws one picture a mode.

Each in a process of its own, watched from outside: `full` needs all it ever holds; `mapped` and `low` what
the kernel cannot drop (anonymous memory), and room for the pages of code and weights in use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgegen.errors import EngineError
from edgegen.pack import Manifest, Pack, RamGrowth, RamNeeds

MODES = ("full", "mapped", "low")
TILED = "tiled"  # measured where the decoder is not cut
PAGES_MB = 32  # a UNet of 0.9 GB still runs well with this much beside its anonymous memory
ENOUGH_MB = 128  # such a pack runs anywhere
STEPS = {"full": 2, "mapped": 2, "low": 1, "tiled": 1}  # ONNX Runtime plans buffers after a first run, or not
SAMPLE_S = 0.005
TIMEOUT_S = 3600.0
ROOT = Path(__file__).parent.parent
CONFIG = '[node]\ndata_dir = "{folder}"\n[limits]\nside = 4096\n'


@dataclass(frozen=True)
class Peak:
    """Largest anonymous memory and largest resident memory of one process, in bytes."""

    anonymous: int = 0
    total: int = 0

    def with_sample(self, status: str) -> Peak:
        """The larger of this and what /proc/<pid>/status says."""
        rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        anonymous, total = (int(rows.get(key, "0").split()[0]) * 1024 for key in ("RssAnon", "VmHWM"))
        return Peak(max(self.anonymous, anonymous), max(self.total, total))


def measure_needs(
    pack: Path, prompt: str, threads: int = 0, enough_mb: int = ENOUGH_MB
) -> tuple[RamNeeds, dict[str, Any]]:
    """What a pack needs at its default size; of a large one also in mode `tiled` and at half the sides.

    Args:
        enough_mb: a pack that needs no more in mode `low` is measured no further.
    Returns:
        For `pack.json`: the needs, and what was measured, for the evaluation.
    Raises:
        EngineError: a process failed; carries the end of what it said.
    """
    manifest = Pack.open(pack).manifest
    peaks = measure_ram(pack, prompt, threads)
    if ram_needs(peaks).low <= enough_mb:
        return ram_needs(peaks), peaks_as_json(peaks)
    is_cut = "vae_decoder_tail" in manifest.graphs
    peaks |= {} if is_cut else measure_ram(pack, prompt, threads, None, (TILED,))
    usual, small = (manifest.defaults.width, manifest.defaults.height), smaller_size(manifest)
    if small == usual:
        return ram_needs(peaks), peaks_as_json(peaks)
    peaks_small = measure_ram(pack, prompt, threads, small, tuple(peaks))
    megapixels = (usual[0] * usual[1] - small[0] * small[1]) / 1e6
    growth = ram_growth(ram_needs(peaks), ram_needs(peaks_small), megapixels)
    told = {**peaks_as_json(peaks), f"at_{small[0]}x{small[1]}": peaks_as_json(peaks_small)}
    return ram_needs(peaks).model_copy(update={"growth": growth}), told


def smaller_size(manifest: Manifest) -> tuple[int, int]:
    """Half the default sides, as far as the pack allows."""
    sizes, defaults = manifest.sizes, manifest.defaults
    sides = [
        max(sizes.min, side // 2 // sizes.multiple * sizes.multiple)
        for side in (defaults.width, defaults.height)
    ]
    return sides[0], sides[1]


def ram_growth(usual: RamNeeds, small: RamNeeds, megapixels: float) -> RamGrowth:
    """Pure: MB for each further million pixels, from needs at two sizes so many million pixels apart."""
    modes = [mode for mode in (*MODES, TILED) if getattr(usual, mode) is not None]
    slopes = {
        mode: round(max(0.0, (getattr(usual, mode) - getattr(small, mode)) / megapixels), 1) for mode in modes
    }
    return RamGrowth(**slopes)


def measure_ram(
    pack: Path,
    prompt: str,
    threads: int = 0,
    size: tuple[int, int] | None = None,
    modes: Sequence[str] = MODES,
) -> dict[str, Peak]:
    """Mode -> peaks of a process that makes one picture; `size` None: of the default size.

    Raises:
        EngineError: a process failed; carries the end of what it said.
    """
    return {mode: _peak_of(pack.absolute(), prompt, mode, threads, size) for mode in modes}


def ram_needs(peaks: dict[str, Peak]) -> RamNeeds:
    """For `pack.json`, in MB (10^6 bytes) rounded up."""
    mapped, low, tiled = (
        _mb(peaks[mode].anonymous) + PAGES_MB if mode in peaks else None for mode in ("mapped", "low", TILED)
    )
    return RamNeeds(full=_mb(peaks["full"].total), mapped=mapped, low=low, tiled=tiled)  # type: ignore[arg-type]


def peaks_as_json(peaks: dict[str, Peak]) -> dict[str, dict[str, int]]:
    """For the evaluation in `pack.json`."""
    return {mode: {"anonymous_mb": _mb(p.anonymous), "total_mb": _mb(p.total)} for mode, p in peaks.items()}


def _mb(count: int) -> int:
    return -(-count // 10**6)


def _peak_of(pack: Path, prompt: str, mode: str, threads: int, size: tuple[int, int] | None) -> Peak:
    with tempfile.TemporaryDirectory(prefix="edgegen-ram-") as name:
        folder = Path(name)
        (folder / "prompt").write_text(prompt, "utf-8")
        (folder / "config.toml").write_text(CONFIG.format(folder=folder), "utf-8")
        command = [sys.executable, "-m", "edgegen", "--config", "config.toml", "generate", "-", "-o", "p.png"]
        command += ["--pack", str(pack), "--provider", "cpu", "--memory", mode, "--threads", str(threads)]
        command += [
            "--steps",
            str(STEPS[mode]),
            "--seed",
            "1",
            "--guidance",
            "1",
        ]  # a second pass needs no more
        command += ["--size", f"{size[0]}x{size[1]}"] if size else []
        with (folder / "prompt").open("rb") as words, (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                command, stdin=words, stdout=said, stderr=said, env=_environ(), cwd=folder
            )
            peak = _watch(process)
        if process.returncode != 0:
            text = (folder / "said").read_text("utf-8", "replace").strip()[-500:]
            raise EngineError(f"measuring {pack} in memory mode {mode} failed: {text}")
        return peak


def _environ() -> dict[str, str]:
    """Without settings of ours, which would change what is measured."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGEGEN_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def _watch(process: subprocess.Popen[bytes]) -> Peak:
    """Peaks until the process ends; it is killed when it takes too long, or when we are interrupted."""
    deadline, peak = time.monotonic() + TIMEOUT_S, Peak()
    status = Path(f"/proc/{process.pid}/status")
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if status.exists():
                peak = peak.with_sample(status.read_text("ascii", "replace"))
            time.sleep(SAMPLE_S)
    finally:
        process.kill()
        process.wait()
    return peak
