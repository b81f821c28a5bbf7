"""Prompts to calibrate and to judge with; the two never meet."""

from __future__ import annotations

import random
from pathlib import Path

from .source import SourceError

MAX_BYTES = 1 << 20
_CALIBRATION_THINGS = (
    "red apple|pizza|smiling face|dog|rocket|guitar|tree|ghost|house|butterfly|bicycle|coffee cup|crown|"
    "dolphin|envelope|flower|gift box|hat|ice cream|key|lemon|moon|owl|pencil|robot|sailboat|star|trophy|"
    "umbrella|violin|watch|zebra"
)
_EVALUATION_THINGS = (
    "banana|birthday cake|cat face|fire engine|heart|hedgehog|hot dog|light bulb|mushroom|octopus|panda|"
    "penguin|pineapple|rainbow|rose|school bus|snowman|soccer ball|strawberry|sun|sunflower|teddy bear|"
    "telephone|tiger|whale"
)
_COLOURS = "white|black|grey|red|orange|yellow|green|teal|sky blue|blue|navy|purple|pink|brown|cream"


def calibration_prompts(count: int) -> list[str]:
    """Things over plain colours, and things alone; always the same for one count."""
    return _crossed(_CALIBRATION_THINGS, count, seed=1)


def evaluation_prompts(count: int) -> list[str]:
    """Other things than the calibration's."""
    return _crossed(_EVALUATION_THINGS, count, seed=2)


def _crossed(joined_things: str, count: int, seed: int) -> list[str]:
    """The same thing comes again only with another colour."""
    things, colours = joined_things.split("|"), _COLOURS.split("|")
    random.Random(seed).shuffle(colours)
    return [_prompt(things, colours, i) for i in range(count)]


def _prompt(things: list[str], colours: list[str], i: int) -> str:
    turn, k = divmod(i, len(things))
    alone = turn == 0 and k % 4 == 3
    return things[k] if alone else f"{things[k]} on a {colours[(turn + k) % len(colours)]} background"


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and lines starting with # do not count.

    Raises:
        SourceError: the file cannot be read or holds no prompt.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SourceError(f"{path} is larger than {MAX_BYTES} bytes")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        raise SourceError(f"prompts file {path} cannot be read: {err}") from err
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise SourceError(f"{path} holds no prompt; write one a line")
    return prompts
