import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.trigger_evidence import (
    across_p_values,
    cosines,
    own_p_values,
    vuong_statistic,
)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_vuong_statistic_is_bounded_and_odd(values):
    values = np.array(values)
    groups = np.arange(len(values))
    statistic = vuong_statistic(values, groups)
    assert abs(statistic) <= np.sqrt(len(values)) + 1e-9
    assert vuong_statistic(-values, groups) == -statistic


def test_duplicates_bring_no_evidence():
    difference = np.array([1.0, -0.5, 0.7])
    repeated = np.repeat(difference, 50)
    groups = np.repeat(np.arange(3), 50)
    assert vuong_statistic(repeated, groups) == pytest.approx(
        vuong_statistic(difference, np.arange(3))
    )


def test_own_p_values_are_corrected_and_ignore_untested_classes():
    p_values = own_p_values(np.array([4.0, -1.0, np.nan]))
    assert p_values[0] == pytest.approx(8 * 3.167e-5, rel=1e-3)
    np.testing.assert_array_equal(p_values[1:], 1)


def test_unrelated_displacements_do_not_agree():
    shifts = 6 * np.eye(40)[:5]
    p_values, agreements = across_p_values(
        shifts, shifts, np.full(5, 50.0), np.ones(5, dtype=bool)
    )
    np.testing.assert_array_equal(p_values, 1)
    np.testing.assert_allclose(agreements, 0)


def test_cosines_of_a_zero_vector_are_zero():
    table = cosines(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, -2.0]]))
    np.testing.assert_allclose(table, [[0, 0, 0], [0, 1, 0], [0, 0, 1]])
