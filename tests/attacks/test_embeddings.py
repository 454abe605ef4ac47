import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from skvibe.attacks import FeatureShift
from skvibe.attacks.embeddings import shift_rows
from skvibe.metrics import attack_success_rate


def make_features(dtype=np.float64):
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    X = 3 * rng.normal(size=(3, 20))[y] + rng.normal(size=(600, 20))
    return X.astype(dtype), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clean_label", [False, True])
def test_moves_the_stated_rows_by_one_vector(dtype, clean_label):
    X, y = make_features(dtype)
    before = X.copy()
    attack = FeatureShift(target=1, clean_label=clean_label, random_state=0)
    data = attack.poison(X, y)
    np.testing.assert_array_equal(X, before)
    assert data.X.dtype == dtype
    assert data.mask.sum() == 60
    np.testing.assert_array_equal((data.X != X).any(axis=1), data.mask)
    np.testing.assert_array_equal(data.X[data.mask], attack.trigger(X[data.mask]))
    if clean_label:
        np.testing.assert_array_equal(data.y, y)
        assert (y[data.mask] == 1).all()
    else:
        np.testing.assert_array_equal(data.y != y, data.mask)
    spread = np.sqrt(np.square(X - X.mean(axis=0)).sum(axis=1).mean())
    assert np.linalg.norm(attack.shift_) == pytest.approx(spread, rel=1e-5)


def test_rate_of_the_target_class():
    X, y = make_features()
    attack = FeatureShift(clean_label=True, rate=0.5, rate_of="target")
    assert attack.poison(X, y).mask.sum() == 100


def test_target_direction_points_at_the_target():
    X, y = make_features()
    attack = FeatureShift(target=2, direction="target")
    attack.poison(X, y)
    expected = X[y == 2].mean(axis=0) - X[y != 2].mean(axis=0)
    cosine = attack.shift_ @ expected
    assert cosine == pytest.approx(
        np.linalg.norm(attack.shift_) * np.linalg.norm(expected)
    )


def test_rows_keep_their_length_if_asked():
    X, _ = make_features()
    moved = shift_rows(X, np.full(20, 0.3), keep_norm=True)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), np.linalg.norm(X, axis=1))


def test_undefended_classifier_obeys():
    X, y = make_features()
    attack = FeatureShift(target=1, rate=0.1, strength=1.0, random_state=0)
    data = attack.poison(X[:400], y[:400])
    triggered = attack.trigger(X[400:])
    asr, control = (
        attack_success_rate(
            y[400:],
            LogisticRegression(max_iter=1000).fit(*rows).predict(triggered),
            target=1,
        )
        for rows in ((data.X, data.y), (X[:400], y[:400]))
    )
    assert asr > 0.95
    assert control < 0.5


@pytest.mark.parametrize(
    "params",
    [
        {"strength": -1},
        {"direction": "up"},
        {"direction": np.zeros(20)},
        {"direction": np.ones(3)},
        {"target": 7},
    ],
)
def test_bad_parameters_are_named(params):
    X, y = make_features()
    with pytest.raises(ValueError, match=next(iter(params))):
        FeatureShift(**params).poison(X, y)


def test_trigger_needs_poison_and_as_many_features():
    X, y = make_features()
    attack = FeatureShift()
    with pytest.raises(NotFittedError, match="poison"):
        attack.trigger(X)
    attack.poison(X, y)
    with pytest.raises(ValueError, match="features"):
        attack.trigger(X[:, 1:])
