from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgegen.diffusion.tokenizer import ClipTokenizer, split_words
from edgegen.errors import PackError

FILE = Path(__file__).parent.parent / "packs" / "tiny" / "tokenizer.json"
OURS = ClipTokenizer.from_file(FILE)
REFERENCE = Tokenizer.from_file(str(FILE))
REFERENCE.encode_special_tokens = True  # special tokens in a prompt are plain text
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn", "Co"))
WORDLIKE = st.text(
    st.sampled_from("aeioubcdrstAEÉéß'’ΣςİıǄ½²٣字か\U0001f600 \t\n\u00a0\u200b\u3000.,!-_0123")
)


def agree(text: str) -> None:
    assert OURS.encode(text)[0].tolist() == REFERENCE.encode(text).ids


@settings(max_examples=300, deadline=None)
@given(WORDLIKE)
@example("it's don't we're I'LL 'sx ''s !'s")
@example("ΑΣ ΑΣ. ΣΑΣ İstanbul ǅ")
@example("<|startoftext|> and <|endoftext|>")
@example("")
@example(" \n\u2028\x1c\x85 ")
@example("a" * 300)
@example("e\u0301 café")
def test_agrees_with_the_tokenizers_package_on_words(text: str) -> None:
    agree(text)


@settings(max_examples=300, deadline=None)
@given(st.text(ASSIGNED, max_size=40))
def test_agrees_with_the_tokenizers_package_on_anything(text: str) -> None:
    agree(text)


def test_shape_start_end_and_padding() -> None:
    ids = OURS.encode("a red apple")
    assert ids.shape == (1, 77)
    assert ids.dtype == np.int64
    count = OURS.count("a red apple")
    assert ids[0, 0] == OURS.start_id
    assert ids[0, count + 1] == OURS.end_id
    assert set(ids[0, count + 2 :]) == {OURS.pad_id}


def test_case_and_spaces_do_not_matter() -> None:
    assert np.array_equal(OURS.encode("A  Red\n apple "), OURS.encode("a red apple"))


def test_a_long_text_is_cut_and_still_ends() -> None:
    text = "red " * 100
    assert OURS.count(text) >= 100
    assert OURS.encode(text)[0, -1] == OURS.end_id


def test_lone_surrogates_do_no_harm() -> None:
    assert OURS.encode("a \ud800 b").shape == (1, 77)


def test_a_huge_word_takes_no_quadratic_time() -> None:
    began = time.monotonic()
    assert OURS.count("ab" * 20_000 + "q") > 100
    assert time.monotonic() - began < 30  # quadratic would be minutes


def test_the_pad_token_comes_from_the_file(tmp_path: Path) -> None:
    data = json.loads(FILE.read_text("utf-8"))
    data["padding"]["pad_id"] = 0
    (tmp_path / "t.json").write_text(json.dumps(data))
    assert ClipTokenizer.from_file(tmp_path / "t.json", max_length=8).encode("a").tolist()[0][-1] == 0
    data["padding"] = None
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]  # the older spelling
    (tmp_path / "t.json").write_text(json.dumps(data))
    plain = ClipTokenizer.from_file(tmp_path / "t.json")
    assert plain.pad_id == plain.end_id
    assert np.array_equal(plain.encode("a red apple"), OURS.encode("a red apple"))


def test_split() -> None:
    assert list(split_words("don't stop!! 42 a1")) == ["don", "'t", "stop", "!!", "4", "2", "a", "1"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "null",
        '{"model": {"end_of_word_suffix": ""}}',
        '{"model": {"end_of_word_suffix": "</w>", "vocab": {"a": "b"}, "merges": []}}',
        '{"model": {"end_of_word_suffix": "</w>", "vocab": {"a": 1}, "merges": []}}',
        '{"model": {"end_of_word_suffix": "</w>", "vocab": {"a": 1}, "merges": [3]}}',
        '{"model": {"end_of_word_suffix": "</w>", "vocab": {"a": 1}, "merges": []}, "added_tokens": [1]}',
        '{"a":' * 100_000,
        "\xff",
    ],
)
def test_a_broken_file_is_a_pack_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text, "latin-1")
    with pytest.raises(PackError, match="CLIP type"):
        ClipTokenizer.from_file(tmp_path / "t.json")


def test_a_missing_file_is_a_pack_error(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be read"):
        ClipTokenizer.from_file(tmp_path / "none.json")


def test_a_merge_of_unknown_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="merge 0 needs 'ab'"):
        ClipTokenizer({"a": 0, "b": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}, [("a", "b")])


def test_another_padding_token_changes_the_padding_alone() -> None:
    own, zero = OURS.encode("a cat")[0], ClipTokenizer.from_file(FILE, pad_id=0).encode("a cat")[0]
    end = own.tolist().index(OURS.end_id)
    assert own[: end + 1].tolist() == zero[: end + 1].tolist()
    assert set(own[end + 1 :].tolist()) == {OURS.end_id}
    assert set(zero[end + 1 :].tolist()) == {0}
