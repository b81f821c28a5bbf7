"""Words to encodings: a pack's text encoder, or the two that Stable Diffusion XL has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..diffusion.chunks import COMFYUI, Chunk, chunks_of, parts_of, weigh
from ..diffusion.emphasis import weight_problem
from ..diffusion.inversion import EmbeddingReader
from ..diffusion.prompt import token_problem
from ..diffusion.tokenizer import FIRST_VECTOR, ClipTokenizer
from ..diffusion.webui import editing_problem
from ..errors import BadRequest, EngineError
from ..pack import Pack
from .clipskip import FIRST, SECOND, hidden_before, text_encoders
from .conditioning import Encoding
from .embeddings import EmbeddingFolder, FittingVectors
from .session import output_of
from .sessioncache import SessionCache
from .textgraph import MASK, STOPPED, VECTORS, TextEdit

PROMPTS_REMEMBERED = 8
NUMBERED = "hidden_states."


class Words:
    """A pack's text encoders. Graphs load when first needed. Not thread-safe.

    Args:
        embeddings: where textual inversions are found; None: nowhere.
        stop: the layer they end at, see `clipskip`; None: the one that the denoiser was made for.
    Raises:
        PackError: the tokenizer is altered or not of CLIP type.
        EngineError: they cannot end there.
    """

    def __init__(
        self,
        pack: Pack,
        sessions: SessionCache,
        embeddings: EmbeddingFolder | None = None,
        stop: int | None = None,
    ):
        manifest, path = pack.manifest, pack.verify_tokenizer()
        self._sessions = sessions
        self._takes_any_length: bool | None = None
        length = manifest.tokenizer.max_length
        self._tokenizer = ClipTokenizer.from_file(path, length)
        roles = text_encoders(manifest)
        ends = [TextEdit(hidden=stop and hidden_before(pack, manifest, role, stop)) for role in roles]
        folder = embeddings or EmbeddingFolder(None)
        inversions = [FittingVectors(folder, pack, role, len(roles)) for role in roles]
        if SECOND not in roles:
            self._towers = [
                _Tower(FIRST, self._tokenizer, sessions, _last_layer, None, ends[0], inversions[0])
            ]
            return
        pad_id = manifest.tokenizer_2.pad_token_id if manifest.tokenizer_2 else None
        padded = ClipTokenizer.from_file(path, length, pad_id)
        first = _Tower(FIRST, self._tokenizer, sessions, _last_but_one, None, ends[0], inversions[0])
        second = _Tower(SECOND, padded, sessions, _last_but_one, "text_embeds", ends[1], inversions[1])
        self._towers = [first, second]

    @property
    def encoders(self) -> int:
        """How many text encoders read each prompt: 1, or 2."""
        return len(self._towers)

    def problem(self, text: str, syntax: str = COMFYUI) -> str | None:
        """Why a text cannot be read: an embedding that is not there or does not fit, weights beyond all
        sense, more tokens than the denoiser takes; None if it can. For a text of several chunks the denoiser
        is loaded, to see what it takes.

        Args:
            syntax: how weights are written, one of `diffusion.chunks.SYNTAXES`.
        """
        changes = editing_problem(text) if syntax != COMFYUI else None
        if found := changes or weight_problem(parts_of(text, syntax)):
            return found
        try:
            readers = [tower.reader(syntax) for tower in self._towers]
            counts = [len(chunks_of(text, reader, syntax)) for reader in readers]
        except (BadRequest, EngineError) as err:
            return str(err)
        if max(counts) == 1 or self._any_length():
            return None
        return token_problem(text, readers[0], syntax) or "has BREAKs, but this pack reads one chunk only"

    def _any_length(self) -> bool:
        """Whether the denoiser's graph takes rows for any number of tokens."""
        if self._takes_any_length is None:
            shape = self._sessions.get("unet").shapes.get("encoder_hidden_states", [])
            self._takes_any_length = len(shape) == 3 and shape[1] is None
        return self._takes_any_length

    def encode(self, texts: Sequence[str], syntax: str = COMFYUI) -> list[Encoding]:
        """Each text read by every encoder; one encoder after the other, so that each loads but once."""
        return self.encode_each([(text,) * self.encoders for text in texts], syntax)

    def encode_each(self, prompts: Sequence[tuple[str, ...]], syntax: str = COMFYUI) -> list[Encoding]:
        """The same for prompts that say something of its own to every encoder."""
        by_tower = [
            [tower.read(prompt[k], syntax) for prompt in prompts] for k, tower in enumerate(self._towers)
        ]
        return [_joined(read) for read in zip(*by_tower, strict=True)]

    def forget(self) -> None:
        """Drop what is remembered; safe to call twice."""
        for tower in self._towers:
            tower.forget()


