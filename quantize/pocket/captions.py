"""Words for the pictures: captions to train on, captions to be judged by."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

from .data import Emoji
from .palette import BACKGROUNDS

COLOURS_EACH = 6  # every emoji is seen on white and on five more: the other crossings stay unseen
_WITH_COLOUR = {  # form: how often
    "{thing} on a {colour} background": 5,
    "{thing} on {colour}": 2,
    "{thing}, {colour} background": 2,
    "{colour} background, {thing}": 1,
}
_PLAIN_COLOUR = "white"  # words that name no background get a white one


def colours_seen(emoji: Emoji) -> tuple[str, ...]:
    """The background colours this emoji is trained on: `white` and a fixed, even choice of others."""
    others = [c for c in BACKGROUNDS if c != _PLAIN_COLOUR]
    ranked = sorted(others, key=lambda c: hashlib.sha256(f"{emoji.file}/{c}".encode()).digest())
    return (_PLAIN_COLOUR, *ranked[: COLOURS_EACH - 1])


def judged_caption(emoji: Emoji, colour: str) -> str:
    """The plain form that obedience is measured with."""
    return f"{emoji.label} on a {colour} background"


def own_tags(emojis: list[Emoji]) -> dict[str, tuple[str, ...]]:
    """Tags that belong to one emoji alone, by file: other names for the same thing."""
    labels = {e.label for e in emojis}
    count = Counter(tag for e in emojis for tag in set(e.tags))
    return {e.file: tuple(t for t in e.tags if count[t] == 1 and t not in labels) for e in emojis}


def random_caption(emoji: Emoji, colour: str, aliases: tuple[str, ...], rng: random.Random) -> str:
    """One way to ask for this picture."""
    thing = emoji.label
    if aliases and rng.random() < 0.12:
        thing = rng.choice(aliases)
    elif emoji.tags and rng.random() < 0.08:
        thing = f"{thing}, {rng.choice(emoji.tags)}"
    elif rng.random() < 0.3:
        thing = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    if colour == _PLAIN_COLOUR and rng.random() < 0.5:
        return thing
    form = rng.choices(list(_WITH_COLOUR), list(_WITH_COLOUR.values()))[0]
    return form.format(thing=thing, colour=colour)
