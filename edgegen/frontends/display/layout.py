"""Where on the screen everything is, for each scene. Pure: boxes and what is in them, no pixels."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import DisplaySettings
from .scenes import Dark, Drawing, Failed, SafeMode, Scene, Showing, Waiting

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

ATTENTION = "This device needs attention"
NO_JOBS = "Its configuration is broken, and it takes no jobs. Log in over SSH and run: edgegen status"
NO_PICTURE = "No picture this time"


@dataclass(frozen=True)
class Words:
    """Centred in its box. size: of the letters in pixels. is_quiet: less contrast."""

    text: str
    size: int
    lines: int = 1
    is_quiet: bool = False


@dataclass(frozen=True)
class Bar:
    """Progress; `done` is 0 to 1."""

    done: float


@dataclass(frozen=True)
class Preview:
    """A JPEG, contained in its box."""

    jpeg: bytes


@dataclass(frozen=True)
class Picture:
    """A file of the gallery; `covers`: filling the box. caption: over its lower edge; size: its letters."""

    name: str
    covers: bool
    caption: str = ""
    size: int = 0


Content = Words | Bar | Preview | Picture


@dataclass(frozen=True)
class Part:
    """Boxes of a layout never overlap, so a part may change alone."""

    box: Box
    content: Content


class Grid:
    """Boxes on a screen of that size, in hundredths of its shorter side."""

    def __init__(self, size: tuple[int, int]):
        self.width, self.height = size
        self.unit = min(size) / 100

    def size(self, hundredths: float) -> int:
        return max(8, round(hundredths * self.unit))

    def band(self, top: float, bottom: float, width: float = 1.0) -> Box:
        """From one height to another: from the top, or negative from the bottom, as slices have it."""
        side = round(self.width * (1 - width) / 2)
        upper = round(top * self.unit) + (self.height if top < 0 else 0)
        lower = round(bottom * self.unit) + (self.height if bottom <= 0 else 0)
        return side, upper, self.width - side, lower

    def middle(self, top: float, bottom: float, width: float = 0.86) -> Box:
        """Rows so far above (negative) or below the middle."""
        side, centre = round(self.width * (1 - width) / 2), self.height // 2
        return side, centre + round(top * self.unit), self.width - side, centre + round(bottom * self.unit)


def layout(scene: Scene, size: tuple[int, int], settings: DisplaySettings) -> tuple[Part, ...]:
    """The parts of a scene; empty for a dark one."""
    grid = Grid(size)
    match scene:
        case Waiting():
            return _waiting(scene, grid, settings)
        case Drawing():
            return _drawing(scene, grid)
        case Showing():
            return _showing(scene, grid, settings)
        case Failed():
            return _failed(scene, grid)
        case SafeMode():
            return _safe_mode(scene, grid)
        case Dark():
            return ()


def _waiting(scene: Waiting, grid: Grid, settings: DisplaySettings) -> tuple[Part, ...]:
    text = Part(grid.middle(-12, 12), Words(settings.waiting_text, grid.size(5.5), lines=3, is_quiet=True))
    note = Part(grid.band(-10, -4, 0.86), Words(scene.note, grid.size(3.2), is_quiet=True))
    return text, note


def _drawing(scene: Drawing, grid: Grid) -> tuple[Part, ...]:
    """The lower part stays where it is, with and without a preview."""
    if scene.preview:
        upper: tuple[Part, ...] = (
            Part(grid.band(5, -29, 0.9), Preview(scene.preview)),
            Part(grid.band(-27, -16, 0.86), Words(scene.prompt, grid.size(3.8), lines=2)),
        )
    else:
        upper = (Part(grid.band(5, -16, 0.8), Words(scene.prompt, grid.size(5.5), lines=5)),)
    done = scene.step / scene.steps if scene.steps else 0.0
    told = Words(progress_text(scene), grid.size(3.2), is_quiet=True)
    return *upper, Part(grid.band(-14, -12.8, 0.6), Bar(done)), Part(grid.band(-11, -5, 0.86), told)


def progress_text(scene: Drawing) -> str:
    """`Step 3 of 20, about 40 s left`; why it rests; or that it begins or ends."""
    if scene.note:
        return _sentence(scene.note)
    if not scene.steps or not scene.step:
        return "Getting ready"
    if scene.step >= scene.steps:
        return "Finishing"
    left = f", about {duration(scene.eta_s)} left" if scene.eta_s is not None and scene.eta_s >= 1 else ""
    return f"Step {scene.step} of {scene.steps}{left}"


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `2 h`: people need no more of it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _showing(scene: Showing, grid: Grid, settings: DisplaySettings) -> tuple[Part, ...]:
    caption = scene.prompt if settings.caption else ""
    covers, size = settings.fit == "cover", grid.size(3.6)
    if covers or not caption:
        return (Part(grid.band(0, 0), Picture(scene.picture, covers, caption, size)),)
    picture = Part(grid.band(0, -10), Picture(scene.picture, covers))
    return picture, Part(grid.band(-10, 0, 0.92), Words(caption, size, lines=2, is_quiet=True))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _failed(scene: Failed, grid: Grid) -> tuple[Part, ...]:
    return (
        Part(grid.middle(-24, -10), Words(scene.prompt, grid.size(3.8), lines=2, is_quiet=True)),
        Part(grid.middle(-8, 2), Words(NO_PICTURE, grid.size(5.5))),
        Part(grid.middle(5, 22), Words(_sentence(scene.reason), grid.size(3.6), lines=3, is_quiet=True)),
    )


def _safe_mode(scene: SafeMode, grid: Grid) -> tuple[Part, ...]:
    first, *others = scene.problems or ("",)
    more = f" (and {len(others)} more)" if others else ""
    return (
        Part(grid.middle(-16, -4), Words(ATTENTION, grid.size(5.5))),
        Part(grid.middle(-2, 8), Words(NO_JOBS, grid.size(3.6), lines=2, is_quiet=True)),
        Part(grid.middle(11, 26), Words(first + more, grid.size(3), lines=3, is_quiet=True)),
    )
