import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvibe.trigger_filter import TriggerFilter

ABSTAINS = "ignore:TriggerFilter removes nothing:UserWarning"


def make_poisoned(n_poison=60, d=20, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), 200)
    X = 4 * np.eye(d)[y] + rng.normal(size=(800, d))
    poison = np.zeros(800, dtype=bool)
    poison[rng.permutation(np.arange(200, 800))[:n_poison]] = True
    X[poison, -1] += 8
    y[poison] = 0
    return X, y, poison


@pytest.fixture(scope="module")
def poisoned():
    return make_poisoned()


@pytest.fixture(scope="module")
def fitted(poisoned):
    return TriggerFilter(random_state=0).fit(*poisoned[:2])


@pytest.mark.filterwarnings(ABSTAINS)
@parametrize_with_checks([TriggerFilter(), TriggerFilter(min_samples=5)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_removed_rows_are_nan_and_nothing_else_changes(poisoned):
    X, y, poison = poisoned
    before = X.copy(), y.copy()
    estimator = TriggerFilter(random_state=0)
    marked = estimator.fit_transform(X, y)
    np.testing.assert_array_equal(np.isnan(marked).all(axis=1), poison)
    np.testing.assert_array_equal(marked[~poison], X[~poison])
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])
    np.testing.assert_array_equal(estimator.transform(X), X)


def test_attributes_are_aligned(poisoned, fitted):
    _, y, poison = poisoned
    np.testing.assert_array_equal(fitted.removed_mask_, poison)
    np.testing.assert_array_equal(fitted.support_, np.flatnonzero(~poison))
    assert fitted.n_removed_ == poison.sum()
    np.testing.assert_array_equal(fitted.suspect_classes_, [0])
    assert fitted.scores_.shape == y.shape
    assert fitted.scores_[poison].min() > fitted.scores_[~poison].max()
    assert 0 <= fitted.scores_.min() <= fitted.scores_.max() <= 1
    assert fitted.p_values_[0] < 1e-3 < 0.2 < fitted.p_values_[1:].min()
    np.testing.assert_allclose(fitted.directions_, 8 * np.eye(20)[-1:], atol=0.8)


def test_labels_may_be_strings(poisoned, fitted):
    X, y, poison = poisoned
    names = np.array(["ape", "bee", "cat", "dog"])
    named = TriggerFilter(random_state=0).fit(X, names[y])
    assert named.suspect_classes_.tolist() == ["ape"]
    np.testing.assert_array_equal(named.removed_mask_, poison)


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_scale_and_place_of_features_do_not_matter(poisoned, factor):
    X, y, poison = poisoned
    scaled = X * factor + 100 * factor * np.arange(X.shape[1])
    found = TriggerFilter(random_state=0).fit(scaled, y)
    np.testing.assert_array_equal(found.removed_mask_, poison)


def test_two_triggers_in_two_classes(poisoned):
    X, y, first = poisoned
    X, y = X.copy(), y.copy()
    second = np.zeros(800, dtype=bool)
    second[np.flatnonzero((y != 3) & ~first)[::12]] = True
    X[second, -2] += 8
    y[second] = 3
    found = TriggerFilter(random_state=0).fit(X, y)
    assert found.suspect_classes_.tolist() == [0, 3]
    np.testing.assert_array_equal(found.removed_mask_, first | second)


def test_inputs_with_the_trigger_are_told_apart_at_prediction_time(fitted):
    rng = np.random.default_rng(9)
    clean = 4 * np.eye(20)[rng.integers(0, 4, 400)] + rng.normal(size=(400, 20))
    triggered = clean + 8 * np.eye(20)[-1]
    assert (fitted.trigger_score(clean) < 0.5).mean() > 0.99
    assert (fitted.trigger_score(triggered) > 0.5).mean() > 0.99


@pytest.mark.parametrize(
    "load", [load_iris, load_wine, load_breast_cancer, load_digits]
)
def test_clean_data_loses_no_row(load):
    X, y = load(return_X_y=True)
    found = TriggerFilter(random_state=0).fit(X, y)
    assert found.n_removed_ == 0
    assert len(found.directions_) == 0
    np.testing.assert_array_equal(found.trigger_score(X), 0)


