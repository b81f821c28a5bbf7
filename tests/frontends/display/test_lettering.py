"""Words on the screen: they fit, and letters that no font has leave no boxes behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgegen.frontends.display import lettering
from edgegen.frontends.display.layout import duration, progress_text
from edgegen.frontends.display.lettering import (
    MORE_FONTS,
    Typeface,
    readable_typeface,
    wrapped,
    writable,
    write,
)
from edgegen.frontends.display.scenes import Drawing

LATIN = Typeface()


@pytest.fixture
def no_more_fonts(monkeypatch):
    """A device without any font but ours."""
    monkeypatch.setattr(lettering, "MORE_FONTS", ())
    lettering.writable.cache_clear()
    yield
    lettering.writable.cache_clear()


@pytest.mark.parametrize("text", ["a fox", '"quoted", 91 °C: (it) is [fine]…', "x" * 300])
def test_plain_words_stay_as_they_are(text):
    assert writable(text, LATIN) == (text, LATIN)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("naïve café — ½ of it", "naive cafe - 1⁄2 of it"),
        ("Łódź, Žižkov, Þórr, ğ, straße", "Lodz, Zizkov, Thorr, g, strasse"),
        ("лиса", ""),
    ],
)
@pytest.mark.usefixtures("no_more_fonts")
def test_without_their_font_letters_lose_their_accents(text, read):
    assert writable(text, LATIN) == (read, LATIN)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a fox 🦊 on teal", "a fox on teal"),
        ("line\nbreak\t\x1b[31mred\u202e\u2066 end", "line break [31mred end"),
        ("𓃥𓃦𓃧", ""),
        ("a 𓃥𓃦𓃧𓃨", ""),
        ("", ""),
        ("  ", ""),
    ],
)
def test_what_cannot_be_written_is_left_out(text, kept):
    assert writable(text, LATIN)[0] == kept


@pytest.mark.skipif(not Path(MORE_FONTS[0]).is_file(), reason="DejaVu is not installed")
def test_another_font_has_other_letters():
    for text in ("лиса", "naïve café", "Łódź"):
        assert writable(text, LATIN) == (text, Typeface(Path(MORE_FONTS[0])))


def test_a_font_that_cannot_be_read_is_replaced(tmp_path, caplog):
    (tmp_path / "font.ttf").write_text("no font")
    for path in (tmp_path / "font.ttf", tmp_path / "none.ttf", tmp_path):
        assert readable_typeface(path) == LATIN
    assert len(caplog.records) == 3


def test_lines_fit_and_nothing_is_lost_between_them():
    font, text = LATIN.at(20), "words of some lengths, and averyverylongonethatmustbecutsomewhere in the end"
    lines = wrapped(text, font, 120, 20)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("width", [1, 30, 120])
def test_too_much_ends_in_dots(width):
    font = LATIN.at(20)
    lines = wrapped("many words " * 40, font, width, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")


@pytest.mark.parametrize("text", ["one line", "many words " * 99])
def test_letters_stay_in_their_box(text):
    image = Image.new("RGB", (200, 100), "#000000")
    write(image, text, LATIN, 20, "#ffffff", 3)
    left, top, right, bottom = image.getbbox()
    assert left > 0 and right < 200 and top > 0 and bottom < 100


@pytest.mark.parametrize(
    ("drawing", "text"),
    [
        (Drawing("x"), "Getting ready"),
        (Drawing("x", 0, 20, 40.0), "Getting ready"),
        (Drawing("x", 3, 20, 40.4), "Step 3 of 20, about 40 s left"),
        (Drawing("x", 3, 20), "Step 3 of 20"),
        (Drawing("x", 19, 20, 0.3), "Step 19 of 20"),
        (Drawing("x", 20, 20, 0.0), "Finishing"),
        (Drawing("x", 3, 20, 9, note="paused: hot"), "Paused: hot"),
    ],
)
def test_progress_in_words(drawing, text):
    assert progress_text(drawing) == text


def test_durations_are_round():
    assert [duration(s) for s in (5, 89, 90, 300, 5399, 5400, 86400)] == [
        "5 s", "89 s", "2 min", "5 min", "90 min", "2 h", "24 h"]  # fmt: skip
