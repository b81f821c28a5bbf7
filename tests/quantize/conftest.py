"""One tiny checkpoint and the packs made of it, shared by all tests of a worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checkpoint import write_checkpoint

from edgegen.pack import Pack
from quantize.cli import cli


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("# what to draw\na red apple\n\nblue cat on green\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def packs(checkpoint: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pack]:
    """A pack of every precision, by the real command."""
    folder = tmp_path_factory.mktemp("packs")
    common = ["--calibration-prompts", str(prompts), "--evaluation-prompts", str(prompts)]
    extra = {
        "fp32": ["--no-evaluate"],
        "fp16": ["--no-evaluate"],
        "int8": ["--with-encoder", "--target-sqnr", "unet=30", "--sheet", str(folder / "sheet.png")],
    }
    for precision, more in extra.items():
        args = [str(checkpoint), "-o", str(folder / precision), "--precision", precision, *common, *more]
        cli.main(args, standalone_mode=False)
    return {precision: Pack.open(folder / precision) for precision in extra}
