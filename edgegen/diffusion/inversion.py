"""Textual inversion in prompts: names of embeddings, whose vectors stand where tokens would.

Gal et al. 2022, arXiv:2208.01618. ComfyUI marks a name with `embedding:`; AUTOMATIC1111's web UI takes any
words that are an embedding's name for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from .embeddingnames import MARK
from .tokenizer import FIRST_VECTOR, ClipTokenizer

_MARKED = re.compile(rf"(?:^|(?<=\s)){MARK}(\S+)")


class EmbeddingReader(ClipTokenizer):
    """A tokenizer that gives each vector of an embedding an id of its own, from `FIRST_VECTOR` on.

    Args:
        tokenizer: for all other words.
        vectors: name -> (n, width) float32; asking for one that is not there, or does not fit, may raise.
        is_marked: names are marked as ComfyUI does; else any words may be one.

    Attributes:
        rows: (width,) float32 each, of the ids from `FIRST_VECTOR` on.
        used: the names that were read.
    """

    def __init__(self, tokenizer: ClipTokenizer, vectors: Mapping[str, np.ndarray], is_marked: bool = True):
        self.__dict__.update(tokenizer.__dict__)
        self._plain = tokenizer
        self._vectors = vectors
        self._is_marked = is_marked
        self.rows: list[np.ndarray] = []
        self.used: list[str] = []
        self._names = {} if is_marked else self._names_by_tokens()

    def pieces(self, text: str) -> list[list[int]]:
        """The text's tokens; an embedding's vectors are a piece of their own."""
        found = self._marked(text) if self._is_marked else self._unmarked(self._plain.tokens(text))
        return [piece for piece in found if piece]

    def tokens(self, text: str) -> list[int]:
        return [token for piece in self.pieces(text) for token in piece]

    def _marked(self, text: str) -> Iterator[list[int]]:
        at = 0
        for found in _MARKED.finditer(text):
            yield self._plain.tokens(text[at : found.start()])
            name = found[1]
            bare = name if name in self._vectors else name.rstrip(",") or name
            yield self._vectors_of(bare)
            at = found.start(1) + len(bare)
        yield self._plain.tokens(text[at:])

    def _unmarked(self, tokens: list[int]) -> Iterator[list[int]]:
        at = start = 0
        while at < len(tokens):
            name, length = next(
                (
                    (name, len(ids))
                    for ids, name in self._names.get(tokens[at], ())
                    if tokens[at : at + len(ids)] == ids
                ),
                ("", 1),
            )
            if name:
                yield tokens[start:at]
                yield self._vectors_of(name)
                start = at + length
            at += length
        yield tokens[start:]

    def _vectors_of(self, name: str) -> list[int]:
        vectors = self._vectors[name]
        self.used.append(name)
        first = FIRST_VECTOR + len(self.rows)
        self.rows += list(vectors)
        return list(range(first, first + len(vectors)))

    def _names_by_tokens(self) -> dict[int, list[tuple[list[int], str]]]:
        """First token -> names and their tokens, the longest first."""
        found: dict[int, list[tuple[list[int], str]]] = {}
        for name in self._vectors:
            if ids := self._plain.tokens(name.rpartition("/")[2]):  # there names have no folders
                found.setdefault(ids[0], []).append((ids, name))
        for names in found.values():
            names.sort(key=lambda item: -len(item[0]))
        return found
