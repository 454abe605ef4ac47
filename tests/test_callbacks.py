"""scikit-learn's callbacks reach the estimators, where scikit-learn has them."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, TriggerFilter, VIBEClassifier

pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has none")


class Recorder:
    """A callback that writes down what it is told."""

    max_propagation_depth = None

    def __init__(self):
        self.told = []

    def setup(self, estimator, context):
        self.told.append(("setup", context.estimator_name))

    def on_fit_task_begin(self, estimator, context):
        self.told.append(("begin", context.estimator_name, context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.told.append(("end", context.estimator_name, context.task_name))

    def teardown(self, estimator, context):
        self.told.append(("teardown", context.estimator_name))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    return rng.normal(size=(150, 4)) + 4 * np.eye(4)[y], y


ESTIMATORS = [
    OffManifoldFilter(random_state=0),
    TriggerFilter(random_state=0),
    VIBEClassifier(random_state=0),
]
each_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__
)


def test_a_pipeline_passes_its_callbacks_on(data):
    recorder = Recorder()
    pipe = Pipeline([(type(step).__name__, clone(step)) for step in ESTIMATORS])
    pipe.set_callbacks(recorder).fit(*data)
    for step in ESTIMATORS:
        name = type(step).__name__
        begun = recorder.told.index(("begin", name, "fit"))
        assert recorder.told.index(("end", name, "fit")) > begun
    assert recorder.told[-1] == ("teardown", "Pipeline")


def test_every_e_step_is_told(data):
    recorder = Recorder()
    # One setting: otherwise the E-steps of those that were not kept are told too.
    vibe = VIBEClassifier(
        prior="uniform", whitening=0.1, kappa=15, nu=10, random_state=0
    )
    vibe.set_callbacks(recorder).fit(*data)
    ends = [entry for entry in recorder.told if entry[0] == "end"]
    assert ends[:-1] == [("end", "VIBEClassifier", "E-step")] * len(vibe.lower_bounds_)


@each_estimator
def test_a_callback_does_not_change_the_fit(estimator, data):
    plain = clone(estimator).fit(*data)
    told = clone(estimator).set_callbacks(Recorder()).fit(*data)
    np.testing.assert_array_equal(plain.transform(data[0]), told.transform(data[0]))
    assert sorted(vars(plain)) == sorted(set(vars(told)) - {"_skl_callbacks"})


@each_estimator
def test_callbacks_end_when_a_fit_fails(estimator, data):
    recorder = Recorder()
    with pytest.raises(ValueError, match="NaN"):
        clone(estimator).set_callbacks(recorder).fit([[0.0, np.nan]] * 3, [0, 1, 2])
    assert recorder.told[-1] == ("teardown", type(estimator).__name__)


@each_estimator
def test_nothing_of_a_fit_is_left_in_the_estimator(estimator, data):
    fitted = clone(estimator).fit(*data)
    left = ("callback", "task")
    assert not [name for name in vars(fitted) if any(word in name for word in left)]
    clone(pickle.loads(pickle.dumps(fitted)))
