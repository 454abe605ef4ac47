import numpy as np
import pytest

from skvibe.one_source import one_source_groups, scatter_likeness


def make_classes(n_classes=3, per_class=250, d=12, seed=0):
    """Classes whose rows scatter each along directions of their own."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), per_class)
    spread = np.ones((n_classes, d))
    for k in range(n_classes):
        spread[k, 3 * k : 3 * k + 3] = 2.5
    X = 8 * np.eye(d)[d - 2 - y] + spread[y] * rng.normal(size=(len(y), d))
    return X, y


def plant(X, y, source, target, count=80, length=12.0):
    rows = np.flatnonzero(y == source)[:count]
    X, y = X.copy(), y.copy()
    X[rows, -1] += length
    y[rows] = target
    return X, y, rows


@pytest.mark.parametrize("n_classes", [2, 3])
def test_poison_from_one_class_is_reported_with_its_source(n_classes):
    X, y, rows = plant(*make_classes(n_classes), 0, 1)
    (group,) = one_source_groups(X, y, range(n_classes))
    assert (group.label, group.source) == (1, 0)
    np.testing.assert_array_equal(group.rows, rows)
    assert 0.8 < group.place < 1.2
    assert group.likeness > 0.8
    assert 0.7 < group.size < 1.4
    expected = X[rows].mean(axis=0) - X[y == 0].mean(axis=0)
    np.testing.assert_allclose(group.shift, expected)


@pytest.mark.parametrize("seed", range(3))
def test_clean_classes_have_no_such_group(seed):
    assert one_source_groups(*make_classes(seed=seed), range(3)) == []


def test_a_sub_topic_of_a_class_is_none():
    X, y = make_classes()
    X[:80, -1] += 12.0  # rows of class 0 that stay there
    assert one_source_groups(X, y, range(3)) == []


def test_label_noise_is_none():
    X, y = make_classes()
    y[:60] = 1  # not displaced
    assert one_source_groups(X, y, range(3)) == []


def test_a_template_scatters_too_little():
    X, y, rows = plant(*make_classes(), 0, 1)
    centre = X[rows].mean(axis=0)
    X[rows] = centre + 0.3 * (X[rows] - centre)
    assert one_source_groups(X, y, range(3)) == []


def test_small_groups_and_other_classes_are_left_alone():
    X, y, _ = plant(*make_classes(), 0, 1, count=40)
    assert len(one_source_groups(X, y, [1])) == 1
    assert one_source_groups(X, y, [0, 2]) == []
    assert one_source_groups(X, y, [1], least=50) == []


def test_the_arrays_given_are_not_changed_and_a_seed_repeats():
    X, y, _ = plant(*make_classes(), 0, 1)
    before = X.copy()
    first, second = (one_source_groups(X, y, [1], seed=4)[0] for _ in range(2))
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(first.rows, second.rows)
    assert first.likeness == second.likeness


def test_likeness_is_one_for_the_source_and_zero_for_the_rest():
    rng = np.random.default_rng(0)
    wide, tall = np.array([4.0, 1, 1, 1]), np.array([1.0, 1, 1, 4])
    source, rest = (rng.normal(size=(600, 4)) * s for s in (wide, tall))
    for scale, expected in ((wide, 1.0), (tall, 0.0)):
        group = rng.normal(size=(300, 4)) * scale + 7
        assert scatter_likeness(group, source, rest)[0] == pytest.approx(
            expected, abs=0.2
        )
    alike = rng.normal(size=(600, 4)) * wide
    assert scatter_likeness(source, alike, alike.copy())[0] == -np.inf
    assert scatter_likeness(source, alike[:8], rest)[0] == -np.inf
