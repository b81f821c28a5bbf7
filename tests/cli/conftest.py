"""A device of its own for every test: configuration, folders and a copy-free way to the tiny pack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgegen.cli import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/packs/tiny"


class Device:
    """One configured device and its command line.

    Attributes:
        config: its configuration file; `home`: everything it may write to.
    """

    def __init__(self, home: Path, run_dir: Path):
        self.home = home
        self.run_dir = run_dir
        self.config = home / "config.toml"
        self.write_config()

    def write_config(self, more: str = "", pack_dirs: tuple[Path, ...] = (TINY.parent,)) -> None:
        folders = json.dumps([str(folder) for folder in pack_dirs])
        self.config.write_text(
            f'[node]\ndata_dir = "{self.home}/data"\nrun_dir = "{self.run_dir}"\n'
            f'[engine]\npack = "tiny"\npack_dirs = {folders}\nprovider = "cpu"\nthreads = 1\n{more}',
            encoding="utf-8",
        )

    def run(self, *args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        """In this process, stdout and stderr apart."""
        return CliRunner().invoke(main, ["--config", str(self.config), *args], input=stdin, env=env)

    def spawn(self, *args: str, **options) -> subprocess.CompletedProcess[str]:
        """As its own process."""
        return subprocess.run(
            self.command(*args), capture_output=True, text=True, timeout=240, cwd=self.home,
            env=self.environ(), check=False, **options,
        )  # fmt: skip

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "edgegen", "--config", str(self.config), *args]

    def environ(self) -> dict[str, str]:
        keep = {key: value for key, value in os.environ.items() if not key.startswith("EDGEGEN_")}
        return {**keep, "PYTHONPATH": str(ROOT), "HOME": str(self.home), "NO_COLOR": "1"}


@pytest.fixture
def device(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("EDGEGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run_dir = Path(tempfile.mkdtemp(prefix="eg", dir="/tmp"))  # a socket's path must stay short
    yield Device(tmp_path, run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)


@pytest.fixture
def own_pack(device) -> Path:
    """A copy of the tiny pack that a test may damage, installed as `tiny` in place of the real one."""
    device.write_config(pack_dirs=())
    return Path(shutil.copytree(TINY, device.home / "data/packs/tiny"))
