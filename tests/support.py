"""What many tests need: waiting with a deadline, free ports, a real broker."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

WAIT_S = 30.0
PATIENCE_S = 60.0
T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], what: str = "what is waited for", timeout_s: float = PATIENCE_S
) -> T:
    """Poll until `condition()` is true, and return what it returned; fail with `what` when it stays false."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)
    return result


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A real file system of that size, mounted at `folder`; skips the test where we may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "edgegen-test", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A real mosquitto on a loopback port, with persistence, that can be killed and started again."""

    def __init__(self, folder: Path, extra_config: str = ""):
        self.folder = folder
        self.port = free_port()
        self._extra_config = extra_config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"persistence true\nallow_anonymous true\nlistener {self.port} 127.0.0.1\n"
            f"persistence_location {self.folder}/\nautosave_interval 1\nautosave_on_changes true\n"
            f"user {getpass.getuser()}\n"  # started by root it would become one who cannot write here
            f"{self._extra_config}\n"
        )
        mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert mosquitto, "mosquitto is not installed: run tools/need_mosquitto.sh"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([mosquitto, "-c", str(config)], stdout=log, stderr=log)
        wait_for(lambda: answers(self.port), "mosquitto listens")

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(WAIT_S)
            self._process = None


def answers(port: int) -> bool:
    """Whether something listens on a local port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def text_to_image_graph(text: str = "a red apple", **sampler: Any) -> dict[str, Any]:
    """A workflow of the simplest kind for the tiny pack; `sampler` changes inputs of its KSampler."""
    settings = {
        "seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": {**settings, **links, **sampler}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "pic", "images": ["8", 0]}},
    }  # fmt: skip


def assert_cut_of(kept: np.ndarray, rounded: np.ndarray) -> None:
    """A workflow's picture is the one that `generate` rounds, with what is over a level cut off."""
    assert kept.shape == rounded.shape
    off = rounded.astype(int) - kept
    assert set(np.unique(off)) == {0, 1}
    assert 0.2 < off.mean() < 0.8
