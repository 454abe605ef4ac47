"""scikit-learn's own checks on every public estimator: all of them, none excused."""

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import skvibe

ESTIMATORS = [
    skvibe.OffManifoldFilter(),
    skvibe.OffManifoldSampler(),
    skvibe.TriggerFilter(),
    skvibe.VIBEClassifier(),
]


# The checks' data are so few that the filters abstain, and say so.
@pytest.mark.filterwarnings(r"ignore:Only \d+ rows. at least:UserWarning")
@pytest.mark.filterwarnings("ignore:TriggerFilter removes nothing:UserWarning")
@parametrize_with_checks(ESTIMATORS)
def test_check_estimator(estimator, check):
    check(estimator)


def test_no_public_estimator_is_left_out():
    public = {
        name
        for name in skvibe.__all__
        if isinstance(cls := getattr(skvibe, name), type)
        and issubclass(cls, BaseEstimator)
    }
    assert public == {type(estimator).__name__ for estimator in ESTIMATORS}


def test_array_api_checks_are_on():
    # Without the setting scikit-learn skips them, and a skip would go unseen.
    import scipy

    assert scipy._lib._array_api.SCIPY_ARRAY_API


@pytest.fixture(autouse=True)
def fail_on_skip(monkeypatch):
    def skip(reason="", **kwargs):
        pytest.fail(f"skipped: {reason}")

    monkeypatch.setattr(pytest, "skip", skip)
