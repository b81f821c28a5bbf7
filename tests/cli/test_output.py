"""What the commands print is aligned, harmless and made for its reader."""

import click
import pytest

from edgegen.cli import output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red apple", "a red apple"),
        ("red\x1b[2Japple", "red\\x1b[2Japple"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("café 🍎", "café 🍎"),
    ],
)
def test_control_characters_become_visible(text, shown):
    assert output.printable(text) == shown


def test_shorten_counts_columns_not_letters():
    assert output.shorten("a  red\napple", 40) == "a red apple"
    assert output.shorten("abcdefgh", 5) == "abcd…"
    assert output.columns(output.shorten("赤いリンゴの絵", 7)) <= 7


def test_table_aligns_wide_letters_and_numbers():
    rows = [("赤い", "5", "a"), ("b", "12", "b")]
    lines = [click.unstyle(line) for line in output.table(("NAME", "MB", "X"), rows, ("MB",))]
    assert lines == ["NAME  MB  X", "赤い   5  a", "b     12  b"]


@pytest.mark.parametrize(("size", "text"), [(0, "0.0"), (1_500_000, "1.5"), (24_600_000, "25")])
def test_megabytes(size, text):
    assert output.megabytes(size) == text
