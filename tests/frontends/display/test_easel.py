"""Scenes on a screen: what is drawn, and that no more of it is drawn than has changed."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from PIL import Image, ImageChops

from edgegen.errors import StorageError
from edgegen.frontends.display.drawing import Style, draw_parts
from edgegen.frontends.display.easel import FIRST_RETRY_S, LONGEST_RETRY_S, Easel, turned, turned_corner
from edgegen.frontends.display.framebuffer import Framebuffer
from edgegen.frontends.display.layout import layout
from edgegen.frontends.display.lettering import Typeface
from edgegen.frontends.display.pixelformat import DisplayError
from edgegen.frontends.display.pngfile import PngFile
from edgegen.frontends.display.scenes import Dark, Drawing, Failed, SafeMode, Showing, Waiting
from edgegen.settings import DisplaySettings

from .fakefb import FakeFramebuffer

SIZE = (160, 100)
TURNS = (0, 90, 180, 270)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def corners(size=(40, 20)) -> Image.Image:
    """Red, green, blue and white, clockwise from the upper left."""
    image = Image.new("RGB", size)
    width, height = size[0] // 2, size[1] // 2
    for colour, at in zip(("red", "lime", "blue", "white"), ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True):
        image.paste(colour, (at[0] * width, at[1] * height, (at[0] + 1) * width, (at[1] + 1) * height))
    return image


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    corners().save(folder / "wide.png")
    corners((20, 40)).save(folder / "tall.jpg", quality=95)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def clock():
    return Clock()


class Recorder(Framebuffer):
    """Counts the bytes that it sends."""

    sent = 0

    def _write(self, data, at):
        self.sent += len(data)
        super()._write(data, at)


@pytest.fixture
def make_easel(tmp_path, gallery, clock):
    """An easel on a fake framebuffer, and both of its ends."""

    def make(**settings):
        fb = FakeFramebuffer(tmp_path / "fb0", *SIZE)
        screens = []

        def open_screen():
            screens.append(Recorder(fb.path, fb.ioctl))
            return screens[-1]

        wanted = DisplaySettings(**settings)
        style = Style(wanted.background, Typeface(), gallery)
        return Easel(open_screen, wanted, style, clock), fb, screens

    return make


def expected(scene, gallery, rotate=0, **settings):
    wanted = DisplaySettings(rotate=rotate, **settings)
    size = SIZE[::-1] if rotate in (90, 270) else SIZE
    style = Style(wanted.background, Typeface(), gallery)
    return turned(draw_parts(layout(scene, size, wanted), size, style), rotate)


def is_same(one, other):
    return not ImageChops.difference(one, other).getbbox()


@pytest.mark.parametrize("rotate", TURNS)
def test_a_turned_piece_lies_where_it_belongs(rotate):
    size, box = (10, 6), (2, 1, 5, 3)
    whole = Image.new("RGB", size)
    whole.paste("red", box)
    left, top = turned_corner(box, size, rotate)
    piece = turned(whole.crop(box), rotate)
    canvas = Image.new("RGB", turned(whole, rotate).size)
    canvas.paste(piece, (left, top))
    assert is_same(canvas, turned(whole, rotate))


def test_turning_is_clockwise():
    assert turned(corners(), 90).getpixel((19, 0)) == (255, 0, 0)  # what was upper left is upper right
    assert turned(corners(), 270).getpixel((0, 39)) == (255, 0, 0)


@pytest.mark.parametrize("rotate", TURNS)
def test_progress_changes_its_strip_alone_and_ends_as_if_drawn_whole(make_easel, gallery, clock, rotate):
    easel, fb, screens = make_easel(rotate=rotate)
    easel.show(Drawing("an owl", 1, 20, 19))
    whole = screens[0].sent
    clock.now += 1
    scene = Drawing("an owl", 2, 20, 18)
    easel.show(scene)
    assert 0 < screens[0].sent - whole < 0.1 * whole
    assert is_same(fb.seen(), expected(scene, gallery, rotate))


def test_what_stands_there_is_not_drawn_again(make_easel, clock):
    easel, _, screens = make_easel()
    easel.show(Waiting())
    sent = screens[0].sent
    clock.now += 1
    easel.show(Waiting())
    assert screens[0].sent == sent
    assert easel.due_s(Waiting()) is None


def test_small_changes_come_with_rests(make_easel, clock):
    easel, _, screens = make_easel()
    easel.show(Drawing("an owl", 1, 20))
    easel.show(Drawing("an owl", 2, 20))
    sent = screens[0].sent
    easel.show(Drawing("an owl", 3, 20))
    assert screens[0].sent == sent
    assert easel.due_s(Drawing("an owl", 3, 20)) == Framebuffer.rest_s
    clock.now += Framebuffer.rest_s
    easel.show(Drawing("an owl", 3, 20))
    assert screens[0].sent > sent


SCENES = [
    Waiting("why"),
    Drawing("an owl", 3, 9, 4),
    Showing("wide.png", "four colours"),
    Failed("an owl", "there was no room"),
    SafeMode(("a", "b")),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: type(scene).__name__)
@pytest.mark.parametrize("rotate", TURNS)
def test_every_scene_after_every_other(make_easel, gallery, clock, scene, rotate):
    easel, fb, _ = make_easel(rotate=rotate)
    for before in SCENES:
        for one in (before, scene):
            clock.now += 1
            easel.show(one)
        assert is_same(fb.seen(), expected(scene, gallery, rotate))


def test_dark_and_light_again(make_easel, gallery, clock):
    easel, fb, _ = make_easel(background="#404040")
    easel.show(Showing("wide.png", ""))
    easel.show(Dark())
    assert not fb.seen().getbbox()
    assert easel.due_s(Dark()) is None
    easel.show(Showing("wide.png", ""))
    assert is_same(fb.seen(), expected(Showing("wide.png", ""), gallery, background="#404040"))
    assert fb.blanked == [4, 0]


def test_what_others_drew_over_comes_back(make_easel, gallery):
    easel, fb, _ = make_easel()
    easel.show(Waiting())
    fb.path.write_bytes(bytes(len(fb.path.read_bytes())))
    easel.forget()
    easel.show(Waiting())
    assert is_same(fb.seen(), expected(Waiting(), gallery))


def test_contain_shows_all_corners_cover_fills_the_screen(make_easel, clock):
    contained, fb, _ = make_easel(fit="contain", background="#808080")
    contained.show(Showing("wide.png", ""))
    seen = fb.seen()
    assert seen.getpixel((80, 2)) == (128, 128, 128)  # 2:1 on 8:5: a band above and one below
    assert [seen.getpixel(at) for at in ((2, 12), (157, 12), (157, 87))] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255)]  # fmt: skip
    covering, fb, _ = make_easel(fit="cover", background="#808080")
    covering.show(Showing("tall.jpg", ""))
    assert (128, 128, 128) not in [colour for _, colour in fb.seen().getcolors(1 << 20)]


def test_a_picture_that_is_none_is_told_and_the_screen_lives_on(make_easel, gallery):
    easel, fb, _ = make_easel()
    for name in ("broken.png", "none.png"):
        with pytest.raises(StorageError, match=name):
            easel.show(Showing(name, ""))
    easel.show(Waiting())
    assert is_same(fb.seen(), expected(Waiting(), gallery))


def test_a_bomb_is_not_decoded(make_easel, gallery):
    """9000x9000 pixels of one colour in a small file."""
    Image.new("1", (9000, 9000)).save(gallery / "bomb.png")
    with pytest.raises(StorageError, match=r"bomb\.png"):
        make_easel()[0].show(Showing("bomb.png", ""))


@pytest.mark.parametrize("junk", [b"junk", b"\xff\xd8\xff\xe0 junk", b"\x89PNG\r\n\x1a\n"])
def test_a_preview_that_is_none_is_left_out(make_easel, junk):
    easel, fb, _ = make_easel()
    easel.show(Drawing("", 0, 0, preview=junk))
    assert fb.seen().getpixel((80, 30)) == (0, 0, 0)


def test_a_preview_is_shown(make_easel):
    easel, fb, _ = make_easel()
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (0, 128, 0)).save(data, "JPEG")
    easel.show(Drawing("", 0, 0, preview=data.getvalue()))
    red, green, blue = fb.seen().getpixel((80, 30))
    assert red < 4 and abs(green - 128) < 4 and blue < 4


def test_a_screen_that_is_not_there_is_tried_again_less_and_less_often(gallery, clock, caplog):
    tries = []

    def open_screen():
        tries.append(clock.now)
        raise DisplayError("/dev/fb0 is not there")

    easel = Easel(open_screen, DisplaySettings(), Style("#000000", Typeface(), gallery), clock)
    while clock.now < 400:
        easel.show(Waiting())
        clock.now += max(0.5, easel.due_s(Waiting()))
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert max(pauses) == LONGEST_RETRY_S
    assert [record.getMessage() for record in caplog.records].count(
        "nothing can be shown, tried again and again: /dev/fb0 is not there"
    ) == 1


def test_whatever_a_library_raises_ends_nothing(make_easel, gallery, clock, monkeypatch, caplog):
    easel, fb, _ = make_easel()
    easel.show(Waiting())
    monkeypatch.setattr("edgegen.frontends.display.drawing.contained", lambda *_: 1 // 0)
    clock.now += 1
    easel.show(Showing("wide.png", ""))
    assert "ZeroDivisionError" in caplog.text
    assert easel.due_s(Showing("wide.png", "")) == FIRST_RETRY_S
    clock.now += FIRST_RETRY_S
    easel.show(Failed("", "no"))
    assert is_same(fb.seen(), expected(Failed("", "no"), gallery))


def test_a_screen_that_changes_is_opened_anew(make_easel, clock):
    easel, fb, screens = make_easel()
    easel.show(Waiting())
    fb.width, fb.height = 100, 160
    fb.path.write_bytes(bytes(fb.stride * fb.height))
    clock.now += 1
    easel.show(Drawing("an owl"))
    clock.now += easel.due_s(Drawing("an owl"))
    easel.show(Drawing("an owl"))
    assert len(screens) == 2
    assert fb.seen().getbbox()


def test_a_png_is_replaced_whole(tmp_path):
    screen = PngFile(tmp_path / "new/screen.png", (40, 20))
    screen.show([(corners(), 0, 0)])
    with (tmp_path / "new/screen.png").open("rb") as old:
        screen.show([(Image.new("RGB", (4, 4), "black"), 2, 2), (Image.new("RGB", (1, 1), "black"), 39, 19)])
        assert is_same(Image.open(old).convert("RGB"), corners())
    wanted = corners()
    wanted.paste("black", (2, 2, 6, 6))
    wanted.putpixel((39, 19), (0, 0, 0))
    assert is_same(Image.open(tmp_path / "new/screen.png"), wanted)
    screen.dark(True)
    assert not Image.open(tmp_path / "new/screen.png").getbbox()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["screen.png"]
