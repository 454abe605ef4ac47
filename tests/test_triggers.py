import numpy as np
import pytest

from skvibe.triggers import (
    graded_posterior,
    number_duplicates,
    search_triggers,
    shifted_posterior,
    suspicion,
)


def make_rows(n_classes=4, per_class=200, d=20, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), per_class)
    return 4 * np.eye(d)[y] + rng.normal(size=(len(y), d)), y


def plant(X, y, rows, target, length=7.0):
    X, y = X.copy(), y.copy()
    X[rows, -1] += length
    y[rows] = target
    return X, y


def test_a_planted_trigger_is_found_and_nothing_else():
    X, y = make_rows()
    poison = np.arange(200, 800, 15)
    found = search_triggers(*plant(X, y, poison, 0))
    assert found.p_values[0] < 1e-3
    assert (found.p_values[1:] > 0.2).all()
    np.testing.assert_array_equal(np.flatnonzero(found.moved > 0.5), poison)
    shift = found.shifts[0] @ found.unwhiten
    np.testing.assert_allclose(shift, 7 * np.eye(20)[-1], atol=0.8)


def test_poison_may_outnumber_its_class():
    X, y = make_rows()
    X, y = X[20:], y[20:]  # 180 rows of class 0
    poison = np.flatnonzero(y > 0)[::2]  # 300 rows
    X, y = plant(X, y, poison, 0)
    found = search_triggers(X, y)
    assert found.p_values[0] < 1e-3
    in_class = np.flatnonzero((found.moved > 0.5) & (y == 0))
    np.testing.assert_array_equal(in_class, poison)


def test_all_to_all_where_poison_holds_a_small_class():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), [300, 300, 300, 300, 40])
    X = 4 * np.eye(30)[y] + rng.normal(size=(len(y), 30))
    poison = rng.random(len(y)) < 0.2
    X[poison, -1] += 9
    y = np.where(poison, (y + 1) % 5, y)
    assert poison[y == 4].mean() > 0.5
    found = search_triggers(X, y)
    assert (found.p_values[[1, 2, 3, 4]] < 1e-3).all()
    marked = (found.moved > 0.5) & (found.p_values < 0.05)[y]
    assert marked[poison].mean() > 0.95
    assert poison[marked].mean() > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_a_natural_sub_topic_is_no_trigger(seed):
    X, y = make_rows(seed=seed)
    X[:40, -1] += 7.0  # rows of class 0 that stay in class 0
    found = search_triggers(X, y, seed=seed)
    assert found.p_values.min() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_label_noise_is_no_trigger(seed):
    X, y = make_rows(seed=seed)
    rng = np.random.default_rng(seed)
    noisy = rng.random(len(y)) < 0.2
    y[noisy] = rng.integers(0, 4, noisy.sum())
    X[noisy, -1] += 2.0  # off by less than REACH
    assert search_triggers(X, y, seed=seed).p_values.min() > 0.05


def test_a_topic_that_two_classes_share_is_no_trigger():
    X, y = make_rows()
    X[:40, -1] += 9.0
    X[200:240, -1] += 9.0
    found = search_triggers(X, y)
    assert found.p_values.min() > 0.05


def test_all_to_all_is_found_by_agreement_across_classes():
    X, y = make_rows(per_class=300)
    rng = np.random.default_rng(1)
    poison = np.flatnonzero(rng.random(len(y)) < 0.1)
    Xp, yp = plant(X, y, poison, 0, length=8.0)
    yp[poison] = (y[poison] + 1) % 4
    found = search_triggers(Xp, yp)
    assert (found.p_values < 1e-3).all()
    assert (found.agreements > 0.7).all()
    np.testing.assert_array_equal(np.flatnonzero(found.moved > 0.5), poison)


def test_rate_of_false_alarms_on_pure_noise():
    # Labels say nothing here: the hardest case for a search over many classes.
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = search_triggers(
            rng.normal(size=(150, 6)), rng.integers(0, 3, 150), seed=seed
        )
        alarms += found.p_values.min() < 0.05
    assert alarms <= 3  # more than that has a chance of 1.6 % at a rate of 0.05


def test_small_classes_are_sources_only():
    X, y = make_rows()
    keep = np.r_[0:600, 600:605]
    found = search_triggers(X[keep], y[keep])
    assert np.isnan(found.statistics[3])
    assert found.p_values[3] == 1


def test_more_features_than_rows_and_duplicates():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40)
    X = 3 * np.eye(300)[y] + rng.normal(size=(120, 300)) / 3
    X[:30] = X[0]
    found = search_triggers(X, y)
    assert found.p_values.min() > 0.05
    assert np.isfinite(found.moved).all()


def test_the_same_seed_gives_the_same_bits():
    X, y = make_rows()
    X, y = plant(X, y, np.arange(200, 800, 15), 0)
    first, second = (search_triggers(X, y, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.moved, second.moved)
    np.testing.assert_array_equal(first.statistics, second.statistics)


def test_suspicion_is_high_for_rows_of_other_classes():
    means = 5 * np.eye(4)
    scores = suspicion(means, means, 0)
    assert scores[0] < 0.01
    assert (scores[1:] > 0.99).all()


def test_number_duplicates_tells_rows_apart():
    X = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [3.0, 1.0]])
    np.testing.assert_array_equal(number_duplicates(X), [0, 1, 0, 2])


def test_graded_posterior_finds_weakly_moved_rows():
    means = 6 * np.eye(20)[:4]
    shift = 9 * np.eye(20)[-1]
    strengths = np.repeat([0.0, 1 / 3, 2 / 3, 1.0], 30)
    rng = np.random.default_rng(0)
    moved = means[1] + strengths[:, None] * shift + rng.normal(size=(120, 20))
    natural = means[0] + rng.normal(size=(200, 20))
    posterior, _ = graded_posterior(
        np.concatenate([moved, natural]), means, 0, shift, np.full(4, 100.0)
    )
    assert (posterior[:30] < 0.5).mean() > 0.85  # label noise
    assert (posterior[30:120] > 0.5).mean() > 0.85
    assert posterior[120:].max() < 0.5


def test_shifted_posterior_needs_no_label():
    means, shift = 6 * np.eye(10)[:3], 6 * np.eye(10)[-1]
    assert (shifted_posterior(means, means, shift) < 1e-3).all()
    assert (shifted_posterior(means + shift, means, shift) > 0.999).all()
    np.testing.assert_allclose(shifted_posterior(means + shift / 2, means, shift), 0.5)
