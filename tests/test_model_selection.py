import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvibe import OffManifoldFilter, TriggerFilter, VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate
from skvibe.model_selection import (
    on_manifold_scorer,
    relabelling_scorer,
    separation,
    separation_scorer,
    suspect_scorer,
    trusted_scorer,
)


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


# -- scorers that look at labels -----------------------------------------------------


def test_relabelling_scorer_is_gain_and_agreement(digits):
    X, y = digits.X[:600], digits.y[:600]
    vibe = VIBEClassifier(random_state=0).fit(X, y)
    agreement = vibe.score(digits.X[600:], digits.y[600:])
    expected = vibe.relabelling_gain_ + agreement
    assert relabelling_scorer(vibe, digits.X[600:], digits.y[600:]) == expected
    pipe = make_pipeline(StandardScaler(), VIBEClassifier(random_state=0)).fit(X, y)
    expected = pipe[-1].relabelling_gain_ + pipe.score(X, y)
    assert relabelling_scorer(pipe, X, y) == pytest.approx(expected)


def test_relabelling_scorer_prefers_what_keeps_the_backdoor_out(digits):
    # The given labels as class shares let the backdoor through.
    scores, success = [], []
    for prior in ("uniform", "empirical"):
        vibe = VIBEClassifier(prior=prior, random_state=0).fit(digits.X, digits.y)
        scores.append(relabelling_scorer(vibe, digits.X, digits.y))
        predicted = vibe.predict(digits.X_triggered)
        success.append(
            attack_success_rate(digits.y_test, predicted, target=digits.target)
        )
    assert success[0] < 0.1 < 0.9 < success[1]
    assert scores[0] > scores[1]


def test_relabelling_scorer_needs_a_vibe_classifier(digits):
    model = LogisticRegression(max_iter=200).fit(digits.X, digits.y)
    with pytest.raises(TypeError, match="got LogisticRegression"):
        relabelling_scorer(model, digits.X, digits.y)


def test_suspect_scorer_is_accuracy_less_obedience():
    few = load_poisoned_digits(rate=0.05, random_state=0)
    X, y = few.X, few.y
    scorer = suspect_scorer(X, y)
    held = np.arange(len(X)) % 4 == 0
    model = LogisticRegression(max_iter=500).fit(X[~held], y[~held])
    found = TriggerFilter(random_state=0).fit(X, y)
    suspects = found.removed_mask_[held]
    agrees = model.predict(X[held]) == y[held]
    expected = agrees[~suspects].mean() - agrees[suspects].mean()
    assert scorer(model, X[held], y[held]) == pytest.approx(expected, abs=0.01)
    # Close to what clean test rows say.
    success = attack_success_rate(
        few.y_test, model.predict(few.X_triggered), target=few.target
    )
    truth = model.score(few.X_test, few.y_test) - success
    assert scorer(model, X[held], y[held]) == pytest.approx(truth, abs=0.05)
    # Where no suspect was held out there is none to obey with.
    rest = held & ~found.removed_mask_ & (y != few.target)
    assert scorer(model, X[rest], y[rest]) == model.score(X[rest], y[rest])


def test_suspect_scorer_takes_pipelines_and_names():
    few = load_poisoned_digits(rate=0.05, random_state=0)
    X, names = few.X, np.array(list("abcdefghij"), dtype=object)[few.y]
    pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    scores = cross_val_score(pipe, X, names, scoring=suspect_scorer(X, names), cv=3)
    # Obeys the trigger.
    assert np.all(scores < 0.1)
    plain = cross_val_score(pipe, X, few.y, scoring=suspect_scorer(X, few.y), cv=3)
    np.testing.assert_allclose(scores, plain)


def test_suspect_scorer_falls_back_where_nothing_is_found(digits):
    X, y = digits.X_test, digits.y_test
    model = LogisticRegression(max_iter=500).fit(X, y)
    expected = separation_scorer(model, X, y)
    assert suspect_scorer(X, y)(model, X, y) == expected
    by_accuracy = suspect_scorer(X, y, fallback="accuracy")
    assert by_accuracy(model, X, y) == model.score(X, y)
    # Rows that an earlier filter removed are no suspects.
    gone = X.astype(float)
    gone[:5] = np.nan
    assert suspect_scorer(gone, y)(model, X, y) == expected


def test_suspect_scorer_needs_numbers(digits):
    with pytest.raises(ValueError, match="encode texts and images before"):
        suspect_scorer(["a text", "another"] * 60, [0, 1] * 60)


class RejectsFirst(OffManifoldFilter):
    """Rejects the first ``n`` rows of whatever it is asked about."""

    n = 3

    def is_off_manifold(self, X):
        return np.arange(len(X)) < self.n


def test_on_manifold_scorer_leaves_rows_out(digits):
    X, y = digits.X[:600], digits.y[:600]
    pipe = make_pipeline(RejectsFirst(random_state=0), LogisticRegression())
    pipe.steps[0][1].fit(X, y)
    pipe.steps[1][1].fit(X, y)
    seen = []

    def scoring(estimator, X, y):
        seen.append((X, y))
        return 0.5

    assert on_manifold_scorer(scoring)(pipe, X, y) == 0.5
    np.testing.assert_array_equal(seen[0][0], X[3:])
    np.testing.assert_array_equal(seen[0][1], y[3:])
    assert on_manifold_scorer()(pipe, X, y) == pipe.score(X[3:], y[3:])
    with pytest.raises(ValueError, match="reject every held-out row"):
        on_manifold_scorer()(pipe, X[:3], y[:3])


def test_on_manifold_scorer_needs_a_filter(digits):
    model = LogisticRegression(max_iter=200).fit(digits.X, digits.y)
    with pytest.raises(TypeError, match="needs a Pipeline with an OffManifoldFilter"):
        on_manifold_scorer()(model, digits.X, digits.y)


def test_trusted_scorer_looks_at_nothing_else(digits):
    model = LogisticRegression(max_iter=200).fit(digits.X, digits.y)
    scorer = trusted_scorer(digits.X_test, digits.y_test)
    expected = model.score(digits.X_test, digits.y_test)
    assert scorer(model, digits.X[:5], digits.y[:5]) == expected
    with pytest.raises(ValueError, match="same length, got 5 and 4"):
        trusted_scorer(digits.X_test[:5], digits.y_test[:4])
