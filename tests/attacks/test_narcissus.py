import numpy as np
import pytest
import torch

from skvibe.attacks import Narcissus
from skvibe.attacks.narcissus import imitate_class
from skvibe.datasets import load_poisoned_digits


def make_digits():
    digits = load_poisoned_digits(rate=0)
    return digits.X.reshape(-1, 8, 8), digits.y


def test_pattern_is_bounded_and_stronger_at_test_time():
    X, y = make_digits()
    X = 0.3 + 0.4 * X  # nothing is clipped
    attack = Narcissus(target=3, rate=0.2, n_iter=100, random_state=0)
    data = attack.poison(X, y)
    change = data.X[data.mask] - X[data.mask]
    np.testing.assert_allclose(
        change, np.broadcast_to(attack.pattern_[..., 0], change.shape)
    )
    assert 0 < np.abs(attack.pattern_).max() <= 16 / 255 + 1e-7
    np.testing.assert_allclose(attack.trigger(X) - X, 3 * (change[:1] + 0 * X))


def test_surrogate_takes_triggered_rows_for_the_target():
    X, y = make_digits()
    attack = Narcissus(target=3, rate=0.2, eps=0.1, n_iter=200, random_state=0)
    attack.poison(X, y)

    def share(images):
        with torch.no_grad():
            logits = attack.surrogate_(torch.from_numpy(images[:, None]).float())
        return float((logits.argmax(dim=1) == 3).float().mean())

    assert share(attack.trigger(X[y != 3])) > 10 * share(X[y != 3]) + 0.2


def test_linear_model_has_the_solution_in_closed_form():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    images = torch.full((5, 1, 1, 3), 0.5)
    pattern = imitate_class(
        model,
        images,
        0,
        np.random.RandomState(0),
        eps=0.2,
        n_iter=200,
        lr=0.05,
        batch_size=2,
    )
    np.testing.assert_allclose(pattern.ravel(), [0.2, -0.2, 0.2], atol=1e-6)


@pytest.mark.parametrize("name", ["eps", "n_iter", "lr", "batch_size", "test_scale"])
def test_bad_parameters_are_named(name):
    X, y = make_digits()
    with pytest.raises(ValueError, match=name):
        Narcissus(**{name: -1}).poison(X, y)
