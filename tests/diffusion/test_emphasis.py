from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.diffusion.emphasis import emphasize, weight_problem, weighted_parts
from edgegen.diffusion.prompt import clean_prompt, token_problem
from edgegen.diffusion.tokenizer import ClipTokenizer

TOKENIZER = ClipTokenizer.from_file(Path(__file__).parent.parent / "packs" / "tiny" / "tokenizer.json", 16)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a red apple", [("a red apple", 1)]),
        ("a (red) apple", [("a ", 1), ("red", 1.1), (" apple", 1)]),
        ("((red))", [("red", 1.1**2)]),
        ("(a (red) apple)", [("a ", 1.1), ("red", 1.1**2), (" apple", 1.1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("((red:1.3))", [("red", 1.3)]),  # a number replaces what holds outside
        ("(a (red:0.5) apple:2)", [("a ", 2), ("red", 0.5), (" apple", 2)]),
        ("(a (red) apple:2)", [("a ", 2), ("red", 2.2), (" apple", 2)]),
        ("(red:-1)", [("red", -1)]),
        ("(ratio 3:4:1.2)", [("ratio 3:4", 1.2)]),
        ("(note: red)", [("note: red", 1.1)]),
        ("(red:nan)", [("red:nan", 1.1)]),
        ("(:1.3)", [(":1.3", 1.1)]),
        (r"a \(red\) apple", [("a (red) apple", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("a (red apple", [("a ", 1), ("(red apple", 1)]),
        ("a red) apple", [("a red) apple", 1)]),
        ("((red)", [("(red", 1.1)]),
        ("()", []),
    ],
)
def test_weights_as_comfyui_reads_them(text: str, parts: list[tuple[str, float]]) -> None:
    found = weighted_parts(text)
    assert [part for part, _ in found] == [part for part, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@given(st.text(alphabet="ab :1.()\\", max_size=60))
def test_no_text_breaks_it_and_parts_never_are_empty(text: str) -> None:
    parts = weighted_parts(clean_prompt(text))
    assert all(part for part, _ in parts)
    assert all(np.isfinite(weight) for _, weight in parts)


@given(st.text(max_size=60))
def test_escaped_text_comes_back_whole_with_weight_1(text: str) -> None:
    clean = clean_prompt(text).replace("\\", "")
    escaped = clean.replace("(", r"\(").replace(")", r"\)")
    assert weighted_parts(escaped) == ([(clean, 1.0)] if clean else [])


@given(st.text(alphabet="abc ", min_size=1, max_size=20).filter(str.strip), st.integers(0, 12))
def test_each_pair_multiplies(text: str, depth: int) -> None:
    [(part, weight)] = weighted_parts("(" * depth + text + ")" * depth)
    assert part == text
    assert weight == pytest.approx(1.1**depth)


def test_nesting_as_deep_as_a_prompt_is_long() -> None:
    deep = "(" * 2000 + "a" + ")" * 2000
    assert [part for part, _ in weighted_parts(deep)] == ["a"]
    assert weight_problem(weighted_parts(deep)) is not None


def test_a_weight_beyond_all_sense_is_named() -> None:
    assert weight_problem(weighted_parts("a (red:10) (apple:-10)")) is None
    assert (
        weight_problem(weighted_parts("a (red:11) apple"))
        == "gives 'red' the weight 11; allowed are -10 to 10"
    )


def test_tokens_carry_their_weights() -> None:
    ids, weights = TOKENIZER.encode_weighted(weighted_parts("a (red:1.5) apple"))
    assert np.array_equal(ids, TOKENIZER.encode("a red apple"))
    reds = len(TOKENIZER.tokens("red"))
    before = 1 + len(TOKENIZER.tokens("a"))
    assert weights[0, before : before + reds].tolist() == [1.5] * reds
    assert weights.sum() == pytest.approx(16 + 0.5 * reds)


def test_parentheses_do_not_count_as_tokens() -> None:
    words = "1 2 3 4 5 6 7 8 9 0 1 2 3 4"
    assert token_problem(words, TOKENIZER) is None
    assert token_problem(f"(({words}:1.2))", TOKENIZER) is None
    problem = token_problem(f"({words} 7 8)", TOKENIZER)
    assert problem is not None
    assert "has 16 tokens; at most 14 fit" in problem
    assert "from '7 8' on" in problem


def test_emphasis_goes_through_the_empty_prompt() -> None:
    encoding, empty = np.full((1, 3, 2), 4.0, np.float32), np.full((1, 3, 2), 1.0, np.float32)
    out = emphasize(encoding, empty, np.array([[1, 2, 0]], np.float32))
    assert out[0, :, 0].tolist() == [4, 7, 1]
    assert out.dtype == np.float32
