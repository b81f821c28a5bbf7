from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegen.pack import Pack

TINY = Path(__file__).parent.parent / "packs" / "tiny"


@pytest.fixture
def tiny() -> Pack:
    return Pack.open(TINY)


@pytest.fixture
def changed_tiny(tmp_path: Path) -> Callable[..., Pack]:
    """A copy of the tiny pack with other manifest fields."""

    def make(**fields: object) -> Pack:
        folder = Path(shutil.copytree(TINY, tmp_path / f"tiny{len(list(tmp_path.iterdir()))}"))
        data = json.loads((folder / "pack.json").read_text("utf-8"))
        (folder / "pack.json").write_text(json.dumps(data | fields), "utf-8")
        return Pack.open(folder)

    return make
