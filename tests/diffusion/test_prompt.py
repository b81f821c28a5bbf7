from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.diffusion.prompt import clean_prompt, token_problem
from edgegen.diffusion.tokenizer import ClipTokenizer

TOKENIZER = ClipTokenizer.from_file(Path(__file__).parent.parent / "packs" / "tiny" / "tokenizer.json", 16)


def test_clean() -> None:
    assert clean_prompt("  a\tred\n\n apple\x00\x07 \ud800") == "a red apple"
    assert clean_prompt("cafe\u0301 \U0001f468\u200d\U0001f680") == "café \U0001f468\u200d\U0001f680"


@settings(deadline=None)
@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_prompt(text)
    assert clean_prompt(once) == once
    once.encode("utf-8")


def test_a_prompt_that_fits_is_no_problem() -> None:
    assert token_problem("a red apple", TOKENIZER) is None
    assert token_problem("", TOKENIZER) is None


def test_a_long_prompt_names_counts_and_the_first_lost_words() -> None:
    problem = token_problem("a red apple on a table and then 1 2 3 4 5 6 7 8 9", TOKENIZER)
    assert problem is not None
    assert "at most 14 fit" in problem
    assert "on it is lost" in problem
    lost = problem.split("from '")[1].split("'")[0]
    assert lost in "a red apple on a table and then 1 2 3 4 5 6 7 8 9"