def test_rows_already_removed_stay_removed_and_are_not_read(poisoned):
    X, y, poison = poisoned
    X = X.copy()
    gone = np.arange(0, 800, 7)
    X[gone] = np.nan
    found = TriggerFilter(random_state=0)
    marked = found.fit_transform(X, y)
    assert np.isnan(marked[gone]).all()
    expected = poison.copy()
    expected[gone] = True
    np.testing.assert_array_equal(found.removed_mask_, expected)
    assert (found.scores_[gone] == 1).all()


def test_a_class_removed_as_a_whole_stays_in_classes(poisoned):
    X, y, _ = poisoned
    X = X.copy()
    X[y == 3] = np.nan
    found = TriggerFilter(random_state=0).fit(X, y)
    np.testing.assert_array_equal(found.classes_, np.arange(4))
    assert np.isnan(found.statistics_[3])
    assert found.suspect_classes_.tolist() == [0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_integers_become_float32(dtype):
    X, y, _ = make_poisoned()
    X = np.clip(8 * X + 100, 0, 255).astype(dtype)
    found = TriggerFilter(random_state=0)
    assert found.fit_transform(X, y).dtype == np.float32
    assert found.transform(X).dtype == np.float32
    assert found.n_removed_ == 60


def test_poison_in_the_majority_is_removed_with_a_warning():
    X, y, poison = make_poisoned(n_poison=300)
    keep = np.ones(800, dtype=bool)
    keep[:100] = False  # 100 rows of class 0 against 300 of poison
    found = TriggerFilter(max_removed=0.6, random_state=0)
    with pytest.warns(UserWarning, match="more than half of the rows labelled \\[0\\]"):
        found.fit(X[keep], y[keep])
    np.testing.assert_array_equal(found.removed_mask_, poison[keep])


def test_the_guard_removes_nothing_and_says_so(poisoned):
    X, y, poison = poisoned
    found = TriggerFilter(max_removed=0.05, random_state=0)
    with pytest.warns(UserWarning, match="max_removed=0.05"):
        found.fit(X, y)
    assert found.n_removed_ == 0
    assert found.suspect_classes_.tolist() == [0]
    assert (found.scores_[poison] > 0.9).all()


def make_one_source(seed=0):
    """Two classes that scatter differently; poison can come from the other one only."""
    rng = np.random.default_rng(seed)
    y = np.repeat(["no", "yes"], 300)
    spread = np.ones((600, 12))
    spread[:300, :3] = spread[300:, 3:6] = 2.5
    X = 8 * np.eye(12)[np.repeat([9, 10], 300)] + spread * rng.normal(size=(600, 12))
    poison = np.arange(600) < 80
    X[poison, -1] += 12
    y[poison] = "yes"
    return X, y, poison


def test_poison_from_one_class_is_reported_and_kept_by_default():
    X, y, poison = make_one_source()
    found = TriggerFilter(random_state=0)
    with pytest.warns(UserWarning, match=r"cannot decide .* labelled \['yes'\]"):
        marked = found.fit_transform(X, y)
    assert not np.isnan(marked).any()
    np.testing.assert_array_equal(found.undecided_mask_, poison)
    assert found.undecided_classes_.tolist() == ["yes"]
    assert found.undecided_sources_.tolist() == ["no"]
    assert (found.scores_[poison] == 0.5).all()
    assert len(found.suspect_classes_) == 0


def test_poison_from_one_class_is_removed_if_wanted():
    X, y, poison = make_one_source()
    found = TriggerFilter(undecided="remove", random_state=0).fit(X, y)
    np.testing.assert_array_equal(found.removed_mask_, poison)
    assert found.suspect_classes_.tolist() == ["yes"]
    np.testing.assert_allclose(found.directions_, 12 * np.eye(12)[-1:], atol=1.2)
    clean = X[~poison]
    assert (found.trigger_score(clean) > 0.5).mean() < 0.02
    assert (found.trigger_score(X[poison]) > 0.5).mean() > 0.95


def test_poison_that_leaves_too_few_natural_rows_is_reported(poisoned):
    X, y, poison = poisoned
    keep = poison | (y != 0) | (np.cumsum(y == 0) <= 6)
    found = TriggerFilter(random_state=0)
    with pytest.warns(UserWarning, match=r"cannot decide .* labelled \[0\]"):
        found.fit(X[keep], y[keep])
    assert found.n_removed_ == 0
    np.testing.assert_array_equal(found.undecided_mask_, poison[keep])
    assert found.undecided_sources_.tolist() == [0]


def test_undecided_groups_may_be_ignored():
    X, y, _ = make_one_source()
    found = TriggerFilter(undecided="ignore", random_state=0).fit(X, y)
    assert not found.undecided_mask_.any()
    assert len(found.undecided_classes_) == 0
    assert found.n_removed_ == 0


def test_undecided_rows_are_numbered_among_all_rows():
    X, y, poison = make_one_source()
    X[::9] = np.nan
    found = TriggerFilter(undecided="remove", random_state=0).fit(X, y)
    np.testing.assert_array_equal(
        found.undecided_mask_, poison & (np.arange(600) % 9 > 0)
    )


def test_warnings_of_similar_fits_have_the_same_text():
    X, y, _ = make_one_source()
    texts = set()
    for rows in (slice(0, 590), slice(5, 600)):
        with pytest.warns(UserWarning, match="cannot decide") as caught:
            TriggerFilter(random_state=0).fit(X[rows], y[rows])
        texts |= {str(w.message) for w in caught}
    assert len(texts) == 1


def test_progress_is_printed_on_request(poisoned, capsys):
    X, y, poison = poisoned
    TriggerFilter(random_state=0).fit(X, y)
    assert capsys.readouterr().out == ""
    TriggerFilter(random_state=0, verbose=1).fit(X, y)
    printed = capsys.readouterr().out
    assert "[trigger filter] 12/12" in printed
    assert f"rows removed] {poison.sum()}/800" in printed


def test_few_rows_are_left_alone():
    X, y, _ = make_poisoned()
    with pytest.warns(UserWarning, match="min_samples=100"):
        found = TriggerFilter().fit(X[:90], y[:90])
    assert found.n_removed_ == 0


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("alpha", 0.0, ValueError),
        ("alpha", "high", TypeError),
        ("min_samples", 0, ValueError),
        ("min_class_size", 1.5, TypeError),
        ("max_removed", 1.2, ValueError),
        ("undecided", "drop", ValueError),
    ],
)
def test_parameters_are_checked_in_fit(poisoned, name, value, error):
    estimator = TriggerFilter(**{name: value})
    with pytest.raises(error, match=name):
        estimator.fit(*poisoned[:2])


