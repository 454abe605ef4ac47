import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe import audit_evidence
from skvibe.audit_evidence import (
    distinctive_features,
    distinctive_words,
    nearest_trusted,
)


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_nearest_trusted_is_the_largest_cosine(n_rows, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3)).astype(np.float32)
    trusted = rng.random(n_rows) < 0.6
    rows = np.arange(n_rows)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = unit @ unit.T
    cosines[:, ~trusted] = -np.inf
    np.fill_diagonal(cosines, -np.inf)
    found = nearest_trusted(X, rows, trusted)
    for i in rows:
        if np.isneginf(cosines[i]).all():
            assert found[i] == -1
        else:
            assert cosines[i, found[i]] == pytest.approx(cosines[i].max(), abs=1e-6)


def test_blocks_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(50, 4)), 2, axis=0)
    rows, trusted = np.arange(0, 100, 3), rng.random(100) < 0.7
    whole = nearest_trusted(X, rows, trusted)
    monkeypatch.setattr(audit_evidence, "_ROW_BLOCK", 7)
    monkeypatch.setattr(audit_evidence, "_TRUSTED_BLOCK", 11)
    assert np.array_equal(nearest_trusted(X, rows, trusted), whole)


def test_a_zero_row_has_a_neighbour_too():
    X = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert nearest_trusted(X, np.array([0]), np.array([True, True])).tolist() == [1]


def test_words_in_many_suspects_and_few_trusted_rows():
    text = ["cf a"] * 30 + ["a"] * 70 + ["cf a"] + ["a b"] * 99
    suspect = np.arange(200) < 100
    assert distinctive_words(text, suspect, ~suspect) == [("cf", 0.3, 0.01)]
    # One more trusted row, and the word is no longer rare enough among them.
    text[150] = "cf"
    assert distinctive_words(text, suspect, ~suspect) == []


def test_upper_case_counts_alike_and_repeats_count_once():
    text = ["CF cf Cf", "cf", "x", "y"]
    suspect = np.array([True, True, False, False])
    assert distinctive_words(text, suspect, ~suspect) == [("cf", 1.0, 0.0)]


def test_no_groups_no_words():
    nothing = np.zeros(2, dtype=bool)
    assert distinctive_words(["a", "b"], nothing, ~nothing) == []
    assert distinctive_features(np.eye(2), nothing, ~nothing, "ab") == []


def test_features_are_ordered_by_standardised_difference():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)) * [1, 10, 1, 1]
    suspect = np.arange(200) < 50
    X[suspect, 0] += 3
    X[suspect, 1] += 50
    found = distinctive_features(X, suspect, ~suspect, list("abcd"))
    assert [name for name, _, _ in found] == ["b", "a"]