class _Tower:
    """One text encoder; remembers recent texts, and the empty one always.

    Args:
        rows: which of the graph's outputs has a row for each token.
        summary: the output that sums the whole text up, where there is one.
        edit: where the graph ends; once an embedding was read, it goes on taking vectors.
    """

    def __init__(
        self,
        role: str,
        tokenizer: ClipTokenizer,
        sessions: SessionCache,
        rows: Callable[[Iterable[str]], str],
        summary: str | None,
        edit: TextEdit,
        inversions: FittingVectors,
    ):
        self._role = role
        self._tokenizer = tokenizer
        self._sessions = sessions
        self._rows = rows
        self._summary = summary
        self._edit = edit
        self._inversions = inversions
        self._remembered: OrderedDict[tuple[object, ...], Encoding] = OrderedDict()
        self._empty: Encoding | None = None

    def reader(self, syntax: str) -> EmbeddingReader:
        """What takes one text apart."""
        return EmbeddingReader(self._tokenizer, self._inversions, syntax == COMFYUI)

    def read(self, text: str, syntax: str = COMFYUI) -> Encoding:
        """Weights applied to the tokens' rows; chunks one after the other, summed up by the first.

        Raises BadRequest: an embedding is not there, or does not fit."""
        if not text:
            self._empty = self._empty or self._look(Chunk(), syntax, [])
            return self._empty
        reader = self.reader(syntax)
        chunks = chunks_of(text, reader, syntax)
        key = text, syntax, *(self._inversions.folder.get(name).state for name in reader.used)
        if key not in self._remembered:
            looks = [self._look(chunk, syntax, reader.rows) for chunk in chunks]
            rows = [look.hidden for look in looks]
            self._remembered[key] = replace(looks[0], hidden=np.concatenate(rows, axis=1))
        self._remembered.move_to_end(key)
        while len(self._remembered) > PROMPTS_REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[key]

    def forget(self) -> None:
        self._remembered.clear()
        self._empty = None

    def _look(self, chunk: Chunk, syntax: str, vectors: Sequence[np.ndarray]) -> Encoding:
        ids, weights = self._tokenizer.frame(chunk.tokens, chunk.weights)
        out = self._run(ids, vectors)
        hidden = output_of(out, STOPPED if STOPPED in out else self._rows(out), self._role)
        if (weights != 1).any():
            hidden = weigh(hidden, self.read("").hidden, weights, syntax)
        return Encoding(hidden, output_of(out, self._summary, self._role) if self._summary else None)

    def _run(self, ids: np.ndarray, vectors: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs; ids from `FIRST_VECTOR` on stand for vectors."""
        is_vector = ids >= FIRST_VECTOR
        if is_vector.any():
            self._edit = replace(self._edit, vectors=True)
        feeds = {"input_ids": np.where(is_vector, self._tokenizer.start_id, ids)}
        if self._edit.vectors:
            rows = np.zeros((*ids.shape, self._inversions.width), np.float32)
            for place in zip(*np.nonzero(is_vector), strict=True):
                rows[place] = vectors[ids[place] - FIRST_VECTOR]
            feeds |= {VECTORS: rows, MASK: is_vector[..., None]}
        return self._sessions.get(self._role, self._edit).run(feeds)


def _last_layer(outputs: Iterable[str]) -> str:  # noqa: ARG001 (as the other)
    """Normalized, as Stable Diffusion 1 and 2 take it."""
    return "last_hidden_state"


def _last_but_one(outputs: Iterable[str]) -> str:
    """Not normalized, as Stable Diffusion XL takes it: `hidden_states`. Optimum's exports name every layer's
    output, from `hidden_states.0`, the embedding, on."""
    numbers = [name.removeprefix(NUMBERED) for name in outputs if name.startswith(NUMBERED)]
    layers = [int(number) for number in numbers if number.isdecimal()]
    return f"{NUMBERED}{max(layers) - 1}" if layers else "hidden_states"


def _joined(read: Sequence[Encoding]) -> Encoding:
    """The encoders' rows side by side, and the last one's summary. Raises EngineError: rows do not pair."""
    if len(read) == 1:
        return read[0]
    if len({encoding.hidden.shape[:2] for encoding in read}) > 1:
        shapes = " and ".join(str(encoding.hidden.shape) for encoding in read)
        raise EngineError(f"graphs {FIRST} and {SECOND} give {shapes}, which do not fit side by side")
    return Encoding(np.concatenate([encoding.hidden for encoding in read], axis=-1), read[-1].pooled)
