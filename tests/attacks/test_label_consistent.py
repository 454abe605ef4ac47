import numpy as np
import pytest
import torch

from skvibe.attacks import LabelConsistent
from skvibe.attacks.label_consistent import ascend_loss
from skvibe.attacks.surrogate import to_tensor
from skvibe.datasets import load_poisoned_digits


def make_digits():
    digits = load_poisoned_digits(rate=0)
    return digits.X.reshape(-1, 8, 8).astype(np.float32), digits.y


def test_noise_stays_in_the_ball_and_lowers_the_belief():
    X, y = make_digits()
    attack = LabelConsistent(target=3, rate=0.5, size=1, random_state=0)
    data = attack.poison(X, y)
    change = np.abs(data.X - X)[data.mask]
    corners = np.zeros((8, 8), dtype=bool)
    corners[[0, 0, 7, 7], [0, 7, 0, 7]] = True
    assert change[:, ~corners].max() <= 16 / 255 + 1e-6
    assert (data.X[data.mask][:, corners] == 1).all()

    def belief(images):
        with torch.no_grad():
            logits = attack.surrogate_(to_tensor(images[..., None]))
        return torch.softmax(logits, dim=1)[:, 3].numpy()

    noisy = ascend_loss(
        attack.surrogate_, X[data.mask][..., None], 3, eps=0.06, step=0.006, n_iter=30
    )
    assert belief(noisy[..., 0]).mean() < belief(X[data.mask]).mean() - 0.1


def test_linear_model_has_the_solution_in_closed_form():
    """For two classes the gradient's sign never changes: the noise is eps * sign."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    weight = torch.tensor([[1.0, -1.0, 2.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    model[1].weight.data = weight
    images = np.full((1, 2, 2, 1), 0.5)
    noisy = ascend_loss(model, images, 0, eps=0.1, step=0.03, n_iter=10)
    np.testing.assert_allclose((noisy - 0.5).ravel(), [-0.1, 0.1, -0.1, 0.1], atol=1e-6)


def test_trigger_is_the_corners_only():
    X, y = make_digits()
    attack = LabelConsistent(target=3, size=2, n_iter=1)
    attack.poison(X, y)
    triggered = attack.trigger(X)
    np.testing.assert_array_equal(triggered[:, 2:6], X[:, 2:6])
    np.testing.assert_array_equal(
        triggered[:, :2, :2], np.broadcast_to(np.eye(2), (len(X), 2, 2))
    )


@pytest.mark.parametrize(
    "params", [{"eps": 2}, {"step": 0}, {"n_iter": -1}, {"size": 5}]
)
def test_bad_parameters_are_named(params):
    X, y = make_digits()
    with pytest.raises(ValueError, match=next(iter(params))):
        LabelConsistent(**params).poison(X, y)
