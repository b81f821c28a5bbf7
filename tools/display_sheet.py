"""Every screen that `edgegen display` shows, side by side in one picture, for people to look at.

    python tools/display_sheet.py OUT.png [--pictures FOLDER]

Draws its pictures with the built-in pack, or takes those of a folder:
square.png, portrait.png, landscape.png and preview.jpg.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgegen.frontends.display.drawing import Style, draw_parts, legible
from edgegen.frontends.display.easel import turned
from edgegen.frontends.display.layout import layout
from edgegen.frontends.display.lettering import Typeface
from edgegen.frontends.display.scenes import Drawing, Failed, SafeMode, Scene, Showing, Waiting
from edgegen.frontends.display.testcard import test_card
from edgegen.settings import DisplaySettings

SIZE = (960, 540)
PROMPT = "a fox on a teal background"
LONG_PROMPT = (
    "a very long prompt that goes on about a lighthouse on a cliff above a stormy sea at dusk, gulls, "
    "salt in the air, a single lit window, oil on canvas, thick brush strokes, by nobody in particular"
)
COLUMNS, CELL, GAP = 3, (480, 480), 12


def make_pictures(folder: Path) -> None:
    """One with the built-in pack, whose pictures are square, and a tall and a wide part of it."""
    square, preview = folder / "square.png", folder / "preview.jpg"
    command = [sys.executable, "-m", "edgegen", "generate", PROMPT, "--seed", "3", "--steps", "6"]
    subprocess.run([*command, "-o", str(square), "--preview", str(preview)], check=True)
    with Image.open(square) as image:
        image.crop((43, 0, 213, 256)).save(folder / "portrait.png")
        image.crop((0, 43, 256, 213)).save(folder / "landscape.png")


def screens(pictures: Path) -> list[tuple[str, Scene, dict[str, object]]]:
    """What each is called, the scene, and the settings that differ from the defaults."""
    portrait, landscape = Showing("portrait.png", PROMPT), Showing("landscape.png", PROMPT)
    preview = (pictures / "preview.jpg").read_bytes()
    hot = "paused: the CPU has 91 °C; goes on below 82 °C"
    fault = "Something went wrong. What it was is in the log of the device."
    problem = "/etc/edgegen/config.toml:7: mqtt.port: 0 is not allowed: 1 to 65535"
    return [
        ("waiting", Waiting(), {}),
        ("waiting, no front", Waiting("The service is not running"), {"background": "#f4f0e8"}),
        ("drawing, just begun", Drawing(PROMPT), {}),
        ("drawing", Drawing(PROMPT, 12, 30, 41), {}),
        ("drawing, a long prompt", Drawing(LONG_PROMPT, 3, 20, 400), {}),
        ("drawing, preview", Drawing(PROMPT, 12, 30, 41, preview=preview), {}),
        ("drawing, paused", Drawing(PROMPT, 12, 30, note=hot), {}),
        ("drawing, portrait screen", Drawing(PROMPT, 12, 30, 41, preview=preview), {"rotate": 90}),
        ("square, contain", Showing("square.png", PROMPT), {}),
        ("landscape, contain", landscape, {}),
        ("portrait, contain", portrait, {}),
        ("landscape, cover", landscape, {"fit": "cover"}),
        ("portrait, cover", portrait, {"fit": "cover"}),
        ("contain, no caption", portrait, {"caption": False}),
        ("contain, long caption, light", Showing("landscape.png", LONG_PROMPT), {"background": "#f4f0e8"}),
        ("cover, long caption", Showing("landscape.png", LONG_PROMPT), {"fit": "cover"}),
        ("turned by 90", portrait, {"rotate": 90}),
        ("turned by 180", portrait, {"rotate": 180}),
        ("turned by 270", portrait, {"rotate": 270}),
        ("Cyrillic, Greek", Showing("portrait.png", "лиса на бирюзовом фоне · μια αλεπού"), {}),
        ("emoji between words", Showing("portrait.png", "a fox 🦊 on teal 🩵 — naïve, “quoted”"), {}),
        ("letters that no font here has", Showing("portrait.png", "𓃥𓃦𓃧𓃨𓃩"), {}),
        ("failed", Failed(PROMPT, "there was not enough memory: lower width and height"), {}),
        ("failed, a fault of ours", Failed("", fault), {}),
        ("safe mode", SafeMode((problem, "b")), {}),
    ]  # fmt: skip


def draw(scene: Scene, changes: dict[str, object], pictures: Path, size: tuple[int, int]) -> Image.Image:
    settings = DisplaySettings.model_validate(changes)
    canvas = size[::-1] if settings.rotate in (90, 270) else size
    style = Style(settings.background, Typeface(), pictures)
    scene = legible(scene, style)
    return turned(draw_parts(layout(scene, canvas, settings), canvas, style), settings.rotate)


def sheet(cells: list[tuple[str, Image.Image]]) -> Image.Image:
    width, height = CELL[0], CELL[0] * SIZE[1] // SIZE[0] + 28
    rows = -(-len(cells) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, rows * (height + GAP) + GAP), "#606060")
    pen = ImageDraw.Draw(page)
    for i, (name, image) in enumerate(cells):
        left, top = GAP + i % COLUMNS * (width + GAP), GAP + i // COLUMNS * (height + GAP)
        pen.text((left, top + 2), name, "#ffffff", Typeface().at(18))
        page.paste(image.resize((width, height - 28), Image.Resampling.LANCZOS), (left, top + 28))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        pictures = asked.pictures or Path(made)
        if not asked.pictures:
            make_pictures(pictures)
        cells = [(name, draw(scene, changes, pictures, SIZE)) for name, scene, changes in screens(pictures)]
    cells.append(("test card", test_card(SIZE, 0)))
    cells.append(("test card, turned by 90", turned(test_card(SIZE[::-1], 90), 90)))
    sheet(cells).save(asked.out, quality=70)


if __name__ == "__main__":
    main()
