import numpy as np
import pytest

from skvibe._checks import check_integer, check_option, check_real


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3)])
def test_integers_of_any_make_become_int(value):
    result = check_integer("n", value, 1, 5)
    assert result == 3
    assert type(result) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, "3", None, np.array([3]), 3j])
def test_other_types_are_not_integers(value):
    with pytest.raises(TypeError, match=r"n must be an integer in \[1, 5\], got .*\)"):
        check_integer("n", value, 1, 5)


@pytest.mark.parametrize("value", [0, 6, -(10**30), 10**30])
def test_integers_out_of_range(value):
    with pytest.raises(ValueError, match=r"n must be a number in \[1, 5\]"):
        check_integer("n", value, 1, 5)


def test_integers_without_bounds():
    assert check_integer("n", -7) == -7
    assert check_integer("n", 7, low=7) == 7
    assert check_integer("n", 7, high=7) == 7
    with pytest.raises(ValueError, match=r"in \[8, inf\)"):
        check_integer("n", 7, low=8)
    with pytest.raises(ValueError, match=r"in \(-inf, 6\]"):
        check_integer("n", 7, high=6)
    with pytest.raises(TypeError, match="n must be an integer, got None"):
        check_integer("n", None)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1)])
def test_numbers_of_any_make_become_float(value):
    result = check_real("x", value, 0, 2)
    assert result == 1
    assert type(result) is float


@pytest.mark.parametrize("value", [True, np.False_, "1", None, [1.0], 1 + 0j])
def test_other_types_are_not_numbers(value):
    with pytest.raises(TypeError, match=r"x must be a number in \[0, 2\], got"):
        check_real("x", value, 0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan")])
def test_numbers_must_be_finite(value):
    with pytest.raises(ValueError, match="x must be finite"):
        check_real("x", value)


@pytest.mark.parametrize(
    ("closed", "allowed", "refused"),
    [
        ("[]", (0, 2), (-1e-9, 2.1)),
        ("()", (1e-9, 1.9), (0, 2)),
        ("[)", (0, 1.9), (-1, 2)),
        ("(]", (1e-9, 2), (0, 2.1)),
    ],
)
def test_bounds_are_open_or_closed(closed, allowed, refused):
    for value in allowed:
        assert check_real("x", value, 0, 2, closed=closed) == value
    for value in refused:
        with pytest.raises(ValueError, match="x must be a number in") as raised:
            check_real("x", value, 0, 2, closed=closed)
        assert f"{closed[0]}0, 2{closed[1]}" in str(raised.value)


def test_options():
    assert check_option("mode", "b", ("a", "b")) == "b"
    for value in ("c", "", None, 1, ["a"], np.array(["a"])):
        with pytest.raises(ValueError, match="mode must be one of 'a', 'b'; got"):
            check_option("mode", value, ("a", "b"))
