"""CLIP's byte-level BPE tokenizer, read from a Hugging Face `tokenizer.json`.

Our own, because the `tokenizers` package brings hub and network code onto an offline device; tested
against it. Source: Radford et al. 2021, arXiv:2103.00020; Sennrich et al. 2016, arXiv:1508.07909.
"""

from __future__ import annotations

import heapq
import json
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PackError

MAX_FILE_BYTES = 32 << 20
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)
FIRST_VECTOR = 1 << 31
"""Ids from here on are no tokens but vectors of embeddings, see `inversion`."""
_WORDS_REMEMBERED = 10_000


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes: itself, or a letter from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + k) for k, b in enumerate(others)}
    return [letters[b] for b in range(256)]


_LETTERS = _byte_letters()


def split_words(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single digits, and runs of anything else but white space.

    CLIP's pattern `'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+` by hand: `re` knows
    no Unicode categories.
    """
    kinds = [_kind(c) for c in text]
    at = 0
    while at < len(text):
        kind, end = kinds[at], at + 1
        if contraction := next((c for c in _CONTRACTIONS if text.startswith(c, at)), None):
            end = at + len(contraction)
        elif kind in "LO":
            while end < len(text) and kinds[end] == kind:
                end += 1
        if kind != "S":
            yield text[at:end]
        at = end


def _kind(character: str) -> str:
    """S space, L letter, N number, O other."""
    if character in _SPACES:
        return "S"
    major = unicodedata.category(character)[0]
    return major if major in "LN" else "O"


def normalize(text: str) -> str:
    """NFC, white space collapsed, lower case letter by letter (no final sigma, as in CLIP's file)."""
    composed = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if c in _SPACES else c for c in composed)
    while "  " in spaced:
        spaced = spaced.replace("  ", " ")
    return "".join(c.lower() for c in spaced)


class ClipTokenizer:
    """Text to token ids.

    Args:
        vocabulary: token to id, with `<|startoftext|>` and `<|endoftext|>`.
        merges: pairs of tokens, the first to merge first.
        max_length: ids `encode` returns, start and end included, >= 3.
        pad_id: fills the rest; None: the id of `<|endoftext|>`.
    Raises:
        ValueError: a special token or the result of a merge is not in the vocabulary.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: list[tuple[str, str]],
        max_length: int = 77,
        pad_id: int | None = None,
    ):
        if missing := [token for token in (START, END) if token not in vocabulary]:
            raise ValueError(f"the vocabulary lacks {' and '.join(missing)}")
        self.max_length = max_length
        self.start_id, self.end_id = vocabulary[START], vocabulary[END]
        self.pad_id = self.end_id if pad_id is None else pad_id
        letters = (letter + end for letter in _LETTERS for end in ("", END_OF_WORD))
        self._letter_ids = {letter: vocabulary[letter] for letter in letters if letter in vocabulary}
        self._merges = MergeTable.of(vocabulary, merges)
        self._words: dict[str, tuple[int, ...]] = {}

    @classmethod
    def from_file(cls, path: Path, max_length: int = 77, pad_id: int | None = None) -> ClipTokenizer:
        """Read a `tokenizer.json` of CLIP type; `pad_id` overrides its own. Raises PackError."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            data = json.loads(path.read_bytes())
            vocabulary, merges, own_pad_id = _parse(data)
            return cls(vocabulary, merges, max_length, own_pad_id if pad_id is None else pad_id)
        except OSError as err:
            raise PackError(f"tokenizer {path} cannot be read: {err.strerror}") from err
        except (ValueError, RecursionError) as err:
            raise PackError(f"tokenizer {path} is not of CLIP type: {err}") from err

    def tokens(self, text: str) -> list[int]:
        """All ids of a text, without start, end and padding. Special tokens in it are plain text."""
        return [token for word in split_words(normalize(text)) for token in self._word(word)]

    def pieces(self, text: str) -> list[list[int]]:
        """The same in the pieces that must be known apart; here it is but one."""
        return [self.tokens(text)]

    def count(self, text: str) -> int:
        """How many tokens a text has, without start and end; `max_length - 2` fit."""
        return len(self.tokens(text))

    def encode(self, text: str) -> np.ndarray:
        """(1, max_length) int64: start, the tokens that fit, end, padding."""
        return self.encode_weighted([(text, 1.0)])[0]

    def encode_weighted(self, parts: Sequence[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids as `encode` gives them, of parts taken one by one, and each token's weight.

        Args:
            parts: as `emphasis.weighted_parts` gives them.
        Returns:
            (1, max_length) int64, and (1, max_length) float32 with 1 for start, end and padding.
        """
        pairs = [(token, weight) for part, weight in parts for token in self.tokens(part)]
        pairs = pairs[: self.max_length - 2]
        return self.frame([token for token, _ in pairs], [weight for _, weight in pairs])

    def frame(self, tokens: Sequence[int], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """At most `max_length - 2` tokens between start and end, padded, and their weights as
        `encode_weighted` has them."""
        ids = [self.start_id, *tokens, self.end_id]
        framed = np.ones((1, self.max_length), np.float32)
        framed[0, 1 : len(tokens) + 1] = weights
        return np.array([ids + [self.pad_id] * (self.max_length - len(ids))], dtype=np.int64), framed

    def _word(self, word: str) -> tuple[int, ...]:
        if (known := self._words.get(word)) is not None:
            return known
        if len(self._words) >= _WORDS_REMEMBERED:
            self._words.clear()
        letters = [_LETTERS[b] for b in word.encode("utf-8", "replace")]
        letters[-1] += END_OF_WORD
        ids = [self._letter_ids.get(letter, self.end_id) for letter in letters]  # CLIP's unknown is the end
        return self._words.setdefault(word, tuple(_merge(ids, self._merges)))


class MergeTable:
    """(left id, right id) -> (rank, merged id), in arrays: CLIP's 48,894 merges take 1 MB, as a dict 14 MB.

    Args:
        pairs: (n,) int64, left id << 32 | right id.
        merged: (n,) ids, in the order of their ranks.
    """

    def __init__(self, pairs: np.ndarray, merged: np.ndarray):
        order = np.argsort(pairs, kind="stable")
        last = np.append(pairs[order][1:] != pairs[order][:-1], True) if len(pairs) else order.astype(bool)
        self._ranks = order[last].astype(np.int32)  # of a pair given twice the later counts
        self._pairs = pairs[self._ranks]
        self._merged = merged[self._ranks].astype(np.int32)

    @classmethod
    def of(cls, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> MergeTable:
        """Raises ValueError: a token is not in the vocabulary."""
        pairs, merged = np.empty(len(merges), np.int64), np.empty(len(merges), np.int64)
        for rank, (left, right) in enumerate(merges):
            try:
                pairs[rank] = vocabulary[left] << 32 | vocabulary[right]
                merged[rank] = vocabulary[left + right]
            except KeyError as err:
                raise ValueError(f"merge {rank} needs {err}, which is not in the vocabulary") from None
        return cls(pairs, merged)

    def get(self, left: int, right: int) -> tuple[int, int] | None:
        """(rank, merged id), or None when the two do not merge."""
        pair = left << 32 | right
        place = int(np.searchsorted(self._pairs, pair))
        if place == len(self._pairs) or self._pairs[place] != pair:
            return None
        return int(self._ranks[place]), int(self._merged[place])


def _merge(ids: list[int], table: MergeTable) -> list[int]:
    """Merge the pair of lowest rank, leftmost first, until none is left: O(n log n) with a heap."""
    count = len(ids)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    alive = [True] * count
    heap: list[tuple[int, int, int, int, int]] = []  # (rank, place, left id, right id, merged id)

    def consider(left: int) -> None:
        if left >= 0 and after[left] < count:
            pair = ids[left], ids[after[left]]
            if (found := table.get(*pair)) is not None:
                heapq.heappush(heap, (found[0], left, *pair, found[1]))

    for place in range(count - 1):
        consider(place)
    while heap:
        _, left, left_id, right_id, merged = heapq.heappop(heap)
        right = after[left]
        if not alive[left] or right >= count or (ids[left], ids[right]) != (left_id, right_id):
            continue  # one of the two was merged meanwhile
        ids[left] = merged
        alive[right] = False
        after[left] = after[right]
        if after[left] < count:
            before[after[left]] = left
        consider(before[left])
        consider(left)
    return [token for token, lives in zip(ids, alive, strict=True) if lives]


def _parse(data: Any) -> tuple[dict[str, int], list[tuple[str, str]], int | None]:
    """Vocabulary, merges and padding id of the file's JSON. Raises ValueError."""
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or model.get("end_of_word_suffix") != END_OF_WORD:
        raise ValueError(f"its model must be a BPE with end_of_word_suffix {END_OF_WORD!r}")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not all(_is_id(v) for v in vocabulary.values()):
        raise ValueError("model.vocab must map tokens to ids")
    if not isinstance(merges, list):
        raise ValueError("model.merges must be a list")
    special = {t["content"]: t["id"] for t in _special_tokens(data)}
    return {**vocabulary, **special}, [_pair(merge) for merge in merges], _pad_id(data)


def _special_tokens(data: dict[str, Any]) -> list[dict[str, Any]]:
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and _is_id(t.get("id")) for t in added
    ):
        raise ValueError("added_tokens must be a list of tokens with content and id")
    return added


def _pair(merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) for p in parts):
        raise ValueError(f"model.merges holds {str(merge)[:40]!r}, which is no pair")
    return parts[0], parts[1]


def _pad_id(data: dict[str, Any]) -> int | None:
    padding = data.get("padding")
    if padding is None:
        return None
    if not isinstance(padding, dict) or not _is_id(padding.get("pad_id")):
        raise ValueError("padding.pad_id must be an id")
    return int(padding["pad_id"])


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < FIRST_VECTOR
