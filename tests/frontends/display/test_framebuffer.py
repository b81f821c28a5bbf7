"""The framebuffer: layouts by their bits, strides and offsets, what is refused, and what it says then."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from edgegen.frontends.display.framebuffer import POWER_DOWN, UNBLANK, Framebuffer
from edgegen.frontends.display.pixelformat import FIX_SIZE, VAR_SIZE, DisplayError, read_geometry

from .fakefb import LAYOUTS, RGB565, XRGB8888, FakeFramebuffer, fix_bytes, var_bytes

HEADER = Path("/usr/include/linux/fb.h")
SIZE = (24, 10)
MEASURE = """
#include <linux/fb.h>
#include <stddef.h>
#include <stdio.h>
#define V(f) offsetof(struct fb_var_screeninfo, f)
#define F(f) offsetof(struct fb_fix_screeninfo, f)
int main(void) {
    printf("%zu %zu %zu %zu %zu %zu %zu ", sizeof(struct fb_var_screeninfo), V(bits_per_pixel), V(xoffset),
           V(red), V(green), V(blue), V(transp));
    printf("%zu %zu %zu %zu", sizeof(struct fb_fix_screeninfo), F(type), F(visual), F(line_length));
    return 0;
}
"""


@pytest.fixture
def make_fb(tmp_path):
    return lambda *args, **more: FakeFramebuffer(tmp_path / "fb0", *args, **more)


def colours(size=SIZE) -> Image.Image:
    """Corners of the cube, and slopes between them."""
    image = Image.new("RGB", size)
    for x in range(size[0]):
        for y in range(size[1]):
            image.putpixel(
                (x, y), (x * 255 // (size[0] - 1), y * 255 // (size[1] - 1), (x * 37 + y * 11) % 256)
            )
    return image


@pytest.mark.skipif(
    not (shutil.which("gcc") and HEADER.exists()), reason="needs gcc and the kernel's headers"
)
def test_the_structures_are_the_kernels(tmp_path):
    (tmp_path / "m.c").write_text(MEASURE)
    subprocess.run(["gcc", "m.c", "-o", "m"], cwd=tmp_path, check=True)
    told = subprocess.run([tmp_path / "m"], capture_output=True, text=True, check=True).stdout
    assert list(map(int, told.split())) == [VAR_SIZE, 24, 16, 32, 44, 56, 68, FIX_SIZE, 28, 36, 48]
    assert ctypes.sizeof(ctypes.c_long) == 8  # the last offset is that of 64 bits


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("padding", [0, 36])
def test_colours_come_out_as_they_went_in(make_fb, layout, padding):
    fb = make_fb(*SIZE, layout=layout, padding=padding)
    screen = fb.open()
    screen.show([(colours(), 0, 0)])
    step = 255 / ((1 << min(length for _, length in layout[1:4])) - 1)
    off = ImageChops.difference(fb.seen(), colours())
    assert max(high for _, high in off.getextrema()) <= (step if step > 1 else 0)


def test_bits_of_alpha_are_set(make_fb):
    fb = make_fb(2, 1, layout=LAYOUTS["ARGB8888"])
    fb.open().show([(Image.new("RGB", (2, 1), "#102030"), 0, 0)])
    assert fb.path.read_bytes() == bytes.fromhex("302010ff") * 2


def test_few_bits_are_dithered_to_the_mean(make_fb):
    """A grey between two levels of 5 bits: single pixels are off, the mean is not."""
    fb = make_fb(64, 64, layout=RGB565)
    fb.open().show([(Image.new("RGB", (64, 64), (100, 100, 100)), 0, 0)])
    means = ImageStat.Stat(fb.seen()).mean
    assert all(abs(mean - 100) < 1.6 for mean in means), means
    assert len(fb.seen().getcolors()) > 1


@pytest.mark.parametrize("padding", [0, 8])
def test_a_piece_changes_nothing_else(make_fb, padding):
    fb = make_fb(*SIZE, padding=padding)
    screen = fb.open()
    screen.show([(Image.new("RGB", SIZE, "#000000"), 0, 0)])
    screen.show([(Image.new("RGB", (5, 3), "#ff8000"), 7, 4), (Image.new("RGB", (24, 1), "#ffffff"), 0, 9)])
    wanted = Image.new("RGB", SIZE, "#000000")
    wanted.paste("#ff8000", (7, 4, 12, 7))
    wanted.paste("#ffffff", (0, 9, 24, 10))
    assert not ImageChops.difference(fb.seen(), wanted).getbbox()


def test_only_the_visible_part_is_touched(make_fb):
    fb = make_fb(4, 3, padding=4, xoffset=2, yoffset=5)
    fb.open().show([(Image.new("RGB", (4, 3), "#ffffff"), 0, 0)])
    rows = [fb.path.read_bytes()[i * fb.stride : (i + 1) * fb.stride] for i in range(8)]
    assert rows[:5] == [b"\xaa" * fb.stride] * 5
    assert rows[5:] == [b"\xaa" * 8 + b"\xff\xff\xff\x00" * 4 + b"\xaa" * 4] * 3


@pytest.mark.parametrize("knows_blanking", [True, False])
def test_dark_is_black_and_switches_the_light_off(make_fb, knows_blanking):
    fb = make_fb(*SIZE, padding=8, knows_blanking=knows_blanking)
    screen = fb.open()
    screen.dark(True)
    assert not fb.seen().getbbox()
    screen.dark(False)
    assert fb.blanked == ([POWER_DOWN, UNBLANK] if knows_blanking else [])


def test_what_was_there_can_be_brought_back(make_fb):
    fb = make_fb(*SIZE, padding=4, yoffset=1)
    before = fb.path.read_bytes()
    screen = fb.open()
    saved = screen.saved()
    screen.show([(colours(), 0, 0)])
    screen.restore(saved)
    assert fb.path.read_bytes() == before


def test_a_screen_of_another_size_is_noticed(make_fb):
    fb = make_fb(*SIZE)
    screen = fb.open()
    fb.width = 12
    with pytest.raises(DisplayError, match=r"has changed from .*24x10.* to .*12x10"):
        screen.show([(colours(), 0, 0)])


@pytest.mark.parametrize(
    ("var", "fix", "said"),
    [
        (var_bytes(8, 8, (8, (0, 8), (0, 8), (0, 8), (0, 0))), fix_bytes(8, visual=3), "8 bits a pixel"),
        (var_bytes(8, 8), fix_bytes(32, kind=1), "type 1"),
        (var_bytes(8, 8, grayscale=1), fix_bytes(32), "not drawn"),
        (var_bytes(8, 8), fix_bytes(31), "rows of 31 bytes"),
        (var_bytes(0, 8), fix_bytes(32), "0x8 pixels"),
        (var_bytes(1 << 20, 8), fix_bytes(1 << 23), "make no screen"),
        (var_bytes(8, 8, (32, (30, 8), (8, 8), (0, 8), (0, 0))), fix_bytes(32), "do not fit 32 bits"),
        (var_bytes(8, 8, (32, (16, 0), (8, 8), (0, 8), (0, 0))), fix_bytes(32), "do not fit 32 bits"),
    ],
)
def test_layouts_that_are_not_drawn_are_refused(var, fix, said):
    with pytest.raises(DisplayError, match=said):
        read_geometry(var, fix)


def test_a_geometry_says_what_it_is():
    assert str(read_geometry(var_bytes(1920, 1080), fix_bytes(7680, name=b"vc4drmfb"))) == (
        "vc4drmfb, 1920x1080, 32 bits a pixel"
    )


def test_what_is_wrong_is_said_in_one_sentence(tmp_path):
    with pytest.raises(DisplayError, match="is not there: is a screen connected"):
        Framebuffer(tmp_path / "fb0")
    (tmp_path / "file").touch()
    with pytest.raises(DisplayError, match="file is no framebuffer"):
        Framebuffer(tmp_path / "file")
    with pytest.raises(DisplayError, match="cannot be drawn on: Is a directory"):
        Framebuffer(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use everything")
def test_a_device_for_others(tmp_path):
    (tmp_path / "fb0").touch(0o000)
    with pytest.raises(DisplayError, match="is this user in group video"):
        Framebuffer(tmp_path / "fb0")


def test_a_device_that_goes_away_is_told(make_fb):
    screen = make_fb(*SIZE, layout=XRGB8888).open()
    os.close(screen._fd)
    screen._fd = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(DisplayError, match="cannot be drawn on"):
        screen.show([(colours(), 0, 0)])
    screen.close()
    screen.close()
