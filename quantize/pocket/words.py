"""The tokenizer (CLIP's byte-level BPE, learned on our own captions) and the text encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel

from .captions import colours_seen, own_tags, random_caption
from .data import Emoji

MAX_LENGTH = 32
VOCABULARY = 4096
START, END = "<|startoftext|>", "<|endoftext|>"
_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _blank(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token=END if vocab else None,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(emojis: list[Emoji], path: Path) -> Tokenizer:
    """Learn merges from captions and write `tokenizer.json`.

    Ids as CLIP's: 256 bytes, the same 256 ending a word, the merges, then start and end.
    """
    rng = random.Random(0)
    aliases = own_tags(emojis)
    texts = [random_caption(e, c, aliases[e.file], rng) for e in emojis for c in colours_seen(e) * 3]
    texts += [f"{e.label} {' '.join(e.tags)}" for e in emojis]
    learner = _blank({}, [])
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [f"{x}</w>" for x in letters]
    room = VOCABULARY - len(words) - 2
    merges = learned[:room]
    vocab = {token: i for i, token in enumerate([*words, *dict.fromkeys(a + b for a, b in merges)])}
    vocab[START], vocab[END] = len(vocab), len(vocab) + 1
    tokenizer = _blank(vocab, merges)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    tokenizer.enable_padding(length=MAX_LENGTH, pad_id=vocab[END], pad_token=END)
    tokenizer.enable_truncation(MAX_LENGTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def build_text_encoder(tokenizer: Tokenizer) -> CLIPTextModel:
    """A CLIP text transformer of 3 layers and 192 channels, untrained, that listens from the start.

    With CLIP's own initial values two captions of different things give nearly the same conditioning
    (3 % of the pooled energy), the colour is learned first and the thing never: the padding drowns it.
    Here padding starts empty and attention starts loud, so that every padded place holds the words before
    it (21 % of the pooled energy).
    """
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=192,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.token_to_id(START),
            eos_token_id=tokenizer.token_to_id(END),
            pad_token_id=tokenizer.token_to_id(END),
        )
    )
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        torch.nn.init.normal_(table, std=0.3)
        table[[tokenizer.token_to_id(START), tokenizer.token_to_id(END)]] = 0
        for name, parameter in encoder.named_parameters():
            if "position_embedding" in name:
                parameter *= 0.1
            if name.endswith(("v_proj.weight", "out_proj.weight")):
                parameter *= 3**0.5
    return encoder
