import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.report.plain_values import count_values, csv_cell, plain_value


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+A1", "-2+3", "@SUM(A1)", " =1", "\u3000=1", "=cmd|' /C calc'!A0", "＝1"],
)
def test_formulas_are_guarded(text):
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("\t=1", "'\t'=1"),
        ("\n=1", "'\n'=1"),
        ("a;=1", "a;'=1"),
        ("a;  @b", "a;'  @b"),
        ("a\n=1\r\n+2", "a\n'=1\r'\n'+2"),
        ('a,"=1"', 'a,"=1"'),
        ("\ttext", "'\ttext"),
    ],
)
def test_formulas_within_a_cell_are_guarded(text, guarded):
    # Where the comma is the decimal point, a spreadsheet splits at semicolons.
    assert csv_cell(text) == guarded


@pytest.mark.parametrize("value", ["-1", "+2.5", "-1e-3", "a=b", "", 3, -1.5, None])
def test_numbers_and_plain_text_stay(value):
    assert csv_cell(value) == value


@given(st.text(st.sampled_from("=+-@＝;,\t\r\n 'a\"1")) | st.text())
def test_no_text_starts_a_formula(text):
    cell = csv_cell(text)
    for separator in ";\t\r\n":
        for part in cell.split(separator):
            assert part.lstrip()[:1] not in set("=@＝＋－＠") or not part.strip()


def test_counts_are_ordered_and_plain():
    counts = count_values(np.array([1, 2, 2]))
    assert list(counts.items()) == [(2, 2), (1, 1)]
    assert all(type(key) is int for key in counts)
    assert type(plain_value(np.float32(1))) is float
