"""One tiny checkpoint and the packs made of it, shared by all tests of a worker."""

from __future__ import annotations

import fcntl
import os
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


EXTRA = {
    "fp32": ["--no-evaluate"],
    "fp16": ["--no-evaluate"],
    "w8": ["--no-evaluate"],
    "w4": ["--no-evaluate"],
    "int8": ["--with-encoder", "--target-sqnr", "unet=30"],
}


@pytest.fixture(scope="session")
def packs(checkpoint: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pack]:
    """A pack of every precision, by the real command; the first worker builds, the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "quantized"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for precision in EXTRA:
            if not (folder / precision).exists():
                build(checkpoint, folder, precision, prompts)
    return {precision: Pack.open(folder / precision) for precision in EXTRA}


def build(checkpoint: Path, folder: Path, precision: str, prompts: Path) -> None:
    words = ["--calibration-prompts", str(prompts), "--evaluation-prompts", str(prompts)]
    sheet = ["--sheet", str(folder / f"{precision}.png")]
    args = [str(checkpoint), "-o", str(folder / precision), "--precision", precision]
    cli.main([*args, *words, *sheet, *EXTRA[precision]], standalone_mode=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever comes first builds the packs: on a busy machine that takes minutes."""
    for item in items:
        if "quantize" in item.path.parts and "packs" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1200))
