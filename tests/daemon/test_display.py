"""The screen of a device: front, engine and display as three processes, a PNG file as the screen."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from edgegen.frontends.display.console import KD_GRAPHICS, KDGETMODE
from tests.support import PATIENCE_S, wait_for

from .device import Box

SCREEN = (320, 200)
CONSOLE = "/dev/tty10"  # nobody's
IDLE_S = 4.0
TICKS_A_S = os.sysconf("SC_CLK_TCK")


class Screen:
    """`edgegen display` of a box, and what is to be seen."""

    def __init__(self, box: Box):
        self.box = box
        self.path = box.folder / "screen.png"
        self.log = box.folder / "display.log"
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self, more: str = "", output: str = "file") -> str:
        return (
            f'[display]\noutput = "{output}"\nfile = "{self.path}"\n'
            f'file_size = "{SCREEN[0]}x{SCREEN[1]}"\nwaiting_text = "Hello"\n{more}'
        )

    def start(self, stdin: int = subprocess.DEVNULL) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.box.command("display"),
                stdin=stdin,
                stderr=log,
                env=self.box.environ,
                cwd=self.box.folder,
            )

    def seen(self) -> Image.Image | None:
        """What is on the screen; None before there is one. A file that is not whole fails the test."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            return None

    def shows(self, picture: Path) -> bool:
        """Whether the picture fills the screen's upper part, as `contain` has it with a caption below."""
        if not (seen := self.seen()):
            return False
        height = SCREEN[1] - round(10 * min(SCREEN) / 100)
        with Image.open(picture) as image:
            wanted = image.convert("RGB").resize((height, height), Image.Resampling.LANCZOS)
        left = (SCREEN[0] - height) // 2
        return not ImageChops.difference(seen.crop((left, 0, left + height, height)), wanted).getbbox()

    def is_black(self) -> bool:
        return (seen := self.seen()) is not None and not seen.getbbox()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()


@pytest.fixture
def screen(box: Box) -> Iterator[Screen]:
    made = Screen(box)
    yield made
    made.close()


def picture_of(box: Box, job_id: str) -> Path:
    jobs = box.ask("jobs", states=["done"])["jobs"]
    (name,) = [job["picture"] for job in jobs if job["id"] == job_id]
    return box.folder / "data/gallery" / name


def drawn(box: Box, **job) -> Path:
    """A picture that was asked for and is done."""
    job_id = box.submit(**{"steps": 2, "width": 64, "height": 64, **job})["id"]
    is_done: Callable[[], bool] = lambda: any(  # noqa: E731
        job["id"] == job_id for job in box.ask("jobs", states=["done"])["jobs"]
    )
    wait_for(is_done)
    return picture_of(box, job_id)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_S


def test_a_job_becomes_a_picture_on_the_screen(box, screen):
    box.write(screen.settings())
    box.start()
    screen.start()
    wait_for(lambda: (seen := screen.seen()) and seen.getbbox())  # the waiting screen's words
    assert box.ask("status")["display"] is True
    picture = drawn(box)
    began = time.monotonic()
    wait_for(lambda: screen.shows(picture))
    assert time.monotonic() - began < 10
    second = drawn(box, prompt="a blue cat", seed=5)
    wait_for(lambda: screen.shows(second))


def test_it_finds_the_newest_picture_and_a_front_that_restarts(box, screen):
    box.write(screen.settings())
    box.start()
    picture = drawn(box)
    screen.start()
    wait_for(lambda: screen.shows(picture))
    box.kill()
    wait_for(lambda: "the front is away" in screen.log.read_text())
    assert screen.shows(picture), "a front that is away is no reason to take the picture down"
    box.start()
    after = drawn(box, prompt="a blue cat", seed=5)
    wait_for(lambda: screen.shows(after))


def test_a_picture_that_was_done_before_it_found_the_front_again(box, screen):
    box.write(screen.settings())
    box.start()
    picture = drawn(box)
    screen.start()
    wait_for(lambda: screen.shows(picture))
    screen.process.send_signal(signal.SIGSTOP)  # it hears of nothing until all is done
    box.kill()
    box.start()
    after = drawn(box, prompt="a blue cat", seed=5)
    screen.process.send_signal(signal.SIGCONT)
    wait_for(lambda: screen.shows(after))


