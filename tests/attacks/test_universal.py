import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.attacks import UniversalBackdoor
from skvibe.attacks.universal import (
    class_codes,
    draw_balanced,
    print_blend,
    print_patch,
)
from skvibe.datasets import load_poisoned_digits


def make_digits():
    digits = load_poisoned_digits(rate=0)
    return digits.X.reshape(-1, 8, 8), digits.y


@pytest.mark.parametrize("trigger_type", ["patch", "blend"])
def test_every_class_is_a_target_equally_often(trigger_type):
    X, y = make_digits()
    attack = UniversalBackdoor(trigger_type=trigger_type, rate=0.1, random_state=0)
    data = attack.poison(X, y)
    assert set(np.bincount(data.y[data.mask])) <= {13, 14}
    assert attack.codes_.shape == (10, 9)
    for label in (0, 7):
        rows = data.mask & (data.y == label)
        np.testing.assert_array_equal(data.X[rows], attack.trigger(X[rows], label))
    np.testing.assert_array_equal(attack.trigger(X), attack.trigger(X, target=0))


def test_codes_do_not_depend_on_the_order_of_the_rows():
    X, y = make_digits()
    order = np.random.default_rng(0).permutation(len(X))
    features = X.reshape(len(X), -1)[:, 10:30]
    np.testing.assert_array_equal(
        class_codes(features, y), class_codes(features[order], y[order])
    )


def test_similar_classes_have_similar_codes():
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(10, 20))
    centres[1] = centres[0] + 0.5 * rng.normal(size=20)
    y = np.arange(600) % 10
    codes = class_codes(centres[y] + rng.normal(size=(600, 20)), y)
    distance = (codes[0] != codes).sum(axis=1)
    assert distance[1] == distance[1:].min()


@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 1000))
def test_rows_are_balanced_and_never_of_their_own_class(n_classes, n_rows, seed):
    y = np.random.default_rng(seed).integers(n_classes, size=200)
    rows, wanted = draw_balanced(y, n_rows, np.random.RandomState(seed))
    assert len(np.unique(rows)) == n_rows == len(wanted)
    assert (y[rows] != wanted).all()
    counts = np.bincount(wanted, minlength=n_classes)[np.unique(y)]
    assert counts.max() - counts.min() <= 1


def test_too_many_rows_are_an_error():
    y = np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match="lower rate"):
        draw_balanced(y, 4, np.random.RandomState(0))


def test_tiles_are_where_they_belong():
    code = np.array([1, 0, 0, 1, 1, 0, 1], dtype=bool)
    printed = print_patch(np.full((1, 12, 12, 3), 0.5), code, 2)
    for bit, value in enumerate(code):
        top, left = bit // 5 * 2, bit % 5 * 2
        assert (printed[0, top : top + 2, left : left + 2] == value).all()
    assert (printed[0, 4:] == 0.5).all()
    assert (printed[0, 2:4, 4:] == 0.5).all()


def test_blend_covers_with_cyan_and_red():
    printed = print_blend(np.zeros((1, 6, 5, 3)), np.arange(10) % 2 == 0, 0.2)
    assert printed[0, 0, 0].tolist() == [0, 0.2, 0.2]
    assert printed[0, 0, 1].tolist() == [0.2, 0, 0]
    grey = print_blend(np.full((1, 6, 5, 1), 0.5), np.array([True, False]), 0.2)
    assert sorted(np.unique(grey.round(6))) == [0.4, 0.6]


def test_embed_is_used():
    X, y = make_digits()
    seen = []

    def embed(images):
        seen.append(images.shape)
        return images.reshape(len(images), -1)[:, 10:30]

    attack = UniversalBackdoor(embed=embed)
    attack.poison(X, y)
    assert seen == [X.shape]
    np.testing.assert_array_equal(
        attack.codes_, class_codes(X.reshape(len(X), -1)[:, 10:30], y)
    )


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"trigger_type": "sticker"}, "trigger_type"),
        ({"alpha": 2}, "alpha"),
        ({"n_bits": 0}, "n_bits"),
        ({"tile_size": 4}, "tile_size"),
    ],
)
def test_bad_parameters_are_named(params, name):
    X, y = make_digits()
    with pytest.raises(ValueError, match=name):
        UniversalBackdoor(**params).poison(X, y)


def test_unknown_target_is_named():
    X, y = make_digits()
    attack = UniversalBackdoor()
    attack.poison(X, y)
    with pytest.raises(ValueError, match="target"):
        attack.trigger(X, target=11)
