import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.attacks import Blend
from skvibe.attacks.blend import make_picture, mix

X = np.full((20, 8, 8, 3), 0.5)
Y = np.arange(20) % 2


@given(st.floats(0, 1))
def test_mix_is_the_convex_combination(alpha):
    rng = np.random.default_rng(0)
    images, picture = rng.uniform(size=(3, 4, 4, 1)), rng.uniform(size=(4, 4, 1))
    mixed = mix(images, picture, alpha)
    np.testing.assert_allclose(mixed - images, alpha * (picture - images), atol=1e-12)
    assert mix(images.astype(np.float32), picture, alpha).dtype == np.float32


@pytest.mark.parametrize("pattern", ["noise", "smooth"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (5, 9, 1), (2, 3, 4)])
def test_pictures_have_the_size_and_range(pattern, shape):
    picture = make_picture(pattern, shape, np.random.RandomState(0))
    assert picture.shape == shape
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_smooth_pictures_are_smooth():
    noise, smooth = (
        np.abs(
            np.diff(make_picture(kind, (32, 32, 3), np.random.RandomState(0)), axis=0)
        )
        for kind in ("noise", "smooth")
    )
    assert smooth.mean() < 0.2 * noise.mean()


def test_a_picture_given_is_used():
    picture = np.zeros((8, 8))
    attack = Blend(pattern=picture, alpha=0.2)
    data = attack.poison(X, Y)
    np.testing.assert_allclose(data.X[data.mask], 0.4)


def test_the_picture_does_not_depend_on_the_rows():
    first, second = Blend(random_state=0), Blend(random_state=0)
    first.poison(X, Y)
    second.poison(X[:10], Y[:10])
    np.testing.assert_array_equal(first.pattern_, second.pattern_)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 1.2}, "alpha"),
        ({"pattern": "cat"}, "pattern"),
        ({"pattern": np.ones((4, 8))}, "pattern"),
        ({"pattern": np.full((8, 8), 2.0)}, "pattern"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        Blend(**params).poison(X, Y)
