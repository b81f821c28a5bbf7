"""Words on the screen: fonts that have the letters, lines that fit."""

from __future__ import annotations

import logging
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont
# Where Debian puts fonts of many scripts, for words that the built-in letters cannot write.
MORE_FONTS = (
    *(
        "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
        "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    ),
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
)
NOWHERE = "\uffff"  # no character: what fonts draw for it is what they draw for all they lack
MOST_LACKING = 0.25  # with more letters left out, words say nothing
JOINERS = "\u200c\u200d"
LINE_HEIGHT = 1.3


PLAIN = {
    **{"Ł": "L", "ł": "l", "Ø": "O", "ø": "o", "Đ": "D", "đ": "d", "Ð": "D", "ð": "d", "ı": "i", "ß": "ss"},
    **{
        "Æ": "AE",
        "æ": "ae",
        "Œ": "OE",
        "œ": "oe",
        "Þ": "Th",
        "þ": "th",
        "–": "-",
        "—": "-",
        "×": "x",
        "•": "·",
    },
}


@dataclass(frozen=True)
class Typeface:
    """A font file at any size; `path` None: the letters that come with Pillow (Aileron's, of ASCII)."""

    path: Path | None = None

    def at(self, size: int) -> Font:
        return _load(self.path, size)

    def lacks(self, letter: str) -> bool:
        """Whether it draws its stand-in for letters that it does not have."""
        return not letter.isspace() and letter not in JOINERS and _lacks(self.path, letter)


def readable_typeface(path: Path | None) -> Typeface:
    """The one that is configured; the built-in one when that cannot be read."""
    if path is not None:
        try:
            _load(path.expanduser(), 20)
        except (OSError, ValueError) as err:
            log.warning("display.font %s cannot be used, the built-in letters stand in: %s", path, err)
        else:
            return Typeface(path.expanduser())
    return Typeface()


@lru_cache(maxsize=64)
def writable(text: str, wanted: Typeface) -> tuple[str, Typeface]:
    """What of a text can be written, and in which typeface: the wanted one, else one that has its letters.

    Letters that no font here has lose their accents, or are left out (emoji, mostly); with too many of those
    nothing is left.
    """
    line = one_line(text)
    letters = set(line) - set(" ")
    faces = [wanted, *(Typeface(Path(path)) for path in MORE_FONTS if Path(path).is_file())]
    face = min(faces, key=lambda face: sum(face.lacks(letter) for letter in letters))  # the first of the best
    kept = [stand_in(letter, face) if face.lacks(letter) else letter for letter in line]
    lost = sum(not letter for letter in kept)
    return (" ".join("".join(kept).split()) if lost <= MOST_LACKING * len(line) else ""), face


def stand_in(letter: str, face: Typeface) -> str:
    """What can be read for a letter that the face lacks: `e` for `é`, `ss` for `ß`; empty without any."""
    plain = PLAIN.get(letter) or "".join(
        part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)
    )
    return "" if any(face.lacks(part) for part in plain) else plain


def one_line(text: str) -> str:
    """Without what is no letter: control characters, direction marks, line ends."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if c in JOINERS or not unicodedata.category(c).startswith("C"))


def wrapped(text: str, font: Font, width: int, lines: int) -> list[str]:
    """At most so many lines of at most `width` pixels; the last ends in … where some was cut."""
    found: list[str] = []
    rest = text
    while rest and len(found) < lines:
        line = _first_line(rest, font, width)
        rest = rest[len(line) :].lstrip()
        found.append(line.rstrip())
    if rest and found:
        found[-1] = _shortened(found[-1] + "…", font, width)
    return found


def _first_line(text: str, font: Font, width: int) -> str:
    """As many words as fit; a word that is too long, and scripts without spaces, are cut anywhere."""
    if font.getlength(text) <= width:
        return text
    fits, longest = 1, len(text)
    while fits < longest:  # the most letters that fit
        middle = (fits + longest + 1) // 2
        fits, longest = (middle, longest) if font.getlength(text[:middle]) <= width else (fits, middle - 1)
    if text[fits : fits + 1].isspace():
        return text[:fits]
    space = text.rfind(" ", 0, fits)
    return text[: space + 1] if space > 0 else text[:fits]


def _shortened(line: str, font: Font, width: int) -> str:
    while len(line) > 2 and font.getlength(line) > width:
        line = line[:-2].rstrip(" ,.;:") + "…"
    return line


def write(image: Image.Image, text: str, face: Typeface, size: int, colour: str, lines: int) -> None:
    """Centred in the picture, on at most so many lines."""
    if not (text := text.strip()):
        return
    font = face.at(size)
    found = wrapped(text, font, image.width, lines)
    height = round(size * LINE_HEIGHT)
    top = (image.height - height * len(found)) // 2
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(found):
        draw.text((image.width / 2, top + (i + 0.5) * height), line, fill=colour, font=font, anchor="mm")


@lru_cache(maxsize=16)
def _load(path: Path | None, size: int) -> Font:
    if path is not None:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@lru_cache(maxsize=4096)
def _lacks(path: Path | None, letter: str) -> bool:
    font = _load(path, 20)
    return bytes(font.getmask(letter)) == _unknown(path)


@lru_cache(maxsize=8)
def _unknown(path: Path | None) -> bytes:
    return bytes(_load(path, 20).getmask(NOWHERE))
