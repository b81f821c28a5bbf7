"""Prompts longer than a text encoder reads at once: cut into chunks, each encoded on its own, then joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .emphasis import emphasize, weighted_parts
from .tokenizer import FIRST_VECTOR, ClipTokenizer
from .webui import keep_mean, webui_sections

COMFYUI, A1111 = "comfyui", "a1111"
SYNTAXES = (COMFYUI, A1111)
SHORT_PART = 8  # tokens: ComfyUI moves parts with fewer of them to the next chunk whole
COMMA_REACH = 20  # tokens: the web UI ends a chunk at a comma that is no farther back


@dataclass
class Chunk:
    """Tokens of one look of the text encoder, without start and end, and their weights."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tokens: Sequence[int], weights: Sequence[float]) -> None:
        self.tokens += tokens
        self.weights += weights

    def cut(self, at: int) -> Chunk:
        """Keep the first `at` tokens; returns the rest."""
        rest = Chunk(self.tokens[at:], self.weights[at:])
        del self.tokens[at:], self.weights[at:]
        return rest


def parts_of(text: str, syntax: str = COMFYUI) -> list[tuple[str, float]]:
    """The text cut where its weight changes, by either syntax."""
    if syntax == COMFYUI:
        return weighted_parts(text)
    return [part for section in webui_sections(text) for part in section]


def chunks_of(text: str, tokenizer: ClipTokenizer, syntax: str = COMFYUI) -> list[Chunk]:
    """At least one chunk, of at most `max_length - 2` tokens each."""
    room = tokenizer.max_length - 2
    if syntax == COMFYUI:
        parts = [(piece, weight) for part, weight in weighted_parts(text) for piece in tokenizer.pieces(part)]
        return _comfyui_chunks(parts, room)
    comma = tokenizer.tokens(",")
    found: list[Chunk] = []
    for section in webui_sections(text):
        units = [unit for part, weight in section for unit in _units(tokenizer.pieces(part), weight)]
        found += _webui_chunks(units, room, comma[0] if len(comma) == 1 else -1)
    return found


def weigh(encoding: np.ndarray, empty: np.ndarray, weights: np.ndarray, syntax: str) -> np.ndarray:
    """A chunk's encoding (1, tokens, width) with its weights (1, tokens) applied.

    Args:
        empty: what the text encoder makes of no words.
    """
    if (weights == 1).all():
        return encoding
    return emphasize(encoding, empty, weights) if syntax == COMFYUI else keep_mean(encoding, weights)


def _comfyui_chunks(parts: Sequence[tuple[list[int], float]], room: int) -> list[Chunk]:
    found = [Chunk()]
    for tokens, weight in parts:
        if len(tokens) < SHORT_PART and len(found[-1].tokens) + len(tokens) > room:
            found.append(Chunk())
        for piece in _pieces(tokens, room - len(found[-1].tokens), room):
            if len(found[-1].tokens) + len(piece) > room:
                found.append(Chunk())
            found[-1].add(piece, [weight] * len(piece))
    return found


def _pieces(tokens: list[int], first: int, room: int) -> Iterator[list[int]]:
    """What still fits into the first chunk, then as much as each of the next ones holds."""
    if first:
        yield tokens[:first]
    for start in range(first, len(tokens), room):
        yield tokens[start : start + room]


def _units(pieces: Iterable[list[int]], weight: float) -> Iterator[tuple[list[int], float]]:
    """What is never cut: a token, or all vectors of an embedding."""
    for piece in pieces:
        if piece and piece[0] >= FIRST_VECTOR:
            yield piece, weight
        else:
            yield from (([token], weight) for token in piece)


def _webui_chunks(units: Sequence[tuple[list[int], float]], room: int, comma: int) -> Iterator[Chunk]:
    chunk = Chunk()
    for tokens, weight in units:
        is_vectors = tokens[0] >= FIRST_VECTOR
        if len(chunk.tokens) + len(tokens) > room:
            keep_whole = is_vectors or tokens[0] == comma
            rest = chunk.cut(room if keep_whole else _break_at(chunk.tokens, comma))
            yield chunk
            chunk = rest
        chunk.add(tokens, [weight] * len(tokens))
    yield chunk


def _break_at(tokens: list[int], comma: int) -> int:
    """Where a full chunk ends: behind its last comma if that is near its end, else at its end."""
    size = len(tokens)
    near = [at for at in range(max(0, size - COMMA_REACH), size) if tokens[at] == comma]
    return near[-1] + 1 if near else size
