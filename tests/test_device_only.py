"""A device needs requirements/device.lock and nothing else: no training framework, no model hub.

The daemon and a generation run in a virtual environment that holds just that lock.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEVER_ON_A_DEVICE = [
    *("torch", "diffusers", "transformers", "safetensors", "huggingface_hub"),
    *("onnx", "onnxscript", "onnx_ir", "tokenizers"),
]

GENERATE = """
import json, runpy, sys
sys.argv = ["edgegen", *sys.argv[1:]]
try:
    runpy.run_module("edgegen", run_name="__main__")
except SystemExit as end:
    code = end.code or 0
import edgegen.daemon, edgegen.frontends.buttons, edgegen.frontends.mqtt, edgegen.jobs.worker
import edgegen.frontends.display.process
print(json.dumps({"code": code, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def device_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of `.venv/device`, which `make` builds, or of one built here the same way."""
    built = ROOT / ".venv/device"
    if (built / ".stamp").is_file():
        return built / "bin/python"
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run(
        [python, "-m", "pip", "--quiet", "install", "-r", ROOT / "requirements/device.lock"], check=True
    )
    return python


def run(python: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_lock_names_no_training_framework():
    lines = (ROOT / "requirements/device.lock").read_text().splitlines()
    pinned = {line.split("==")[0].replace("-", "_") for line in lines if "==" in line}
    assert {"onnxruntime", "paho_mqtt", "gpiozero"} <= pinned
    assert not pinned & set(NEVER_ON_A_DEVICE)


def test_nothing_of_training_is_installed(device_python: Path):
    code = f"from importlib.util import find_spec; print([m for m in {NEVER_ON_A_DEVICE} if find_spec(m)])"
    assert run(device_python, "-c", code).stdout.strip() == "[]"


def test_generating_imports_nothing_of_training(device_python: Path, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}"\n[engine]\npack = "tiny"\npack_dirs = ["{ROOT}/tests/packs"]\n'
    )
    picture = tmp_path / "out.png"
    done = run(device_python, "-c", GENERATE, "--config", config, "generate", "a red apple", "-o", picture)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {"edgegen", "onnxruntime", "paho", "numpy"} <= set(told["modules"])
    assert not set(told["modules"]) & set(NEVER_ON_A_DEVICE)


def test_the_demo_draws_every_picture(device_python: Path, tmp_path: Path):
    out = tmp_path / "demo"
    done = run(device_python, "tools/demo.py", "--pack", "tiny", "--pack-dir", "tests/packs", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr + (out / "demo.log").read_text()
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 10
    assert pictures[-1] == "contact-sheet.png"
    ended = re.findall(r"^  (\w+) .*#\] +[\d.]+ s ", done.stdout, re.MULTILINE)  # a last step is full, too
    assert sorted(ended) == ["MQTT"] * 8 + ["button"]
    assert "9 of 9 pictures" in done.stdout


def test_the_demo_fails_when_pictures_are_missing(device_python: Path, tmp_path: Path):
    out = tmp_path / "demo"
    done = run(device_python, "tools/demo.py", "--pack", "no-such-pack", "--out", out)
    assert done.returncode == 1
    assert "0 of 9 pictures" in done.stdout
    assert "no-such-pack" in done.stdout
    assert "demo.log" in done.stdout


def test_quantizing_without_its_extra_says_what_to_install(device_python: Path):
    done = run(device_python, "-m", "quantize", "somewhere", "-o", "pack")
    assert done.returncode == 1
    assert "edgegen[quantize]" in done.stderr
    assert "Traceback" not in done.stderr