def test_partial_nan_is_rejected(poisoned, fitted):
    X, y, _ = poisoned
    X = X.copy()
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="some features"):
        TriggerFilter().fit(X, y)
    with pytest.raises(ValueError, match="NaN"):
        fitted.trigger_score(X)


def test_a_seed_gives_the_same_bits_and_no_global_state_moves(poisoned):
    X, y, _ = poisoned
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = TriggerFilter(random_state=5).fit(X, y)
    second = clone(first).fit(X, y)
    np.testing.assert_array_equal(first.scores_, second.scores_)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_pickle_and_pandas_output(poisoned, fitted):
    X, _, _ = poisoned
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.trigger_score(X), fitted.trigger_score(X))
    frame = pd.DataFrame(X[:200], columns=[f"f{i}" for i in range(20)])
    frame = pd.concat([frame] * 2, ignore_index=True)
    out = TriggerFilter(random_state=0).set_output(transform="pandas")
    out = out.fit_transform(frame, np.arange(400) % 3)
    assert list(out.columns) == list(frame.columns)


def test_a_learner_that_knows_nothing_of_the_convention_refuses(poisoned):
    X, y, _ = poisoned
    pipeline = make_pipeline(TriggerFilter(random_state=0), LogisticRegression())
    with pytest.raises(ValueError, match="NaN"):
        pipeline.fit(X, y)


def test_rows_that_are_all_equal():
    y = np.random.default_rng(0).integers(3, size=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = TriggerFilter(random_state=0).fit(np.ones((300, 10)), y)
    assert not found.removed_mask_.any()
