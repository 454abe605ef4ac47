import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from skvibe.attacks import LabelConsistent, Narcissus
from skvibe.attacks.surrogate import fit_linear_surrogate, to_array, to_tensor
from skvibe.datasets import load_poisoned_digits


def test_linear_surrogate_is_softmax_regression():
    digits = load_poisoned_digits(rate=0)
    X = digits.X.astype(np.float32)
    images = torch.from_numpy(X).reshape(-1, 1, 8, 8)
    model = fit_linear_surrogate(images, digits.y, 10, alpha=1e-3, max_iter=500)
    # scikit-learn sums the losses and weighs them by C; here they are averaged.
    reference = LogisticRegression(C=1 / (1e-3 * len(X)), max_iter=2000, tol=1e-6)
    reference.fit(X, digits.y)
    with torch.no_grad():
        proba = torch.softmax(model(images), dim=1).numpy()
    np.testing.assert_allclose(proba, reference.predict_proba(X), atol=5e-3)
    assert not model.training


def test_arrays_survive_the_round_trip():
    images = np.random.default_rng(0).uniform(size=(2, 5, 4, 3)).astype(np.float32)
    assert to_tensor(images).shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(to_array(to_tensor(images), np.float32), images)


@pytest.mark.parametrize("attack", [LabelConsistent, Narcissus])
def test_a_surrogate_of_other_classes_is_an_error(attack):
    X, y = np.full((9, 8, 8), 0.5), np.arange(9) % 3
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    with pytest.raises(ValueError, match="surrogate gives an output of shape"):
        attack(surrogate=module).poison(X, y)
