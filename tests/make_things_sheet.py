"""Make tests/packs/things.webp: thumbnails of the pictures `pocket` was taught first, to judge it by.

    python -m tests.make_things_sheet

32x32 each, from Microsoft's Fluent Emoji (MIT, licence in quantize/pocket/), in one column, in the order of
`data.taught`. The pictures come from the npm registry, as `python -m quantize.pocket data` fetches them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from quantize.pocket.data import emoji_list, load_rgba, taught
from quantize.pocket.obedience import THUMB

SHEET = Path(__file__).parent / "packs" / "things.webp"
WORK = Path("~/.cache/edgegen/pocket").expanduser()


def main() -> None:
    emojis = emoji_list()
    pictures = load_rgba(WORK, emojis)[taught(emojis, "first")]
    small = [Image.fromarray(p).resize((THUMB, THUMB), Image.Resampling.BOX) for p in pictures]
    Image.fromarray(np.concatenate([np.asarray(s) for s in small])).save(SHEET, lossless=True)


if __name__ == "__main__":
    main()
