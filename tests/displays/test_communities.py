import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter
from skvibe.displays import CommunityDisplay


def test_from_a_fitted_filter_alone_and_in_a_pipeline(assert_legible):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 100)
    X = 8 * np.eye(2, 6)[y] + rng.normal(size=(200, 6))
    X[:20] = 40 * np.eye(6)[5] + 0.1 * rng.normal(size=(20, 6))
    fitted = OffManifoldFilter(random_state=0)
    fitted.fit_transform(X, y)
    display = CommunityDisplay.from_estimator(fitted, X)
    assert np.array_equal(display.removed, fitted.removed_mask_)
    assert f"{fitted.n_removed_} rows removed" in display.ax_.get_title()
    assert_legible(display)
    pipe = Pipeline([("filter", fitted), ("last", "passthrough")])
    other = CommunityDisplay.from_estimator(pipe, X)
    assert np.array_equal(other.communities, display.communities)


def test_legend_names_sizes_distances_and_the_removed_one():
    X = np.array([[0.0, 0.1], [0.1, 0.0], [9.0, 9.0]])
    display = CommunityDisplay.from_predictions(
        X, [0, 0, 1], removed=[False, False, True], distances=[0.1, 0.5]
    )
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["0: 2 (0.10)", "1: 1 (0.50) removed"]


def test_a_distance_of_zero_has_no_sign():
    X = np.array([[0.0, 0.1], [0.1, 0.0]])
    display = CommunityDisplay.from_predictions(X, [0, 1], distances=[-0.001, 0.2])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["0: 1 (0.00)", "1: 1 (0.20)"]


def test_rows_without_a_community_are_drawn_grey():
    display = CommunityDisplay.from_predictions(np.eye(2), [0, -1])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["0: 1", "none"]


def test_many_communities_of_many_rows(assert_legible):
    rng = np.random.default_rng(0)
    communities = rng.integers(0, 100, 20_000)
    X = rng.normal(size=(100, 2))[communities] + 0.1 * rng.normal(size=(20_000, 2))
    display = CommunityDisplay.from_predictions(
        X, communities, removed=communities == 7
    )
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert any("removed" in text for text in texts)
    assert len(texts) <= 15
    assert texts[-1] == "and 86 more"
    assert_legible(display)


def test_no_filter_is_refused(fitted):
    with pytest.raises(ValueError, match="OffManifoldFilter"):
        CommunityDisplay.from_estimator(fitted.vibe, fitted.X)
