import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skvibe.displays import (
    AccuracyAttackDisplay,
    CommunityDisplay,
    LatentSpaceDisplay,
    PoisoningRuleDisplay,
)
from skvibe.displays._points import add_legend, point_size, sign, spread

FRAME = np.array([0.0, 0.0, 400.0, 300.0])


def overlaps(anchors, sizes, offsets):
    """Pairs of boxes that share some area."""
    low, high = anchors + offsets - sizes / 2, anchors + offsets + sizes / 2
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    both = (shared > 1e-6).all(axis=2)
    return np.argwhere(np.triu(both, 1))


@settings(deadline=None)
@given(
    places=st.lists(
        st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=12
    ),
    start=st.sampled_from([0.0, 9.0]),
)
def test_names_do_not_overlap_and_stay_in_the_frame(places, start):
    anchors, sizes = np.array(places), np.full((len(places), 2), (20.0, 11.0))
    offsets = spread(anchors, sizes, FRAME, start=start)
    assert len(overlaps(anchors, sizes, offsets)) == 0
    centres = anchors + offsets
    assert (centres - sizes / 2 >= FRAME[:2] - 1e-9).all()
    assert (centres + sizes / 2 <= FRAME[2:] + 1e-9).all()


def test_a_name_with_room_stands_at_its_place():
    anchors = np.array([[100.0, 100.0], [300.0, 200.0]])
    offsets = spread(anchors, np.full((2, 2), 10.0), FRAME)
    assert np.array_equal(offsets, np.zeros((2, 2)))
    above = spread(anchors, np.full((2, 2), 10.0), FRAME, start=9.0)
    assert np.allclose(above, [[0, 9], [0, 9]])


def test_names_of_one_place_are_joined_to_it_by_lines():
    points = np.zeros((12, 2))
    display = CommunityDisplay.from_predictions(points, np.arange(12))
    lines = [text for text in display.ax_.texts if not text.get_text()]
    assert len(lines) >= 6


def test_points_of_many_rows_are_smaller():
    assert point_size(100) > point_size(3000) > point_size(100_000) > 0


def draw_all(ax, kind):
    """A display with ten classes on narrow axes."""
    rng = np.random.default_rng(0)
    codes = np.arange(400) % 10
    centres = rng.normal(size=(10, 2))
    points = centres[codes] + 0.3 * rng.normal(size=(400, 2))
    if kind == "latent":
        return LatentSpaceDisplay.from_predictions(
            points,
            codes,
            poison_scores=rng.random(400),
            prototypes=0.2 * centres,
            corrupted_prototypes=0.2 * centres + 0.1,
            ax=ax,
        )
    if kind == "communities":
        return CommunityDisplay.from_predictions(
            points, codes, removed=codes == 3, distances=rng.random(10), ax=ax
        )
    if kind == "rule":
        return PoisoningRuleDisplay(np.full((10, 10), 0.1)).plot(ax)
    names = ["no defence", "the filters and the classifier"]
    return AccuracyAttackDisplay([0.9, 0.95], [0.9, 0.0], names, control=0.02).plot(ax)


@pytest.mark.parametrize("kind", ["latent", "communities", "rule", "accuracy"])
def test_on_the_width_of_a_phone(kind, assert_legible):
    _, ax = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    display = draw_all(ax, kind)
    assert_legible(display)
    box = display.ax_.get_window_extent()
    # The picture itself keeps its room beside the legend.
    assert box.width > 0.5 * 360
    assert box.height > 0.3 * 340


@pytest.mark.parametrize("kind", ["latent", "communities", "rule", "accuracy"])
def test_in_a_figure_within_a_figure(kind, assert_legible):
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    upper, _ = figure.subfigures(2, 1)
    display = draw_all(upper.subplots(1, 2)[0], kind)
    assert display.figure_ is upper
    display.figure_ = figure
    assert_legible(display)


def test_legend_beside_wide_axes_and_below_narrow_ones():
    for width, beside in ((6.4, True), (3.4, False)):
        figure, ax = plt.subplots(figsize=(width, 4), layout="constrained")
        ax.plot([0, 1])
        add_legend(ax, [sign("one", marker="o"), sign("two", marker="s")], "title")
        figure.canvas.draw()
        legend, box = ax.get_legend().get_window_extent(), ax.get_window_extent()
        assert (legend.x0 >= box.x1) == beside
        assert (legend.y1 <= box.y0) == (not beside)
