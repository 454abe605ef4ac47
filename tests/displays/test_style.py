import builtins

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skvibe.displays import PoisonScoreDisplay
from skvibe.displays._style import (
    CLASS_COLORS,
    VERMILLION,
    check_lengths,
    choose_rows,
    class_style,
    plain,
)


def test_no_class_has_the_colour_of_suspects():
    assert VERMILLION not in CLASS_COLORS


def test_the_first_seventy_classes_differ_in_colour_or_marker():
    styles = {tuple(class_style(code).values()) for code in range(70)}
    assert len(styles) == 70


@pytest.mark.parametrize("name", ["$", r"a $\frac{", "x\ny", "_hidden", "<b>", "é 中"])
def test_any_class_name_is_drawn(name):
    display = PoisonScoreDisplay.from_predictions([name, name], [0.1, 0.9])
    label = display.ax_.get_yticklabels()[0].get_text()
    assert "\n" not in label
    if name.isascii() or name == "$":
        display.figure_.canvas.draw()


def test_long_names_keep_both_ends():
    short = plain("category number 17 of the shop")
    assert len(short) <= 22
    assert short.startswith("category")
    assert short.endswith("shop")


def test_all_rows_are_drawn_if_they_are_few():
    assert choose_rows(np.zeros(5, bool), 5, 0).tolist() == [0, 1, 2, 3, 4]


def test_a_few_suspects_among_many_rows_are_all_drawn():
    important = np.zeros(10_000, bool)
    important[::1000] = True
    rows = choose_rows(important, 200, 0)
    assert len(rows) == 200
    assert important[rows].sum() == 10


def test_the_share_of_many_suspects_is_kept():
    important = np.arange(10_000) < 6000
    assert important[choose_rows(important, 500, 0)].sum() == 300


def test_the_choice_repeats_and_leaves_the_global_seed_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    important = np.arange(1000) < 10
    first = choose_rows(important, 50, 3)
    assert np.array_equal(first, choose_rows(important, 50, 3))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_lengths_are_named():
    with pytest.raises(ValueError, match="y has 2, poison_scores has 3"):
        check_lengths(y=[1, 2], poison_scores=[1, 2, 3])


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"skvibe\[plot\]"):
        PoisonScoreDisplay.from_predictions([0, 1], [0.1, 0.9])


def test_drawing_on_given_axes_makes_no_figure():
    _, ax = plt.subplots()
    display = PoisonScoreDisplay.from_predictions([0, 1], [0.1, 0.9], ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert len(plt.get_fignums()) == 1
