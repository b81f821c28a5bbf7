"""Long prompts in chunks, and the web UI's way to write and apply weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.diffusion.chunks import A1111, COMFYUI, SYNTAXES, chunks_of, parts_of, weigh
from edgegen.diffusion.inversion import EmbeddingReader
from edgegen.diffusion.prompt import clean_prompt
from edgegen.diffusion.tokenizer import FIRST_VECTOR, ClipTokenizer
from edgegen.diffusion.webui import editing_problem, webui_sections

FILE = Path(__file__).parent.parent / "packs" / "tiny" / "tokenizer.json"
WHOLE = ClipTokenizer.from_file(FILE)
TOKENIZER = ClipTokenizer.from_file(FILE, 12)  # 10 tokens a chunk; a digit is one token


def digits(text: str, syntax: str = COMFYUI) -> list[str]:
    """Each chunk's tokens, as the digits and commas that they were."""
    names = {TOKENIZER.tokens(c)[0]: c for c in "0123456789,"}
    return ["".join(names[token] for token in c.tokens) for c in chunks_of(text, TOKENIZER, syntax)]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("", [""]),
        ("1 2 3", ["123"]),
        ("1234567890", ["1234567890"]),
        ("1234567890 12", ["1234567890", "12"]),
        ("1234567890" * 3, ["1234567890"] * 3),
        # a short part with a weight of its own goes to the next chunk whole, a long one is cut
        ("12345678 (901:1.2) 2", ["12345678", "9012"]),
        ("12345678 (90123456:1.2) 7", ["1234567890", "1234567"]),
    ],
)
def test_comfyuis_chunks(text: str, chunks: list[str]) -> None:
    assert digits(text) == chunks


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("", [""]),
        ("1234567890 12", ["1234567890", "12"]),
        ("12 BREAK 34", ["12", "34"]),
        ("BREAK 3", ["", "3"]),
        ("(1 BREAK 2:1.5)", ["1", "2"]),
        ("1234,67890 12", ["1234,", "6789012"]),
        ("1234567890, 12", ["1234567890", ",12"]),
        ("12 BREAK", ["12"]),  # nothing comes after it
        ("1 BREAK BREAK 2", ["1", "", "2"]),
    ],
)
def test_the_web_uis_chunks(text: str, chunks: list[str]) -> None:
    assert digits(text, A1111) == chunks


def test_break_is_a_word_like_others_to_comfyui() -> None:
    assert len(chunks_of("1 BREAK 2", TOKENIZER, COMFYUI)) == 1


def weights(text: str) -> list[tuple[str, float]]:
    return [(part, round(weight, 4)) for part, weight in parts_of(text, A1111)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", [("plain", 1.0)]),
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("((b))", [("b", 1.21)]),
        ("[b]", [("b", 0.9091)]),
        ("(b:1.3)", [("b", 1.3)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3.0), (" c", 1.5)]),  # they multiply
        ("(a [b])", [("a ", 1.1), ("b", 1.0)]),
        ("(unclosed b", [("unclosed b", 1.1)]),
        ("[unclosed b", [("unclosed b", 0.9091)]),
        ("closed) b", [("closed) b", 1.0)]),
        (r"\(plain\) \[too\]", [("(plain) [too]", 1.0)]),
        ("time: 12:30", [("time: 12:30", 1.0)]),
        ("(b: 1.5 )", [("b", 1.5)]),
        ("(b:-.5)", [("b", -0.5)]),
        ("()", []),
        ("(a) (b)", [("a", 1.1), (" ", 1.0), ("b", 1.1)]),
    ],
)
def test_the_web_uis_weights(text: str, found: list[tuple[str, float]]) -> None:
    assert weights(text) == found


@settings(deadline=None)
@given(st.text(st.sampled_from("ab, ()[]:\\.15BREAK"), max_size=80), st.sampled_from(SYNTAXES))
def test_no_word_is_lost_whatever_the_brackets(text: str, syntax: str) -> None:
    cleaned = clean_prompt(text)
    chunks = chunks_of(cleaned, TOKENIZER, syntax)
    assert chunks
    assert all(len(chunk.tokens) == len(chunk.weights) <= 10 for chunk in chunks)
    parts = parts_of(cleaned, syntax)
    if syntax == A1111:
        parts = [part for section in webui_sections(cleaned) for part in section]
    wanted = [(token, weight) for part, weight in parts for token in TOKENIZER.tokens(part)]
    assert [pair for c in chunks for pair in zip(c.tokens, c.weights, strict=True)] == wanted


def test_the_web_ui_multiplies_and_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    encoding = rng.normal(0.3, 1, (1, 12, 8)).astype(np.float32)
    wanted = np.ones((1, 12), np.float32)
    wanted[0, 3:5] = 1.5
    got = weigh(encoding, np.zeros_like(encoding), wanted, A1111)
    assert got.mean() == pytest.approx(encoding.mean(), rel=1e-5)
    assert np.allclose(got[0, 3] / got[0, 2], 1.5 * encoding[0, 3] / encoding[0, 2], rtol=1e-4)
    assert weigh(encoding, encoding, np.ones((1, 12)), A1111) is encoding


def test_embeddings_count_by_their_vectors_and_stand_apart() -> None:
    vectors = {"ink": np.zeros((3, 4), np.float32), "styles/old style": np.ones((70, 4), np.float32)}
    reader = EmbeddingReader(WHOLE, vectors)
    (chunk,) = chunks_of("a (embedding:ink,:1.2) cat, embedding:ink", reader)
    ids = [token - FIRST_VECTOR for token in chunk.tokens]
    assert [k for k in ids if k >= 0] == [0, 1, 2, 3, 4, 5]
    assert [w for k, w in zip(ids, chunk.weights, strict=True) if k in (0, 1, 2)] == [1.2] * 3
    assert reader.used == ["ink", "ink"]
    assert len(reader.rows) == 6
    plain = EmbeddingReader(WHOLE, vectors).tokens("myembedding:ink an embedding: ink")
    assert plain == WHOLE.tokens("myembedding:ink an embedding: ink")


def test_the_web_ui_takes_names_without_a_mark_and_never_cuts_them() -> None:
    vectors = {"ink": np.zeros((3, 4), np.float32), "styles/old ink": np.ones((70, 4), np.float32)}
    reader = EmbeddingReader(WHOLE, vectors, is_marked=False)
    found = chunks_of("1 2 3 4 5 6 OLD ink (ink:1.3)", reader, A1111)
    assert [len(chunk.tokens) for chunk in found] == [6, 73]
    assert reader.used == ["styles/old ink", "ink"]  # the longest name that fits
    assert found[1].weights == [1.0] * 70 + [1.3] * 3


@pytest.mark.parametrize("text", ["[a:b:0.5]", "[a:8]", "a [cat|dog]"])
def test_words_that_change_between_steps_are_refused(text: str) -> None:
    assert "are not supported" in editing_problem(text)
    assert editing_problem(r"[a cat] (b:0.5) \[c:3\]") is None
