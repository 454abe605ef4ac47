import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skvibe.metrics import attack_success_rate, backdoor_report, wanted_labels


def test_rows_of_the_target_class_do_not_count():
    assert attack_success_rate([0, 0, 1, 2], [0, 0, 0, 2], target=0) == 0.5


def test_one_target_for_each_row():
    assert attack_success_rate([0, 1, 1], [1, 2, 1], target=[1, 2, 0]) == 2 / 3


def test_all_to_all_wants_the_next_class():
    np.testing.assert_array_equal(wanted_labels([2, 0, 1], "all"), [0, 1, 2])
    wanted = wanted_labels(["b", "a"], "all", labels=["a", "b", "c"])
    assert wanted.tolist() == ["c", "b"]


def test_a_target_of_another_label_type_is_not_cut():
    assert wanted_labels(["a", "b"], "longer").tolist() == ["longer"] * 2


def test_nothing_to_attack_is_an_error():
    with pytest.raises(ValueError, match="target"):
        attack_success_rate([1, 1], [1, 0], target=1)


def test_lengths_and_unknown_labels_are_errors():
    with pytest.raises(ValueError, match="inconsistent"):
        attack_success_rate([1, 2], [1], target=0)
    with pytest.raises(ValueError, match="one label for each row"):
        attack_success_rate([1, 2], [1, 0], target=[0, 1, 2])
    with pytest.raises(ValueError, match="labels"):
        wanted_labels([1, 5], "all", labels=[0, 1])


class Answers(ClassifierMixin, BaseEstimator):
    """Predicts the first column of X, and has the attributes it is given."""

    def __init__(self, attributes=None):
        self.attributes = attributes

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        for name, value in (self.attributes or {}).items():
            setattr(self, name, value)
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0].astype(int)


Y_TEST = np.array([0, 0, 1, 1, 2, 2])
X_TEST = np.array([0, 0, 1, 1, 2, 0])[:, None]
X_TRIGGERED = np.array([0, 1, 0, 0, 0, 2])[:, None]
Y_TRUE = np.array([0, 1, 2, 1, 2, 0])
MASK = np.array([False, True, True, False, False, False])
FITTED = {
    "poison_scores_": np.array([0.1, 0.9, 0.4, 0.6, 0.2, 0.3]),
    "clean_labels_": np.array([0, 1, 1, 1, 2, 0]),
}


def fitted(attributes=None):
    return Answers(attributes).fit(X_TEST, Y_TEST)


def report(estimator=None, **params):
    estimator = fitted(FITTED) if estimator is None else estimator
    params = {"target": 0, "poison_mask": MASK, "y_true": Y_TRUE, **params}
    return backdoor_report(estimator, X_TEST, Y_TEST, X_TRIGGERED, **params)


def test_report_figures():
    found = report(control=fitted())
    assert found.acc == found.control_acc == 5 / 6
    assert found.asr == found.control_asr == 3 / 4
    assert found.n_attacked == 4
    assert (found.tpr, found.fpr, found.n_poisoned, found.n_clean) == (0.5, 0.25, 2, 4)
    assert found.auroc == 7 / 8
    assert found.recovered == 5 / 6
    assert found.recovered_poisoned == 0.5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: Pipeline([("keep", FunctionTransformer()), ("clf", clf)]),
        lambda clf: Pipeline([("p", Pipeline([("clf", clf)]))]),
        lambda clf: GridSearchCV(clf, {"attributes": [FITTED]}, cv=2),
    ],
)
def test_report_finds_attributes_inside(wrap):
    found = report(wrap(Answers(FITTED)).fit(X_TEST, Y_TEST))
    assert found.auroc == 7 / 8
    assert found.recovered == 5 / 6


def test_report_takes_scores_and_labels_given():
    found = report(fitted(), scores=MASK.astype(float), clean_labels=Y_TRUE)
    assert (found.auroc, found.tpr, found.fpr, found.recovered) == (1, 1, 0, 1)


def test_report_counts_wrong_labels_when_given():
    # Row 1 was poisoned with its label left true: only row 2 was ever wrong.
    found = report(y_given=np.array([0, 1, 0, 1, 2, 0]))
    assert found.recovered_poisoned == 0


def test_report_leaves_out_what_is_not_known():
    found = report(fitted(), poison_mask=None, y_true=None, control=0.1)
    assert found.auroc is None
    assert found.recovered is None
    assert found.control_asr == 0.1
    assert "AUROC" not in str(found)
    assert found.to_frame()["auroc"].isna().all()


def test_report_reads_well():
    assert str(report(control=fitted())).splitlines() == [
        "Accuracy on clean rows       0.833",
        "Attack success               0.750  of 4 triggered rows of other classes",
        "  control: accuracy          0.833  trained on clean data",
        "  control: attack success    0.750  trained on clean data",
        "Poison scores, AUROC         0.875  0.5 is chance, 1 perfect",
        "  poison found               0.500  of 2 poisoned rows score above 0.5",
        "  false alarms               0.250  of 4 clean rows score above 0.5",
        "True labels recovered        0.833  of all training rows",
        "  where they were wrong      0.500  of mislabelled rows",
    ]


def test_reports_go_together_in_a_frame():
    pd = pytest.importorskip("pandas")
    frame = pd.concat([report().to_frame("one"), report().to_frame("two")])
    assert frame.index.tolist() == ["one", "two"]
    assert frame.loc["two", "asr"] == 3 / 4


def test_missing_pandas_is_said(monkeypatch):
    found = report()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        found.to_frame()


def test_report_of_other_triggered_rows():
    found = backdoor_report(
        fitted(), X_TEST, Y_TEST, X_TRIGGERED[2:4], y_source=Y_TEST[2:4], target="all"
    )
    assert (found.asr, found.n_attacked) == (0, 2)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"y_source": [0, 1]}, "y_source"),
        ({"poison_mask": MASK[:3]}, "poison_mask"),
        ({"poison_mask": np.zeros(6, dtype=bool)}, "poison_mask"),
        ({"y_true": [0, 1]}, "y_true"),
        ({"y_given": [0]}, "y_given"),
        ({"control": 2.0}, "control"),
    ],
)
def test_report_names_what_does_not_fit(params, name):
    with pytest.raises(ValueError, match=name):
        report(**params)