def test_idle_it_costs_nothing_and_writes_nothing(box, screen):
    box.write(screen.settings())
    box.start()
    screen.start()
    picture = drawn(box)
    wait_for(lambda: screen.shows(picture))
    time.sleep(1)
    before, written = cpu_s(screen.process.pid), screen.path.stat().st_mtime_ns
    time.sleep(IDLE_S)
    assert cpu_s(screen.process.pid) - before <= 0.01 * IDLE_S
    assert screen.path.stat().st_mtime_ns == written


def test_progress_is_seen_while_a_job_runs(box, screen):
    box.write(screen.settings() + "[limits]\nsteps = 1000\n")
    box.start()
    screen.start()
    wait_for(screen.seen)
    box.submit(steps=1000, width=64, height=64)

    def bar_has_moved() -> bool:
        """White where the bar's left end is (bright ink: the track is darker)."""
        unit = min(SCREEN) / 100
        left, top = round(SCREEN[0] * 0.2) + 4, SCREEN[1] - round(13.4 * unit)
        return screen.seen().getpixel((left, top)) == (240, 240, 240)

    wait_for(bar_has_moved)


def test_settings_are_taken_over_while_it_runs(box, screen):
    box.write(screen.settings(output="off"))
    box.start()
    screen.start()
    wait_for(lambda: box.ask("status")["display"])
    assert not screen.path.exists()
    box.write(
        screen.settings('background = "#ffffff"\nwaiting_text = ""\n').replace('waiting_text = "Hello"\n', "")
    )
    box.hang_up()  # the front alone: it passes on that there is something new
    wait_for(lambda: (seen := screen.seen()) and seen.getcolors() == [(64_000, (255, 255, 255))])
    box.write(screen.settings('waiting_text = ""\n').replace('waiting_text = "Hello"\n', ""))
    screen.process.send_signal(signal.SIGHUP)
    wait_for(screen.is_black)


def test_a_screen_that_is_not_there_is_told_once_and_waited_for(box, screen):
    folder = box.folder / "later"
    folder.write_text("in the way of a folder")
    box.write(screen.settings().replace(str(screen.path), f"{folder}/screen.png"))
    screen.path = folder / "screen.png"
    box.start()
    screen.start()
    wait_for(lambda: "cannot be written" in screen.log.read_text())
    folder.unlink()
    wait_for(screen.path.exists)
    said = screen.log.read_text()
    assert said.count("cannot be written") == 1
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() != 0 or not Path(CONSOLE).exists(), reason="no virtual terminals for us")
def test_a_framebuffer_takes_its_console_and_gives_it_back(box, screen):
    terminal = os.open(CONSOLE, os.O_RDWR | os.O_NOCTTY)

    def mode() -> int:
        return struct.unpack("i", fcntl.ioctl(terminal, KDGETMODE, bytes(4)))[0]

    try:
        box.write('[display]\noutput = "framebuffer"\ndevice = "/nowhere/fb0"\n')
        box.start()
        screen.start(terminal)
        wait_for(lambda: mode() == KD_GRAPHICS)
        assert "/nowhere/fb0" not in screen.log.read_text(), "nobody looks at that terminal: nothing is drawn"
        box.write(screen.settings())
        box.hang_up()
        wait_for(screen.seen)
        screen.close()
        assert mode() == 0
    finally:
        os.close(terminal)


def test_safe_mode_is_shown(box, screen):
    """With a broken configuration the front takes no jobs; whoever stands there sees that, and its end."""
    box.write(screen.settings('rotate = 45\nwaiting_text = ""\n').replace('waiting_text = "Hello"\n', ""))
    box.start()
    assert box.ask("status")["safe_mode"] is True
    screen.start()
    wait_for(lambda: (seen := screen.seen()) and seen.getbbox())
    box.write(screen.settings('waiting_text = ""\n').replace('waiting_text = "Hello"\n', ""))
    box.hang_up()
    wait_for(screen.is_black)
    picture = drawn(box)
    wait_for(lambda: screen.shows(picture))
