import matplotlib.pyplot as plt
import numpy as np
import pytest

from skvibe.displays import EMProgressDisplay


def test_series_of_the_classifier(fitted, assert_legible):
    display = EMProgressDisplay.from_estimator(fitted.vibe)
    upper, lower = display.ax_
    line, first = upper.get_lines()
    assert np.allclose(line.get_ydata(), fitted.vibe.lower_bounds_[1:])
    assert np.allclose(first.get_ydata(), fitted.vibe.lower_bounds_[:1])
    changes = lower.get_lines()[0].get_ydata()
    assert np.allclose(changes, 100 * fitted.vibe.label_changes_[1:])
    assert_legible(display)


@pytest.mark.parametrize("n_rounds", [1, 2, 60])
def test_any_number_of_rounds(n_rounds, assert_legible):
    bounds = -1 / np.arange(1, n_rounds + 1)
    display = EMProgressDisplay.from_predictions(bounds, -bounds, converged=True)
    assert_legible(display)


def test_one_axes_is_split_and_two_are_taken():
    _, ax = plt.subplots()
    display = EMProgressDisplay.from_predictions([-1, -0.5], [1, 0], ax=ax)
    assert len(display.ax_) == 2
    assert display.figure_ is ax.figure
    _, axes = plt.subplots(1, 2)
    display = EMProgressDisplay.from_predictions([-1, -0.5], [1, 0], ax=axes)
    assert display.ax_[0] is axes[0]
    with pytest.raises(ValueError, match="one Axes or two"):
        EMProgressDisplay.from_predictions([-1], [1], ax=[axes[0]] * 3)
