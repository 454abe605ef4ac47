import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.attacks import BadNets
from skvibe.attacks.patch import paste, place_patch

X = np.full((40, 10, 12, 3), 100, dtype=np.uint8)
Y = np.arange(40) % 4


def test_all_to_all_sends_each_class_to_the_next():
    data = BadNets(target="all", rate=0.5, random_state=0).poison(X, Y)
    np.testing.assert_array_equal(data.y[data.mask], (Y[data.mask] + 1) % 4)
    assert set(Y[data.mask]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("position", "corner"), [((-1, -1), (7, 9)), ((0, 0), (0, 0)), ((2, -3), (2, 7))]
)
def test_only_the_patch_is_pasted(position, corner):
    attack = BadNets(target=0, position=position)
    data = attack.poison(X, Y)
    assert attack.corner_ == corner
    changed = (data.X[data.mask] != 100).any(axis=-1)
    expected = np.zeros((10, 12), dtype=bool)
    expected[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = True
    assert (changed == expected).all()
    assert data.X[data.mask].max() == 255


def test_a_coloured_pattern_is_pasted_as_given():
    pattern = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    triggered = BadNets(pattern=pattern, position=(4, 4))
    triggered.poison(X, Y)
    np.testing.assert_array_equal(triggered.trigger(X)[0, 4:6, 4:6], pattern)


@given(st.integers(-40, 40), st.integers(1, 12), st.integers(1, 12))
def test_place_is_inside_or_an_error(start, patch, image):
    first = start if start >= 0 else image + start + 1 - patch
    if 0 <= first <= image - patch:
        assert place_patch((start, 0), (patch, 1), (image, 1)) == (first, 0)
    else:
        with pytest.raises(ValueError, match="position"):
            place_patch((start, 0), (patch, 1), (image, 1))


def test_paste_mixes_by_opacity():
    mixed = paste(np.zeros((1, 2, 2, 1)), np.ones((1, 1, 1)), (1, 0), alpha=0.25)
    assert mixed.ravel().tolist() == [0, 0, 0.25, 0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": 11}, "size"),
        ({"pattern": np.ones((11, 2))}, "pattern"),
        ({"pattern": np.ones((2, 2, 4))}, "pattern"),
        ({"pattern": np.full((2, 2), 7.0)}, "pattern"),
        ({"position": (9, 0)}, "position"),
        ({"position": 3}, "position"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        BadNets(**params).poison(X, Y)
