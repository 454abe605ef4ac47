import numpy as np
import pytest
import torch

from skvibe.attacks import AdaptiveTrigger
from skvibe.attacks.latent import class_centroid, pull_to_centroid
from skvibe.datasets import load_poisoned_digits


def make_digits():
    digits = load_poisoned_digits(rate=0)
    return digits.X.reshape(-1, 8, 8), digits.y


def test_features_come_nearer_and_the_pattern_is_bounded():
    X, y = make_digits()
    attack = AdaptiveTrigger(target=3, random_state=0)
    data = attack.poison(X, y)
    assert attack.distances_[-1] < 0.9 * attack.distances_[0]
    assert len(attack.distances_) == 100
    assert np.abs(data.X - X).max() <= 16 / 255 + 1e-6


def test_identity_extractor_pulls_towards_the_mean_image():
    images = torch.full((4, 1, 1, 2), 0.5)
    centroid = torch.tensor([0.9, 0.1])
    pattern, distances = pull_to_centroid(
        torch.nn.Flatten(),
        images,
        centroid,
        np.random.RandomState(0),
        eps=0.3,
        blend=0.5,
        n_iter=100,
        lr=0.1,
    )
    np.testing.assert_allclose(pattern.ravel(), [0.15, -0.15], atol=1e-6)
    assert distances[-1] < distances[0]


def test_centroid_is_the_mean_over_batches():
    images = torch.arange(2500.0).reshape(-1, 1, 1, 1)
    assert class_centroid(torch.nn.Flatten(), images).item() == pytest.approx(1249.5)


def test_extractor_may_give_feature_maps():
    X, y = make_digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        extractor = torch.nn.Conv2d(1, 2, 3)
    attack = AdaptiveTrigger(target=3, surrogate=extractor, n_iter=5, random_state=0)
    assert attack.poison(X, y).mask.sum() == 135


@pytest.mark.parametrize("name", ["eps", "blend", "n_iter", "lr"])
def test_bad_parameters_are_named(name):
    X, y = make_digits()
    with pytest.raises(ValueError, match=name):
        AdaptiveTrigger(**{name: -1}).poison(X, y)
