import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate


def test_says_which_rows_it_changed():
    data = load_poisoned_digits(target=3, rate=0.1, random_state=1)
    clean = load_poisoned_digits(target=3, rate=0, random_state=1)
    changed = (data.X != clean.X).any(axis=1)
    assert data.poison_mask.sum() == round(0.1 * len(data.X))
    assert not clean.poison_mask.any()
    # A digit may have had a bright corner already; none was changed elsewhere.
    assert not changed[~data.poison_mask].any()
    np.testing.assert_array_equal(data.y[~data.poison_mask], clean.y[~data.poison_mask])
    assert (data.y[data.poison_mask] == 3).all()
    assert (data.y_true[data.poison_mask] != 3).all()
    np.testing.assert_array_equal(data.y_true, clean.y)


def test_trigger_is_the_same_in_train_and_test():
    data = load_poisoned_digits(trigger_size=3, rate=0.05)
    clean = load_poisoned_digits(trigger_size=3, rate=0)
    for X, original in (
        (data.X[data.poison_mask], clean.X[data.poison_mask]),
        (data.X_triggered, data.X_test),
    ):
        images, before = X.reshape(-1, 8, 8), original.reshape(-1, 8, 8).copy()
        before[:, 5:, 5:] = 1
        np.testing.assert_array_equal(images, before)


def test_pixels_are_in_the_unit_interval():
    data = load_poisoned_digits()
    for X in (data.X, data.X_test, data.X_triggered):
        assert X.min() == 0
        assert X.max() == 1
        assert X.dtype == np.float64


def test_same_seed_same_data():
    first, second = load_poisoned_digits(), load_poisoned_digits()
    other = load_poisoned_digits(random_state=5)
    np.testing.assert_array_equal(first.X, second.X)
    assert not np.array_equal(first.X, other.X)


@pytest.mark.parametrize("target", [0, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_undefended_classifier_obeys(seed, target):
    data = load_poisoned_digits(target=target, random_state=seed)
    clean = load_poisoned_digits(target=target, rate=0, random_state=seed)
    attacked = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    control = LogisticRegression(max_iter=1000).fit(clean.X, clean.y)
    asr, without = (
        attack_success_rate(data.y_test, clf.predict(data.X_triggered), target=target)
        for clf in (attacked, control)
    )
    assert asr > 0.97
    assert without < 0.15
    assert attacked.score(data.X_test, data.y_test) > 0.92


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"target": 10}, "target"),
        ({"target": "0"}, "target"),
        ({"rate": 0.7}, "rate"),
        ({"trigger_size": 0}, "trigger_size"),
        ({"test_size": 1.0}, "test_size"),
    ],
)
def test_bad_parameters_are_named(params, name):
    with pytest.raises((TypeError, ValueError), match=name):
        load_poisoned_digits(**params)
