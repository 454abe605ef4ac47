"""VIBE trained end to end on images: augmentation, parameter groups, where rows lie."""

import copy

import numpy as np
import pytest
import torch

from skvibe import VIBEClassifier
from skvibe._batches import BatchIterator
from skvibe.encoders import CropFlip, SmallConvNet


@pytest.fixture(scope="module")
def data():
    """Bright halves: class 0 left, class 1 right; 61 rows leave one over."""
    rng = np.random.default_rng(0)
    y = np.arange(61) % 2
    X = rng.integers(0, 60, (61, 6, 6), dtype=np.uint8)
    X[y == 0, :, :3] += 150
    X[y == 1, :, 3:] += 150
    return X, y


def fit(X, y, **params):
    torch.manual_seed(0)
    defaults = {
        "train_encoder": True,
        "max_iter": 8,
        "e_step_period": 4,
        "batch_size": 20,
        "tol": 0.0,
        "prior": "uniform",
        "random_state": 0,
    }
    return VIBEClassifier(SmallConvNet(1, width=4), **{**defaults, **params}).fit(X, y)


def encoder_weights(vibe):
    weights = [
        weight.detach().flatten() for weight in vibe.net_.module_.encoder.parameters()
    ]
    return torch.cat(weights)


def test_augmentation_is_for_the_m_step_alone(data):
    X, y = data
    seen = []

    def watch(batch):
        seen.append(batch)
        return batch

    vibe = fit(X, y, augment=watch)
    # 8 batches of the M-step; E-steps, scores and predictions see rows as they are.
    assert len(seen) == 8
    assert all(batch.dtype == torch.float32 for batch in seen)
    vibe.predict(X)
    vibe.poison_score(X, y)
    assert len(seen) == 8
    assert torch.equal(encoder_weights(vibe), encoder_weights(fit(X, y)))


def test_augmented_training_is_reproducible_and_copies_the_augmentation(data):
    X, y = data
    augment = CropFlip(1, flip=False)
    before = copy.deepcopy(augment.state_dict())
    state = torch.get_rng_state()
    first = fit(X, y, augment=augment)
    second = fit(X, y, augment=augment)
    assert torch.equal(encoder_weights(first), encoder_weights(second))
    assert not torch.equal(encoder_weights(first), encoder_weights(fit(X, y)))
    assert torch.equal(
        augment.state_dict()["pixel_max.value"], before["pixel_max.value"]
    )
    assert state.shape == torch.get_rng_state().shape


def test_the_encoder_has_a_learning_rate_of_its_own(data):
    X, y = data
    still = fit(X, y, encoder_lr=1e-12)
    torch.manual_seed(0)
    start = torch.cat(
        [w.detach().flatten() for w in SmallConvNet(1, width=4).parameters()]
    )
    torch.testing.assert_close(encoder_weights(still), start, rtol=0, atol=1e-6)
    groups = still.net_.optimizer_.param_groups
    assert sorted(group["lr"] for group in groups) == [1e-12, still.lr]
    learned = fit(X, y, encoder_lr=0.01, prior="learned", lr=0.05)
    rates = sorted(group["lr"] for group in learned.net_.optimizer_.param_groups)
    assert rates == [0.01, 0.05, 0.1]


def test_memory_mapped_images_are_trained_on_alike(data, tmp_path):
    X, y = data
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    one, two = fit(X, y), fit(mapped, y)
    assert torch.equal(encoder_weights(one), encoder_weights(two))
    np.testing.assert_array_equal(one.clean_proba_, two.clean_proba_)
    np.testing.assert_array_equal(one.predict(X), two.predict(mapped))


def test_a_single_row_left_over_joins_the_batch_before(data):
    class Strict(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(36)  # refuses one row in training

        def forward(self, X):
            return self.norm(X.flatten(1))

    X, y = data
    vibe = VIBEClassifier(
        Strict(), train_encoder=True, batch_size=20, max_iter=9, random_state=0
    ).fit(X, y)
    assert vibe.n_iter_ == 9


def test_sizes_of_batches():
    from skorch.dataset import Dataset

    rows = torch.arange(41)
    dataset = Dataset({"X": rows, "idx": rows}, rows)
    batches = BatchIterator(dataset, 20, join_single=True)
    assert [len(y) for _, y in batches] == [20, 21]
    assert len(batches) == 2
    assert [len(y) for _, y in BatchIterator(dataset, 50, join_single=True)] == [41]
    subset = torch.utils.data.Subset(dataset, list(range(40, 0, -2)))
    (batch, y), *rest = BatchIterator(subset, 19, join_single=True)
    assert not rest
    assert torch.equal(batch["X"], y)
    assert torch.equal(batch["idx"], y)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"augment": 3}, TypeError, "augment must be None"),
        (
            {"augment": CropFlip(1), "train_encoder": False},
            ValueError,
            "augment needs train_encoder=True",
        ),
        ({"encoder_lr": 0.0}, ValueError, "encoder_lr must be"),
    ],
)
def test_bad_parameters(data, params, error, message):
    with pytest.raises(error, match=message):
        fit(*data, **params)
