"""scikit-learn's callbacks reach the estimators, where scikit-learn has them."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter

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


def test_a_pipeline_passes_its_callbacks_on(data):
    recorder = Recorder()
    pipe = Pipeline([("filter", OffManifoldFilter(random_state=0)), ("end", None)])
    pipe.set_callbacks(recorder).fit(*data)
    assert ("begin", "OffManifoldFilter", "fit") in recorder.told
    assert ("end", "OffManifoldFilter", "fit") in recorder.told
    assert recorder.told[-1] == ("teardown", "Pipeline")


def test_a_callback_does_not_change_the_fit(data):
    plain = OffManifoldFilter(random_state=0).fit(*data)
    told = OffManifoldFilter(random_state=0).set_callbacks(Recorder()).fit(*data)
    np.testing.assert_array_equal(plain.communities_, told.communities_)


def test_callbacks_end_when_a_fit_fails(data):
    recorder = Recorder()
    bad = OffManifoldFilter(threshold=-1).set_callbacks(recorder)
    with pytest.raises(ValueError, match="threshold"):
        bad.fit(*data)
    assert recorder.told[-1] == ("teardown", "OffManifoldFilter")


def test_nothing_of_a_fit_is_left_in_the_estimator(data):
    fitted = OffManifoldFilter(random_state=0).fit(*data)
    assert not [name for name in vars(fitted) if "callback" in name]
    pickle.loads(pickle.dumps(fitted))
    clone(fitted)
