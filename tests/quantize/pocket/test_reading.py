import numpy as np
import torch

from quantize.pocket.data import Emoji
from quantize.pocket.reading import LOOKS, Reader, looks
from quantize.pocket.words import END, MAX_LENGTH, build_text_encoder, train_tokenizer

EMOJIS = [Emoji(f"{k}.webp", name, (), "objects") for k, name in enumerate(("fox", "red apple", "ufo"))]


def test_looks_tell_pictures_apart_and_ignore_what_is_transparent():
    rng = np.random.default_rng(0)
    rgba = np.kron(rng.integers(0, 256, (LOOKS + 9, 4, 4, 4)), np.ones((1, 64, 64, 1))).astype(np.uint8)
    hidden_colours = rgba.copy()
    rgba[:, :64, :, 3] = hidden_colours[:, :64, :, 3] = 0
    hidden_colours[:, :64, :, :3] = 255 - hidden_colours[:, :64, :, :3]
    found = looks(rgba)
    assert found.shape == (LOOKS + 9, LOOKS)
    assert abs(found.std().item() - 1) < 1e-4
    assert torch.pdist(found).min() > 1
    assert torch.equal(found, looks(hidden_colours))


def test_every_place_from_the_captions_end_on_is_asked(tmp_path):
    tokenizer = train_tokenizer(EMOJIS, tmp_path / "tokenizer.json")
    reader = Reader(build_text_encoder(tokenizer), len(EMOJIS), tokenizer.token_to_id(END))
    encoded = tokenizer.encode_batch(["fox", "red apple on a teal background"])
    hidden, caption = reader.after_end(torch.tensor([e.ids for e in encoded]))
    words = [sum(e.attention_mask) - 1 for e in encoded]  # start and words; the end is asked too
    assert caption.bincount().tolist() == [MAX_LENGTH - n for n in words]
    assert hidden.shape == (len(caption), 192)
    assert reader.thing(hidden).shape == (len(caption), len(EMOJIS))


def test_a_few_steps_teach_it_to_name_the_thing(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(EMOJIS, tmp_path / "tokenizer.json")
    reader = Reader(build_text_encoder(tokenizer), len(EMOJIS), tokenizer.token_to_id(END))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3)
    ids = torch.tensor([e.ids for e in tokenizer.encode_batch([e.label for e in EMOJIS])])
    for _ in range(25):
        hidden, caption = reader.after_end(ids)
        loss = torch.nn.functional.cross_entropy(reader.thing(hidden), caption)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hidden, caption = reader.after_end(ids)
    assert (reader.thing(hidden).argmax(dim=1) == caption).all()
