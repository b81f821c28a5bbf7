"""Devices that run in processes of their own, and what tests ask of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from edgegen.config.files import database_path, load_settings
from edgegen.jobs.job import Job
from edgegen.jobs.link import FrontError, ShellLink
from edgegen.jobs.queue import JobQueue
from edgegen.settings import Settings
from tests.support import PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent.parent
ENGINE = {"pack": "tiny", "pack_dirs": [ROOT / "tests/packs"], "provider": "cpu", "threads": 1}
LIMITS = {"steps": 1000}
LONG = 300  # steps that take seconds

RUN = """
import sys
from edgegen.daemon import run_front
from edgegen.settings import Settings
code = run_front(Settings.model_validate_json(sys.argv[1]), with_engine=sys.argv[2] == "True")
heavy = {"numpy", "PIL", "onnxruntime", "torch"} & set(sys.modules)
print("heavy:", sorted(heavy))
sys.exit(code)
"""


class Device:
    """A front in a process, its folder, and a shell to talk to it."""

    settings: Settings

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[str] | None = None

    def launch(self, *command: str, **options) -> None:
        """Start the front; returns when it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stderr=log, text=True, **options)
        wait_for(self.is_up)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.ask("status"))
        except FrontError:
            return False

    def shell(self) -> ShellLink:
        return ShellLink(self.settings.node.run_dir / "edgegen.sock", PATIENCE_S)

    def ask(self, question: str, **fields) -> dict:
        with self.shell() as shell:
            return shell.ask(question, **fields)

    def submit(self, prompt: str = "a red apple", **fields) -> dict:
        return self.ask("submit", request={"prompt": prompt, **fields})["job"]

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=PATIENCE_S)


class Appliance(Device):
    """A device made of settings, given to the front as its unit gives them to the engine."""

    def __init__(self, folder: Path, **sections):
        super().__init__(folder)
        folders = {"data_dir": folder / "data", "run_dir": folder / "run"}
        node = {**folders, **sections.pop("node", {})}
        self.settings = Settings.model_validate({"node": node, **sections})

    def start(self, with_engine: bool) -> None:
        arguments = (self.settings.model_dump_json(), str(with_engine))
        self.launch(sys.executable, "-c", RUN, *arguments, stdout=subprocess.PIPE, cwd=ROOT)

    def stop(self, with_signal: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it printed."""
        assert self.process is not None
        self.process.send_signal(with_signal)
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, printed


class Box(Device):
    """A device made of its configuration file alone."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.config = folder / "config.toml"
        self.write()
        self.settings = load_settings(self.config, {})

    def write(self, more: str = "") -> None:
        packs = json.dumps([str(ROOT / "tests/packs")])
        self.config.write_text(
            f'[node]\nname = "box"\ndata_dir = "{self.folder}/data"\nrun_dir = "{self.folder}/run"\n'
            f'[engine]\npack = "tiny"\npack_dirs = {packs}\nprovider = "cpu"\nthreads = 1\n{more}'
        )

    @property
    def environ(self) -> dict[str, str]:
        keep = {key: value for key, value in os.environ.items() if not key.startswith("EDGEGEN_")}
        return {**keep, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), "NO_COLOR": "1"}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "edgegen", "--config", str(self.config), *words]

    def start(self, *options: str) -> None:
        self.launch(*self.command("run", *options), env=self.environ, cwd=self.folder)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            env=self.environ,
            cwd=self.folder,
            timeout=250,
        )

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def start_engine(device: Device) -> subprocess.Popen[bytes]:
    """An engine that is not the front's child."""
    engine = subprocess.Popen(
        [sys.executable, "-m", "edgegen.jobs.worker"],
        stdin=subprocess.PIPE,
        stderr=device.log.open("a"),
        cwd=ROOT,
    )
    engine.stdin.write(device.settings.model_dump_json().encode() + b"\n")
    engine.stdin.flush()
    return engine


def engine_pid(device: Device) -> int | None:
    """The engine's process id, as /proc knows it."""
    for task in Path(f"/proc/{device.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for pid in (task / "children").read_text().split():
                return int(pid)
    return None


def jobs_in(device: Device) -> dict[str, Job]:
    queue = JobQueue(database_path(device.settings.node))
    try:
        return {job.id: job for job in queue.list()}
    finally:
        queue.close()


def wait_until_all_are_final(device: Device) -> dict[str, Job]:
    wait_for(lambda: all(job.state.is_final for job in jobs_in(device).values()), timeout_s=200)
    return jobs_in(device)


def watch_until(device: Device, wanted: str, job_id: str, act=lambda: None) -> dict:
    """The first event of that kind of that job, after `act` has been called."""
    with device.shell() as shell:
        events = shell.watch()
        act()
        return next(e for e in events if e["kind"] == wanted and e["job"]["id"] == job_id)
