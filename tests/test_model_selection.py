import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate
from skvibe.model_selection import separation, separation_scorer


def naive_separation(X, predicted):
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    means = [X[predicted == group].mean(axis=0) for group in np.unique(predicted)]
    distances = [
        1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for i, a in enumerate(means)
        for b in means[:i]
    ]
    return np.mean(distances)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 10))
def test_separation_is_the_mean_over_pairs(seed, n_groups, n_features):
    rng = np.random.default_rng(seed)
    predicted = np.r_[np.arange(n_groups), rng.integers(n_groups, size=20)]
    X = rng.normal(size=(len(predicted), n_features))
    expected = naive_separation(X, predicted)
    assert separation(X, predicted) == pytest.approx(expected, abs=1e-9)
    # Names of the groups, order and length of the rows do not matter.
    order = rng.permutation(len(X))
    scale = rng.uniform(0.1, 10, size=(len(X), 1))
    names = np.array(list("fedcba"))[predicted]
    other = separation((scale * X)[order], names[order])
    assert other == pytest.approx(expected, abs=1e-9)


def test_separation_at_the_ends():
    eye = np.eye(2)
    assert separation(eye, [0, 0]) == 0
    assert separation(eye, [0, 1]) == 1
    assert separation([[1.0, 0.0], [-2.0, 0.0]], ["a", "b"]) == 2
    assert separation(np.ones((2, 2)), [0, 1]) == pytest.approx(0)
    # A zero vector has no direction and must not become NaN.
    assert np.isfinite(separation([[0.0, 0.0], [1.0, 0.0]], [0, 1]))


@pytest.fixture(scope="module")
def digits():
    return load_poisoned_digits(random_state=0)


def test_scorer_sees_what_the_last_step_sees(digits):
    X, y = digits.X[:300], digits.y[:300]
    vibe = VIBEClassifier(random_state=0, max_iter=50)
    pipe = make_pipeline(StandardScaler(), vibe).fit(X, y)
    scaled = pipe[0].transform(X)
    expected = separation(pipe[-1].transform(scaled), pipe.predict(X))
    assert separation_scorer(pipe, X) == expected
    assert separation_scorer(pipe[-1], scaled, y) == expected
    # Labels are not read.
    assert separation_scorer(pipe, X, y[::-1]) == expected


def test_scorer_takes_any_classifier(digits):
    X, y = digits.X[:300], digits.y[:300]
    plain = LogisticRegression(max_iter=500).fit(X, y)
    assert separation_scorer(plain, X) == separation(X, plain.predict(X))
    pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, y)
    expected = separation(pipe[0].transform(X), pipe.predict(X))
    assert separation_scorer(pipe, X) == expected
    scores = cross_val_score(plain, X, y, scoring=separation_scorer, cv=3)
    assert scores.shape == (3,)


def test_scorer_prefers_the_model_that_does_not_obey(digits):
    """Accuracy against the given labels ranks these two the other way round."""
    X, y = digits.X, digits.y
    models = {
        "obeys": LogisticRegression(max_iter=1000),
        "defends": VIBEClassifier(random_state=0),
    }
    asr, by_separation, by_accuracy = {}, {}, {}
    held_out = np.arange(len(X)) % 4 == 0
    for name, model in models.items():
        model.fit(X[~held_out], y[~held_out])
        predicted = model.predict(digits.X_triggered)
        asr[name] = attack_success_rate(digits.y_test, predicted, target=digits.target)
        by_separation[name] = separation_scorer(model, X[held_out])
        by_accuracy[name] = model.score(X[held_out], y[held_out])
    assert asr["obeys"] > 0.9
    assert asr["defends"] < 0.02
    assert by_accuracy["obeys"] > by_accuracy["defends"]
    assert by_separation["defends"] > by_separation["obeys"]


def test_search_with_the_scorer(digits):
    search = GridSearchCV(
        VIBEClassifier(random_state=0, refit=False),
        {"nu": [0.5, 20.0]},
        scoring=separation_scorer,
        cv=2,
        error_score="raise",
    ).fit(digits.X, digits.y)
    predicted = search.predict(digits.X_triggered)
    assert attack_success_rate(digits.y_test, predicted, target=digits.target) < 0.05
