import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skvibe.attacks import BadNets
from skvibe.attacks.images import check_unit_array, find_format

SHAPES = {"NHW": (2, 5, 6), "NHWC": (2, 5, 6, 3), "NCHW": (2, 3, 5, 6)}


@given(st.sampled_from(sorted(SHAPES)), st.data())
def test_bytes_survive_the_round_trip(layout, data):
    X = data.draw(arrays(np.uint8, SHAPES[layout]))
    image_format = find_format(X, layout)
    unit = image_format.to_unit(X)
    assert unit.ndim == 4
    assert unit.min() >= 0
    assert unit.max() <= 1
    np.testing.assert_array_equal(image_format.from_unit(unit), X)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_survive_the_round_trip(layout, dtype):
    X = np.random.default_rng(0).uniform(size=SHAPES[layout]).astype(dtype)
    image_format = find_format(X)
    assert image_format.layout == layout
    back = image_format.from_unit(image_format.to_unit(X))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, X)


def test_layout_settles_what_the_shape_leaves_open():
    X = np.zeros((2, 3, 8, 3))
    assert find_format(X).layout == "NHWC"
    assert find_format(X, "NCHW").to_unit(X).shape == (2, 8, 3, 3)
    many = np.zeros((2, 8, 8, 12))
    assert find_format(many, "NHWC").to_unit(many).shape == many.shape


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((2, 8, 8, 12)), "layout"),
        (np.zeros((2, 64)), "batch of images"),
        (np.full((2, 8, 8), 255.0), r"outside \[0, 1\]"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.zeros((2, 8, 8), dtype=int), "uint8"),
    ],
)
def test_what_is_no_batch_of_images_is_an_error(X, message):
    with pytest.raises(ValueError, match=message):
        BadNets().poison(X, [0, 1])


def test_layout_and_axes_must_agree():
    with pytest.raises(ValueError, match="4 axes"):
        find_format(np.zeros((2, 8, 8)), "NCHW")


def test_given_patterns_are_bytes_or_in_the_unit_interval():
    assert check_unit_array("pattern", np.array([255], dtype=np.uint8)) == 1
    for wrong in ([2.0], [-0.1], ["a"]):
        with pytest.raises(ValueError, match="pattern"):
            check_unit_array("pattern", wrong)
