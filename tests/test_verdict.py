import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skvibe import TriggerFilter, VIBEClassifier
from skvibe.auditing import Audit
from skvibe.verdict import fill_clean_labels, merge_poison_scores


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1, 2, 3], 150)
    X = 4 * np.eye(12)[y_true] + rng.normal(size=(600, 12))
    poison = np.zeros(600, dtype=bool)
    poison[rng.permutation(np.arange(150, 600))[:60]] = True
    X[poison, -1] += 8
    return X, np.where(poison, 0, y_true), y_true, poison


@pytest.fixture(scope="module")
def pipe(data):
    trigger = TriggerFilter(random_state=0)
    vibe = VIBEClassifier(random_state=0, max_iter=60, e_step_period=30)
    return Pipeline([("trigger", trigger), ("vibe", vibe)]).fit(*data[:2])


def test_removed_rows_get_the_label_that_the_pipeline_predicts(data, pipe):
    X, y, y_true, poison = data
    assert pipe["trigger"].removed_mask_[poison].all()
    assert (pipe["vibe"].clean_labels_[poison] == y[poison]).all()
    labels = fill_clean_labels(pipe, X)
    assert np.mean(labels[poison] == y_true[poison]) > 0.9
    kept = pipe["vibe"].train_mask_
    np.testing.assert_array_equal(labels[kept], pipe["vibe"].clean_labels_[kept])
    # The attributes stay as they were.
    assert (pipe["vibe"].clean_labels_[poison] == y[poison]).all()


def test_frames_are_accepted(data):
    X, y, _, poison = data
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(12)])
    steps = [
        ("trigger", TriggerFilter(random_state=0).set_output(transform="pandas")),
        ("vibe", VIBEClassifier(random_state=0, max_iter=20)),
    ]
    fitted = Pipeline(steps).fit(frame, y)
    labels = fill_clean_labels(fitted, frame)
    assert (labels[poison] != 0).mean() > 0.9


def test_rows_must_be_those_of_fit(data, pipe):
    with pytest.raises(ValueError, match="599 rows, the pipeline was fitted on 600"):
        fill_clean_labels(pipe, data[0][1:])


def test_scores_are_the_largest_of_all_steps(data, pipe):
    X, y, _, poison = data
    trigger = TriggerFilter(max_removed=0.05, random_state=0)
    with pytest.warns(UserWarning, match=r"max_removed=0\.05"):
        kept = Pipeline([("trigger", trigger), ("vibe", pipe["vibe"])]).fit(X, y)
    scores = merge_poison_scores(kept)
    assert kept["vibe"].train_mask_.all()
    np.testing.assert_array_equal(
        scores, np.maximum(kept["vibe"].poison_scores_, trigger.scores_)
    )
    assert (scores[poison] > 0.9).all()


def test_a_classifier_alone_and_a_search(data):
    X, y, _, _ = data
    vibe = VIBEClassifier(random_state=0, max_iter=20)
    search = GridSearchCV(vibe, {"lam": [25.0]}, cv=2, scoring="accuracy").fit(X, y)
    np.testing.assert_array_equal(
        merge_poison_scores(search), search.best_estimator_.poison_scores_
    )
    labels = fill_clean_labels(search, X)
    np.testing.assert_array_equal(labels, search.best_estimator_.clean_labels_)


def test_other_estimators_are_refused(data):
    X, y, _, _ = data
    with pytest.raises(AttributeError, match="poison_scores_"):
        merge_poison_scores(LogisticRegression().fit(X, y))


def test_the_audit_says_the_same(data, pipe):
    X, y, _, _ = data
    found = Audit(pipe, X, y)
    np.testing.assert_array_equal(found.poison_scores, merge_poison_scores(pipe))
    np.testing.assert_array_equal(found.clean_labels, fill_clean_labels(pipe, X))
    assert not found.undecided.any()
