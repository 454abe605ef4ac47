import numpy as np
import pytest

from skvibe.displays import AccuracyAttackDisplay

Y = np.array([0, 0, 1, 1])


class _Constant:
    def __init__(self, label):
        self.label = label

    def predict(self, X):
        return np.full(len(X), self.label)


def test_accuracy_and_attack_success(assert_legible):
    models = {"says 0": _Constant(0), "says 1": _Constant(1)}
    X = np.zeros((4, 2))
    display = AccuracyAttackDisplay.from_estimator(
        models, X, Y, X, target=0, control=_Constant(1)
    )
    assert display.accuracies.tolist() == [0.5, 0.5]
    assert display.attack_success_rates.tolist() == [1.0, 0.0]
    assert display.control == 0.0
    assert_legible(display)


def test_one_estimator_is_named_by_its_class():
    X = np.zeros((4, 2))
    display = AccuracyAttackDisplay.from_estimator(_Constant(0), X, Y, X, target=0)
    assert display.names == ["_Constant"]
    (shown,) = display.ax_.get_legend().get_texts()
    assert shown.get_text() == " _Constant (0.50, 1.00)"


def test_triggered_rows_of_their_own():
    display = AccuracyAttackDisplay.from_predictions(
        Y, {"m": Y}, {"m": [0, 1]}, target=0, y_triggered=[1, 1]
    )
    assert display.accuracies[0] == 1
    assert display.attack_success_rates[0] == 0.5


def test_many_models_with_long_names(assert_legible):
    names = [f"the model with a long name, number {i}" for i in range(12)]
    values = np.linspace(0, 1, 12)
    assert_legible(AccuracyAttackDisplay(values, values, names, control=0.02).plot())


def test_different_names_are_refused():
    with pytest.raises(ValueError, match="same models"):
        AccuracyAttackDisplay.from_predictions(Y, {"a": Y}, {"b": Y}, target=0)
