"""Screens in `edgegen setup` and `edgegen doctor`: fake /sys and /dev, a framebuffer that is a file."""

from __future__ import annotations

import io

import pytest
from click.testing import CliRunner
from PIL import ImageChops

from edgegen.cli import screens
from edgegen.cli.machine import Roots
from edgegen.cli.screens import check_display, found_screens
from edgegen.cli.setupdisplay import ask_display
from edgegen.config.draft import Draft
from edgegen.config.files import load_settings
from edgegen.frontends.display.easel import turned
from edgegen.frontends.display.framebuffer import Framebuffer
from edgegen.frontends.display.testcard import test_card as draw_test_card
from tests.frontends.display.fakefb import FakeFramebuffer

SIZE = (160, 100)


@pytest.fixture
def roots(tmp_path):
    made = Roots(proc=tmp_path / "proc", sys=tmp_path / "sys", dev=tmp_path / "dev")
    made.dev.mkdir()
    (made.sys / "class/graphics/fbcon").mkdir(parents=True)
    return made


@pytest.fixture
def screen(roots):
    """fb1 and fb0, which is drawn on."""
    for number, name in ((1, "spi"), (0, "vc4drmfb")):
        folder = roots.sys / f"class/graphics/fb{number}"
        folder.mkdir()
        for file, text in (("name", name), ("virtual_size", "160,100"), ("bits_per_pixel", "32")):
            (folder / file).write_text(f"{text}\n")
    return FakeFramebuffer(roots.dev / "fb0", *SIZE)


class Sitting:
    """Somebody who answers; `cards` are what was on the screen at each question about it."""

    def __init__(self, device, roots, fb=None):
        self.draft = Draft(device.config, {})
        self.roots = roots
        self.fb = fb
        self.cards = []

    def answer(self, *lines: str) -> str:
        def look():
            if self.fb:
                self.cards.append(self.fb.seen())

        def typed():
            for line in lines:
                look()
                yield line + "\n"

        with CliRunner().isolation(input=io.BufferedReader(_Lines(typed()))) as (_, _, out):
            ask_display(self.draft, self.roots, self.open)
            return out.getvalue().decode()

    def open(self, path):
        assert self.fb is None or path == self.fb.path
        return self.fb.open() if self.fb else Framebuffer(path)


class _Lines(io.RawIOBase):
    """Standard input that hands out one line at a time."""

    def __init__(self, lines):
        self._lines = lines

    def readable(self):
        return True

    def readinto(self, buffer):
        line = next(self._lines, "").encode()
        buffer[: len(line)] = line
        return len(line)


def test_screens_are_listed_in_their_order(roots, screen):
    assert [(found.device.name, found.told) for found in found_screens(roots)] == [
        ("fb0", "vc4drmfb, 160x100, 32 bits a pixel"),
        ("fb1", "spi, 160x100, 32 bits a pixel"),
    ]


def test_a_test_card_until_it_is_upright(device, roots, screen):
    before = screen.path.read_bytes()
    sitting = Sitting(device, roots, screen)
    shown = sitting.answer("1", "n", "n", "y")
    display = sitting.draft.settings.display
    assert "1  " in shown and "vc4drmfb, 160x100" in shown
    assert (display.output, display.device, display.rotate) == ("framebuffer", screen.path, 180)
    for card, rotate in zip(sitting.cards[1:], (0, 90, 180), strict=True):
        size = SIZE[::-1] if rotate == 90 else SIZE
        wanted = turned(draw_test_card(size, rotate), rotate)
        assert not ImageChops.difference(card, wanted).getbbox()
    assert screen.path.read_bytes() == before, "what was there is there again"


def test_a_whole_turn_leaves_it_as_it_was(device, roots, screen):
    device.write_config("[display]\nrotate = 90\n")
    sitting = Sitting(device, roots, screen)
    sitting.answer(str(screen.path), "n", "n", "n", "n")
    assert sitting.draft.settings.display.rotate == 90


def test_no_screen_is_an_answer(device, roots):
    sitting = Sitting(device, roots)
    assert "no screen was found" in sitting.answer("")
    assert not sitting.draft.changes


def test_a_device_that_is_not_there_may_come(device, roots):
    sitting = Sitting(device, roots)
    shown = sitting.answer("7", "fb9", "/nowhere/fb9", "270")
    assert "7: no such number" in shown
    assert "a path such as /dev/fb0" in shown
    assert "no test card: /nowhere/fb9 is not there" in shown
    assert sitting.draft.settings.display.rotate == 270


def test_a_file_is_asked_for(device, roots):
    sitting = Sitting(device, roots)
    sitting.answer("file", "/run/edgegen-display/screen.png")
    display = sitting.draft.settings.display
    assert (display.output, str(display.file)) == ("file", "/run/edgegen-display/screen.png")


def findings(device, roots, fb=None):
    settings = load_settings(device.config, {})
    return list(check_display(settings, roots, lambda path: fb.open() if fb else Framebuffer(path)))


def test_off_is_well(device, roots, screen):
    (check,) = findings(device, roots)
    assert (check.state, check.message) == ("ok", f"off; there is {roots.dev}/fb0, {roots.dev}/fb1")


def test_a_screen_that_nobody_draws_on_is_told(device, roots, screen):
    device.write_config(f'[display]\noutput = "framebuffer"\ndevice = "{screen.path}"\n')
    there, nobody = findings(device, roots, screen)
    assert (there.state, there.message) == ("ok", f"{screen.path}: fakefb, 160x100, 32 bits a pixel")
    assert nobody.state == "warn" and nobody.advice == screens.START_IT


def test_a_screen_that_is_not_there_is_bad(device, roots):
    device.write_config(f'[display]\noutput = "framebuffer"\ndevice = "{roots.dev}/fb0"\n')
    check, _ = findings(device, roots)
    assert (check.state, check.advice) == ("bad", screens.SEE_SCREENS)
    assert "is a screen connected?" in check.message


@pytest.mark.parametrize(("folder", "state"), [("", "ok"), ("none/", "warn")])
def test_a_file_needs_its_folder(device, roots, folder, state):
    device.write_config(f'[display]\noutput = "file"\nfile = "{device.home}/{folder}screen.png"\n')
    assert findings(device, roots)[0].state == state


def test_the_command_draws_a_test_card(device):
    device.write_config(f'[display]\noutput = "file"\nfile = "{device.home}/s.png"\nfile_size = "160x100"\n')
    result = device.run("display", "--test-card")
    assert (result.exit_code, result.stdout) == (0, f"{device.home}/s.png, 160x100\n")
    assert (device.home / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_test_card_for_no_screen_is_refused(device):
    result = device.run("display", "--test-card")
    assert result.exit_code == 78
    assert "display.output is off" in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rotate = 45", "45 is not one of 0, 90, 180 or 270"),
        ('output = "framebufer"', "did you mean framebuffer?"),
        ('backgroud = "#fff"', "did you mean background?"),
        ('background = "black"', "display.background"),
        ('file_size = "10x10"', "display.file_size"),
    ],
)
def test_wrong_settings_are_told(device, line, said):
    device.write_config(f"[display]\n{line}\n")
    result = device.run("config", "validate")
    assert result.exit_code == 78
    assert said in result.stdout + result.stderr


def test_a_rotation_is_set_as_a_number(device):
    assert device.run("config", "set", "display.rotate=90").exit_code == 0
    assert device.run("config", "get", "display.rotate").stdout == "90\n"
    assert load_settings(device.config, {"EDGEGEN_DISPLAY__ROTATE": "270"}).display.rotate == 270
