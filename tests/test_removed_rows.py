import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skvibe._removed_rows import (
    check_finite_rows,
    find_removed,
    float_dtype,
    mark_removed,
)


def shapes():
    return hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5)


@given(shapes(), st.data())
def test_what_is_marked_is_found(shape, data):
    dtype = data.draw(st.sampled_from([np.float64, np.float32, np.int16, np.uint8]))
    X = np.zeros(shape, dtype=dtype)
    removed = data.draw(hnp.arrays(bool, shape[0]))
    marked = mark_removed(X, removed)
    assert marked.shape == X.shape
    np.testing.assert_array_equal(find_removed(marked), removed)
    np.testing.assert_array_equal(marked[~removed], X[~removed])
    assert np.isnan(marked[removed]).all()


@given(st.data())
def test_only_whole_rows_count_as_removed(data):
    nan = data.draw(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3)))
    X = np.where(nan, np.nan, 1.0)
    expected = nan.reshape(len(nan), -1).all(axis=1)
    np.testing.assert_array_equal(find_removed(X), expected)


def test_the_input_is_copied():
    X = np.ones((3, 2))
    X.flags.writeable = False
    marked = mark_removed(X, np.array([True, False, False]))
    assert np.isnan(marked[0]).all()
    assert (X == 1).all()
    assert not np.shares_memory(marked, X)


def test_integers_and_empty_rows_hold_no_removed_row():
    assert not find_removed(np.zeros((3, 2), dtype=int)).any()
    assert not find_removed(np.zeros((3, 0))).any()


@pytest.mark.parametrize(
    ("dtype", "travels_as"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (bool, np.float32),
    ],
)
def test_type_in_which_rows_travel(dtype, travels_as):
    assert float_dtype(np.dtype(dtype)) == travels_as
    marked = mark_removed(np.ones((2, 2), dtype=dtype), np.array([False, True]))
    assert marked.dtype == travels_as


def test_finite_and_removed_rows_are_accepted():
    X = np.ones((3, 2))
    X[1] = np.nan
    check_finite_rows(X, find_removed(X), "Estimator")
    check_finite_rows(np.ones((3, 2), dtype=int), np.zeros(3, dtype=bool), "Estimator")
    check_finite_rows(np.ones((3, 1)), np.zeros(3, dtype=bool), "Estimator")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_other_missing_values_are_refused(bad):
    X = np.ones((3, 2))
    X[1, 0] = bad
    with pytest.raises(ValueError, match=r"Estimator contains NaN or infinity.*impute"):
        check_finite_rows(X, find_removed(X), "Estimator")


def test_a_row_of_infinities_is_not_a_removed_row():
    X = np.ones((3, 2))
    X[1] = np.inf
    assert not find_removed(X).any()
    with pytest.raises(ValueError, match="infinity"):
        check_finite_rows(X, find_removed(X), "Estimator")


def test_one_feature_cannot_tell_removed_from_missing():
    X = np.array([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="one feature"):
        check_finite_rows(X, find_removed(X), "Estimator")


def test_no_rows_left():
    X = np.full((3, 2), np.nan)
    with pytest.raises(ValueError, match=r"no rows are left.*max_removed"):
        check_finite_rows(X, find_removed(X), "Estimator")
