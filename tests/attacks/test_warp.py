import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from skvibe.attacks import WaNet
from skvibe.attacks.warp import warp, warp_field

X = np.random.default_rng(0).uniform(size=(40, 16, 12, 3))
Y = np.arange(40) % 2


def identity(shape):
    return np.moveaxis(np.indices(shape), 0, -1).astype(float)


def test_field_is_the_same_for_train_and_test():
    attack = WaNet(rate=0.2, random_state=None)
    data = attack.poison(X, Y)
    field = attack.field_.copy()
    np.testing.assert_array_equal(data.X[data.mask], attack.trigger(X[data.mask]))
    attack.trigger(X[::-1])
    np.testing.assert_array_equal(attack.field_, field)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 100))
def test_warp_agrees_with_scipy(height, width, seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(2, height, width, 2))
    field = warp_field((height, width), np.random.RandomState(seed), strength=3.0)
    assert field.min() >= 0
    assert (field <= [height - 1, width - 1]).all()
    warped = warp(images, field)
    for image, result in zip(images, warped, strict=True):
        for channel in range(2):
            expected = map_coordinates(
                image[..., channel], np.moveaxis(field, -1, 0), order=1
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=1e-9)


def test_identity_field_changes_nothing():
    np.testing.assert_array_equal(warp(X, identity((16, 12))), X)


def test_strength_scales_the_displacement():
    weak, strong = (
        warp_field((64, 64), np.random.RandomState(0), strength=s)[8:-8, 8:-8]
        - identity((64, 64))[8:-8, 8:-8]
        for s in (0.5, 1.0)
    )
    np.testing.assert_allclose(strong, 2 * weak)
    # Half the strength on average, more or less: the spline passes the control points.
    assert 0.2 < np.abs(strong).mean() < 0.8


def test_cover_rows_are_warped_otherwise_and_keep_their_label():
    attack = WaNet(rate=0.1, cover_rate=0.2, random_state=0)
    data = attack.poison(X, Y)
    assert data.cover_mask.sum() == 8
    np.testing.assert_array_equal(data.y[data.cover_mask], Y[data.cover_mask])
    plain = attack.trigger(X[data.cover_mask])
    different = (data.X[data.cover_mask] != plain).reshape(8, -1).any(axis=1)
    assert different.all()


@pytest.mark.parametrize(
    "params", [{"grid_size": 1}, {"strength": 0}, {"cover_rate": 1}]
)
def test_bad_parameters_are_named(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        WaNet(**params).poison(X, Y)
