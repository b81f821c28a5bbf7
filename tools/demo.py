"""The whole appliance in one command: prompts over MQTT and a button press become pictures in demo/.

Everything is the real thing: mosquitto on a free loopback port, the front (in this process, so that a
finger can be put on gpiozero's mock pins), the engine as a second process, a plain MQTT client that
asks and listens. Exit code 0 only when every picture is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GPIOZERO_PIN_FACTORY"] = "mock"  # before gpiozero is imported: no pins are needed here

import gpiozero
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

from edgegen.config.reload import LiveConfig
from edgegen.daemon import serve
from edgegen.jobs.closing import Closing
from edgegen.jobs.wakeup import ReloadRequest, StopRequest, Wakeup
from edgegen.settings import ButtonSettings, EngineSettings, MqttSettings, NodeSettings, Settings
from quantize.contact import contact_sheet

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (
    "a fox on a sky blue background",
    "a rocket on a navy background",
    "a red apple on a white background",
    "pizza on a teal background",
    "an owl on a purple background",
    "a guitar on an orange background",
    "a cactus on a yellow background",
    "a rose on a black background",
)
BUTTON_PROMPT = "a ghost on a green background"
BUTTON_PIN, LED_PIN = 17, 27
SILENCE_TIMEOUT_S = 300.0
READY_TIMEOUT_S = 60.0
BAR_CHARS = 24
LAST_STATES = ("done", "failed", "rejected", "cancelled")


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass
class Row:
    """One job as the demo sees it, from MQTT alone."""

    prompt: str
    how: str
    state: str = "sent"
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    file: str = ""
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in LAST_STATES

    def update(self, status: dict[str, Any]) -> bool:
        """Take in a status; True when it is worth a line where lines cannot be redrawn."""
        before = self.state
        self.state = status["state"]
        self.step, self.steps = status.get("step", self.step), status.get("steps", self.steps)
        self.seconds, self.file = status.get("seconds", 0.0), status.get("file", "")
        self.reason = status.get("reason", "")
        return self.state != before

    def line(self) -> str:
        """`[######......] 3/8` with the prompt, or how it ended."""
        if self.state == "done":
            middle, tail = "#" * BAR_CHARS, f"{self.seconds:5.1f} s"
        else:
            full = round(BAR_CHARS * self.step / self.steps) if self.steps else 0
            middle = "#" * full + "." * (BAR_CHARS - full)
            tail = f"{self.step}/{self.steps}" if self.state == "running" else self.state
        return f"  {self.how:6}  [{middle}] {tail:>9}  {self.prompt} {self.reason}".rstrip()


class Board:
    """Shows the rows: redrawn in place on a terminal, one plain line per change elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._lines_drawn = 0

    def show(self, rows: list[Row], changed: Row | None) -> None:
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns - 1
            up = f"\x1b[{self._lines_drawn}F" if self._lines_drawn else ""
            print(up + "\n".join(f"\x1b[2K{row.line()[:columns]}" for row in rows), flush=True)
            self._lines_drawn = len(rows)
        elif changed is not None:
            print(changed.line(), flush=True)


