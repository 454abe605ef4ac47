import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skvibe.displays import PoisonScoreDisplay


def test_from_estimator_scores_the_rows(fitted, assert_legible):
    display = PoisonScoreDisplay.from_estimator(fitted.vibe, fitted.X, fitted.y)
    assert np.allclose(display.poison_scores, fitted.vibe.poison_scores_)
    wrong = fitted.y != fitted.true
    assert display.n_suspects_.tolist() == [wrong.sum(), 0, 0]
    assert_legible(display)


def test_a_pipeline_transforms_first(fitted):
    pipe = make_pipeline(FunctionTransformer(lambda X: X / 2), fitted.vibe)
    display = PoisonScoreDisplay.from_estimator(pipe, 2 * fitted.X, fitted.y)
    assert np.allclose(display.poison_scores, fitted.vibe.poison_scores_)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_threshold_counts_and_is_an_edge(threshold):
    scores = np.linspace(0, 1, 101)
    display = PoisonScoreDisplay.from_predictions(
        np.zeros(101), scores, threshold=threshold
    )
    assert display.n_suspects_[0] == (scores >= threshold).sum()


def test_of_many_classes_those_with_the_most_suspects_are_drawn(assert_legible):
    y = np.repeat(np.arange(30), 10)
    scores = np.where(y >= 25, 0.9, 0.1)
    display = PoisonScoreDisplay.from_predictions(y, scores, max_classes=5)
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert names == ["25", "26", "27", "28", "29"]
    assert "5 of 30 classes" in display.ax_.get_title()
    assert_legible(display)


def test_hundred_thousand_rows_with_long_names(assert_legible):
    y = np.array([f"a rather long class name {i % 20}" for i in range(100_000)])
    scores = np.random.default_rng(0).random(100_000)
    assert_legible(PoisonScoreDisplay.from_predictions(y, scores))


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_scores_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        PoisonScoreDisplay.from_predictions([0, 1], [0.5, bad])


def test_an_unfit_estimator_is_refused(fitted):
    with pytest.raises(ValueError, match="VIBEClassifier"):
        PoisonScoreDisplay.from_estimator(FunctionTransformer(), fitted.X, fitted.y)
