import random

from quantize.pocket.captions import COLOURS_EACH, colours_seen, judged_caption, own_tags, random_caption
from quantize.pocket.data import emoji_list, plain
from quantize.pocket.palette import BACKGROUNDS

EMOJIS = emoji_list()
CORE = [e for e in EMOJIS if e.core]


def test_labels_are_unique_and_typed_with_plain_letters():
    labels = [e.label for e in EMOJIS]
    assert len(set(labels)) == len(labels)
    assert all(label == plain(label) for label in labels)


def test_the_core_leaves_out_near_twins():
    labels = {e.label for e in CORE}
    assert {"fox", "red apple", "rocket", "ghost", "robot"} <= labels
    assert not {"man farmer", "one o'clock", "grinning face with sweat"} & labels
    assert 400 < len(labels) < 700


def test_every_emoji_is_seen_on_white_and_on_five_other_colours():
    for emoji in EMOJIS:
        seen = colours_seen(emoji)
        assert seen[0] == "white"
        assert len(set(seen)) == COLOURS_EACH
        assert set(seen) <= set(BACKGROUNDS)
        assert colours_seen(emoji) == seen


def test_colours_are_spread_evenly():
    count = {c: sum(c in colours_seen(e) for e in CORE) for c in BACKGROUNDS if c != "white"}
    assert min(count.values()) > 0.6 * max(count.values())


def test_captions_name_the_thing_and_the_colour():
    fox = next(e for e in EMOJIS if e.label == "fox")
    rng = random.Random(1)
    captions = [random_caption(fox, "teal", (), rng) for _ in range(50)]
    assert all("fox" in c and "teal" in c for c in captions)
    assert len(set(captions)) > 5
    assert judged_caption(fox, "teal") == "fox on a teal background"


def test_own_tags_belong_to_one_emoji_alone():
    own = own_tags(EMOJIS)
    tags = [t for tags in own.values() for t in tags]
    assert len(tags) == len(set(tags))
    assert all(sum(t in e.tags for e in EMOJIS) == 1 for t in tags[:50])


def test_unseen_prompts_were_never_trained_on():
    from importlib import resources

    text = (resources.files("quantize.pocket") / "unseen.txt").read_text("utf-8")
    prompts = text.splitlines()
    assert len(prompts) == 24
    trained = {judged_caption(e, c) for e in EMOJIS for c in colours_seen(e)}
    stripped = {p.removeprefix("a ").removeprefix("an ").replace(" on an ", " on a ") for p in prompts}
    assert not stripped & trained