class Phone:
    """A plain MQTT client: sends prompts, puts what it hears into `heard` as (topic, payload)."""

    def __init__(self, port: int, base: str):
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._base = base
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = self._subscribe
        self._client.on_message = lambda _c, _u, message: self.heard.put(
            (message.topic, bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe(f"{self._base}/#", qos=1)

    def ask(self, job_id: str, prompt: str, seed: int) -> None:
        command = json.dumps({"id": job_id, "prompt": prompt, "seed": seed})
        self._client.publish(f"{self._base}/generate", command, qos=1).wait_for_publish(READY_TIMEOUT_S)

    def next(self, timeout_s: float, waiting_for: str) -> tuple[str, bytes]:
        try:
            return self.heard.get(timeout=timeout_s)
        except queue.Empty:
            raise DemoError(
                f"nothing heard over MQTT for {timeout_s:g} s while waiting for {waiting_for}"
            ) from None

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[int]:
    """A mosquitto of our own on a free loopback port; yields the port."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise DemoError("mosquitto is not installed: run tools/need_mosquitto.sh")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens on the loopback port."""
    give_up = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise DemoError(f"mosquitto does not listen on port {port}")


@contextlib.contextmanager
def quiet_stderr(path: Path) -> Iterator[None]:
    """What the daemon and its engine log goes to a file, not between the progress bars."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with path.open("wb") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextlib.contextmanager
def running_front(settings: Settings) -> Iterator[None]:
    """The daemon's front in a thread of ours; it starts and stops the engine process itself."""
    failures: list[BaseException] = []
    wakeup = Wakeup()
    stop = StopRequest(wakeup)

    def run() -> None:
        try:
            with Closing() as closing:
                serve(LiveConfig(settings), True, wakeup, stop, ReloadRequest(wakeup), closing)
        except BaseException as err:  # noqa: BLE001  told below, by whoever waits
            failures.append(err)

    thread = threading.Thread(target=run, name="front")
    thread.start()
    try:
        yield
    finally:
        stop.ask()
        thread.join(30)
        if failures:  # says more than whoever waited for the daemon in vain
            raise DemoError(f"the daemon failed: {failures[0]}") from failures[0]


def press_button() -> None:
    """A finger on the mock pin: the button pulls up, so low is pressed."""
    pin = gpiozero.Device.pin_factory.pin(BUTTON_PIN)
    pin.drive_low()
    time.sleep(0.1)
    pin.drive_high()


def demo_settings(folder: Path, port: int, pack: str, pack_dirs: tuple[Path, ...]) -> Settings:
    """The daemon's configuration, as a TOML file would give it."""
    return Settings(
        node=NodeSettings(name="demo", data_dir=folder / "data", run_dir=folder / "run"),
        engine=EngineSettings(pack=pack, pack_dirs=pack_dirs),
        mqtt=MqttSettings(enabled=True, host="127.0.0.1", port=port),
        buttons=(ButtonSettings(pin=BUTTON_PIN, led=LED_PIN, prompts=(BUTTON_PROMPT,)),),
    )


def run_jobs(phone: Phone) -> list[Row]:
    """Ask for everything and follow it to its end."""
    while phone.next(READY_TIMEOUT_S, "the daemon") != ("edgegen/demo/availability", b"online"):
        pass
    rows: dict[str, Row] = {}
    for number, prompt in enumerate(PROMPTS):
        rows[f"demo-{number}"] = Row(prompt, "MQTT")
        phone.ask(f"demo-{number}", prompt, seed=number + 1)
    press_button()
    board = Board()
    while len(rows) <= len(PROMPTS) or not all(row.is_over for row in rows.values()):
        topic, payload = phone.next(SILENCE_TIMEOUT_S, "pictures")
        if topic.endswith("/status"):
            status = json.loads(payload)
            row = rows.setdefault(status["id"], Row(BUTTON_PROMPT, "button"))
            changed = row.update(status)
            board.show(list(rows.values()), row if changed else None)
    return list(rows.values())


def keep_pictures(rows: list[Row], gallery: Path, target: Path) -> list[tuple[Path, Row]]:
    """Copy the finished pictures out of the gallery under names that tell their prompts."""
    kept = []
    for number, row in enumerate(rows, 1):
        source = gallery / row.file
        if row.state == "done" and row.file and source.is_file():
            name = "".join(c if c.isalnum() else "-" for c in row.prompt)
            kept.append((target / f"{number:02}-{name}{source.suffix}", row))
            shutil.copyfile(source, kept[-1][0])
    return kept


def make_contact_sheet(kept: list[tuple[Path, Row]], path: Path) -> None:
    """All pictures with their words below, on one sheet."""
    pictures = []
    for file, _ in kept:
        with Image.open(file, formats=("PNG", "WEBP", "JPEG")) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    captions = [f"{row.prompt}\n{row.how}, {row.seconds:.1f} s" for _, row in kept]
    contact_sheet(pictures, captions, columns=3).save(path)


def report(kept: list[tuple[Path, Row]], rows: list[Row], target: Path, seconds: float) -> int:
    """Say where everything is; the exit code."""
    print()
    for file, row in kept:
        print(f"  {row.seconds:5.1f} s  {os.path.relpath(file)}")
    if kept:
        make_contact_sheet(kept, target / "contact-sheet.png")
        print(f"\nAll of them on one sheet: {os.path.relpath(target / 'contact-sheet.png')}")
    print(f"{len(kept)} of {len(rows)} pictures in {seconds:.0f} s, start of the daemon included.")
    if len(kept) < len(rows):
        print(f"What went wrong is in {os.path.relpath(target / 'demo.log')}")
    return 0 if len(kept) == len(rows) == len(PROMPTS) + 1 else 1


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", default="pocket", help="pack to draw with (default: the built-in one)")
    parser.add_argument("--pack-dir", type=Path, action="append", default=[], help="folder with more packs")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder for the pictures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgegen-demo-") as name:
        folder = Path(name)
        try:
            with quiet_stderr(args.out / "demo.log"):
                rows = follow_demo(folder, args.pack, tuple(d.absolute() for d in args.pack_dir))
        except DemoError as err:
            print(f"The demo failed: {err}. Its log: {args.out / 'demo.log'}", file=sys.stderr)
            return 1
        kept = keep_pictures(rows, folder / "data/gallery", args.out)
    return report(kept, rows, args.out, time.monotonic() - start)


def follow_demo(folder: Path, pack: str, pack_dirs: tuple[Path, ...]) -> list[Row]:
    """Start everything below `folder`, ask for the pictures, stop everything."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(running_broker(folder))
        print(
            f"Broker on 127.0.0.1:{port}, pack {pack}. {len(PROMPTS)} prompts and a button press:\n",
            flush=True,
        )
        stack.enter_context(running_front(demo_settings(folder, port, pack, pack_dirs)))
        phone = Phone(port, "edgegen/demo")
        stack.callback(phone.close)
        return run_jobs(phone)


if __name__ == "__main__":
    sys.exit(main())
