import numpy as np
import pytest

from skvibe.displays import PoisoningRuleDisplay


def test_from_estimator_is_the_learned_rule(fitted, assert_legible):
    display = PoisoningRuleDisplay.from_estimator(fitted.vibe)
    assert display.poisoning_rule is fitted.vibe.poisoning_rule_
    assert_legible(display)


def test_from_predictions_is_the_share_of_each_clean_class(fitted):
    display = PoisoningRuleDisplay.from_predictions(fitted.y, fitted.true)
    rule = display.poisoning_rule
    assert np.allclose(rule.sum(axis=1), 1)
    assert rule[1, 0] == np.mean(fitted.y[fitted.true == "b"] == "a")


def test_the_largest_entry_off_the_diagonal_is_framed():
    rule = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    display = PoisoningRuleDisplay(rule).plot()
    (frame,) = display.ax_.patches
    assert frame.get_xy() == (-0.5, 1.5)


@pytest.mark.parametrize("n_classes", [2, 4, 12, 13, 100])
def test_names_of_any_number_of_classes_fit(n_classes, assert_legible):
    names = [f"a long name of a class {i:03}" for i in range(n_classes)]
    assert_legible(PoisoningRuleDisplay(np.eye(n_classes), classes=names).plot())


def test_numbers_that_would_read_as_zero_are_left_out():
    rule = np.array([[0.998, 0.002], [0.1, 0.9]])
    display = PoisoningRuleDisplay(rule).plot()
    assert [text.get_text() for text in display.ax_.texts] == ["1.00", "0.10", "0.90"]


def test_no_entry_is_framed_where_all_are_zero():
    assert len(PoisoningRuleDisplay(np.eye(3)).plot().ax_.patches) == 0
