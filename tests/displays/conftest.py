"""Fixtures of the display tests: a fitted classifier, and figures closed again."""

from itertools import combinations, pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.utils import Bunch


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def fitted():
    """VIBEClassifier on three clusters, 30 of 300 rows labelled 'a' wrongly."""
    from skvibe import VIBEClassifier

    rng = np.random.default_rng(0)
    true = np.repeat(["a", "b", "c"], 100)
    centres = 12 * np.eye(3, 8)[np.repeat([0, 1, 2], 100)]
    X, y = centres + rng.normal(size=(300, 8)), true.copy()
    y[100:300:7] = "a"
    vibe = VIBEClassifier(max_iter=100, random_state=0).fit(X, y)
    return Bunch(X=X, y=y, true=true, vibe=vibe)


def cut_or_overlapping(display):
    """Texts that leave the figure, and neighbouring tick labels that overlap."""
    figure = display.figure_
    figure.canvas.draw()
    frame = figure.bbox.padded(1)
    problems, hidden = [], set()
    for axis in figure.findobj(matplotlib.axis.Axis):
        boxes = []
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            shown = axis.axes.axison and low <= tick.get_loc() <= high
            for label in (tick.label1, tick.label2):
                if not (shown and label.get_visible()):
                    hidden.add(label)
                elif label.get_text():
                    boxes.append(label.get_window_extent())
        if any(first.overlaps(second) for first, second in pairwise(boxes)):
            problems.append(f"tick labels overlap: {axis.get_label_text()}")
        if not (axis.axes.axison and axis.get_visible()):
            hidden.add(axis.label)
    for axes in figure.axes:
        shown = [text for text in axes.texts if text.get_text()]
        # The text alone: of an annotation the line to its place is a part.
        boxes = [matplotlib.text.Text.get_window_extent(text) for text in shown]
        for (one, first), (other, second) in combinations(
            zip(shown, boxes, strict=True), 2
        ):
            # A point of white round each is no text.
            if first.padded(-1).overlaps(second.padded(-1)):
                problems.append(f"overlap: {one.get_text()!r}, {other.get_text()!r}")
    for text in figure.findobj(matplotlib.text.Text):
        if text in hidden or not (text.get_visible() and text.get_text().strip()):
            continue
        box = text.get_window_extent()
        if not (frame.x0 <= box.x0 and box.x1 <= frame.x1):
            problems.append(f"cut at a side: {text.get_text()!r}")
        if not (frame.y0 <= box.y0 and box.y1 <= frame.y1):
            problems.append(f"cut above or below: {text.get_text()!r}")
    return problems


@pytest.fixture
def assert_legible():
    def check(display):
        assert cut_or_overlapping(display) == []

    return check
