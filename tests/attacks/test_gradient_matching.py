import numpy as np
import pytest
import torch

from skvibe.attacks import WitchesBrew
from skvibe.attacks.gradient_matching import loss_gradient, match_gradient
from skvibe.attacks.surrogate import fit_linear_surrogate
from skvibe.datasets import load_poisoned_digits


def make_digits():
    digits = load_poisoned_digits(rate=0)
    return digits.X.reshape(-1, 8, 8).astype(np.float32), digits.y


def test_linear_gradient_is_the_closed_form():
    """For softmax regression it is the mean of (p - y) x'."""
    X, y = make_digits()
    images = torch.from_numpy(X[:, None])
    model = fit_linear_surrogate(images, y, 10, max_iter=10)
    labels = torch.from_numpy(y)
    gradient = loss_gradient(model, images, labels)
    with torch.no_grad():
        residual = torch.softmax(model(images), dim=1)
        residual[torch.arange(len(y)), labels] -= 1
        weight = residual.T @ images.flatten(1) / len(y)
    expected = torch.cat([weight.flatten(), residual.mean(dim=0)])
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_alignment_rises_and_is_what_it_says():
    X, y = make_digits()
    victim = X[y == 8][0]
    low, high = (
        WitchesBrew(
            target=3, rate=0.05, victims=victim, n_iter=n, n_restarts=1, random_state=0
        )
        for n in (0, 50)
    )
    low.poison(X, y)
    data = high.poison(X, y)
    assert high.alignment_ > low.alignment_ + 0.02
    assert np.abs(data.X - X).max() <= 16 / 255 + 1e-6
    labels = torch.from_numpy(data.y[data.mask])
    gradient = loss_gradient(
        high.surrogate_, torch.from_numpy(data.X[data.mask][:, None]), labels
    )
    wanted = loss_gradient(
        high.surrogate_, torch.from_numpy(victim[None, None]), torch.tensor([3])
    )
    cosine = torch.nn.functional.cosine_similarity(gradient, wanted, dim=0)
    assert float(cosine) == pytest.approx(high.alignment_, abs=1e-4)


def test_more_starts_are_never_worse():
    X, y = make_digits()
    images = torch.from_numpy(X[:200, None])
    model = fit_linear_surrogate(images, y[:200], 10, max_iter=10)
    wanted = loss_gradient(model, images[:1], torch.tensor([3]))
    one, three = (
        match_gradient(
            model,
            images[y[:200] == 3],
            3,
            wanted,
            np.random.RandomState(0),
            eps=0.1,
            n_iter=5,
            n_restarts=n,
            lr=0.1,
        )[1]
        for n in (1, 3)
    )
    assert three >= one


def test_trigger_is_a_copy():
    X, y = make_digits()
    attack = WitchesBrew(victims=X[:1], n_iter=1, n_restarts=1)
    attack.poison(X, y)
    triggered = attack.trigger(X)
    np.testing.assert_array_equal(triggered, X)
    assert not np.shares_memory(triggered, X)


@pytest.mark.parametrize("name", ["eps", "n_iter", "lr", "n_restarts"])
def test_bad_parameters_are_named(name):
    X, y = make_digits()
    with pytest.raises(ValueError, match=name):
        WitchesBrew(**{"victims": X[:1], name: -1}).poison(X, y)


def test_victims_must_be_given_and_of_the_same_kind():
    X, y = make_digits()
    for victims in (None, X[:1, :4], X[:1].astype(float)):
        with pytest.raises(ValueError, match="victims"):
            WitchesBrew(victims=victims).poison(X, y)
