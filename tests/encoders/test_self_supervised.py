"""SelfSupervisedEncoder: what it learns, from what, and what it leaves alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skvibe.encoders import SelfSupervisedEncoder, SmallConvNet


@pytest.fixture(scope="module")
def images():
    return (load_digits().images * 15.9).astype(np.uint8)[:120]


def small(**params):
    defaults = {"max_epochs": 2, "batch_size": 40, "random_state": 0}
    torch.manual_seed(0)
    return SelfSupervisedEncoder(SmallConvNet(1, width=4), **{**defaults, **params})


def weights(ssl):
    return torch.cat(
        [weight.detach().flatten() for weight in ssl.encoder_.parameters()]
    )


def test_features_tell_digits_apart_that_were_never_named():
    digits = load_digits()
    keep = np.flatnonzero(digits.target < 4)[:600]
    X, y = digits.images[keep] / 16, digits.target[keep]
    ssl = SelfSupervisedEncoder(
        SmallConvNet(1, width=8), max_epochs=12, batch_size=100, lr=3e-3, random_state=0
    ).fit(X[:400])
    assert ssl.loss_curve_[-1] < ssl.loss_curve_[0] - 0.3
    probe = make_pipeline(ssl, LogisticRegression(max_iter=2000))
    probe[-1].fit(ssl.transform(X[:400]), y[:400])
    assert probe.score(X[400:], y[400:]) > 0.85


def test_labels_are_never_read(images):
    class Unreadable:
        def __getattribute__(self, name):
            raise AssertionError(name)

    with_labels = small().fit(images, Unreadable())
    assert torch.equal(weights(with_labels), weights(small().fit(images)))


@pytest.mark.parametrize("encoder", ["small", None])
def test_same_seed_same_bits_and_nothing_else_changes(images, encoder):
    torch.manual_seed(0)
    module = SmallConvNet(1, width=4)
    before = copy.deepcopy(module.state_dict())
    fits = []
    for _ in range(2):
        torch.rand(5)
        np.random.rand(5)  # noqa: NPY002
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        ssl = SelfSupervisedEncoder(
            encoder or module, max_epochs=1, batch_size=60, random_state=0
        ).fit(images)
        assert torch.equal(torch.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        fits.append(ssl)
    assert torch.equal(weights(fits[0]), weights(fits[1]))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_types_and_memory_mapped_images_give_the_same(images, tmp_path):
    expected = small().fit(images)
    path = tmp_path / "images.npy"
    np.save(path, images)
    mapped = np.load(path, mmap_mode="r")
    read_only = images.copy()
    read_only.flags.writeable = False
    for X in (images.astype(np.int64), mapped, read_only, images[:, :, :, None]):
        ssl = small().fit(X)
        assert torch.equal(weights(ssl), weights(expected))
        np.testing.assert_array_equal(ssl.transform(X), expected.transform(images))


def test_memory_mapped_images_are_read_batch_by_batch(images, tmp_path, monkeypatch):
    from skvibe.encoders import _image_batches

    path = tmp_path / "images.npy"
    np.save(path, images)
    sizes = []
    take = _image_batches.take_rows

    def watch(X, rows, device):
        assert isinstance(X, np.ndarray)  # never made a tensor as a whole
        sizes.append(len(rows))
        return take(X, rows, device)

    monkeypatch.setattr(_image_batches, "take_rows", watch)
    small().fit(np.load(path, mmap_mode="r"))
    assert set(sizes) == {40}


def test_removed_rows_are_left_out(images):
    X = images.astype(np.float32)
    marked = np.concatenate([X, X[:7]])
    marked[-7:] = np.nan
    assert torch.equal(weights(small().fit(marked)), weights(small().fit(X)))
    marked[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in some features"):
        small().fit(marked)
    with pytest.raises(ValueError, match="NaN"):
        small().fit(X).transform(marked)


# -- checkpoints ---------------------------------------------------------------------


def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(images, tmp_path):
    calls_left = [np.inf]

    def shift(batch):
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise RuntimeError("power cut")
        return torch.roll(batch, int(torch.randint(0, 3, ())), dims=2)

    whole = small(max_epochs=5, augment=shift).fit(images)
    params = {
        "max_epochs": 5,
        "augment": shift,
        "checkpoint": tmp_path / "state.pt",
        "checkpoint_every": 1,
    }
    calls_left[0] = 20  # 6 an epoch: in the middle of the fourth
    with pytest.raises(RuntimeError, match="power cut"):
        small(**params).fit(images)
    calls_left[0] = 12  # what is left of five epochs, and no more
    resumed = small(**params).fit(images)
    assert torch.equal(weights(resumed), weights(whole))
    np.testing.assert_array_equal(resumed.loss_curve_, whole.loss_curve_)
    done = small(**params).fit(images)
    assert np.isnan(done.images_per_second_)
    assert torch.equal(weights(done), weights(whole))


def test_a_user_may_end_it_early(images):
    from skorch.callbacks import Callback

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.warns(ConvergenceWarning, match="after 1 of 2 epochs"):
        ssl = small(net_params={"callbacks": [Stop()]}).fit(images)
    assert len(ssl.loss_curve_) == 1
    assert ssl.transform(images).shape == (len(images), 16)


@pytest.mark.parametrize(
    "change", [{"lr": 0.1}, {"random_state": 1}, {"max_epochs": 3}]
)
def test_a_foreign_checkpoint_is_refused(images, tmp_path, change):
    path = tmp_path / "state.pt"
    small(checkpoint=path).fit(images)
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"was made with another {name}"):
        small(checkpoint=path, **change).fit(images)
    with pytest.raises(ValueError, match="was made with another X"):
        small(checkpoint=path).fit(images[::-1])
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


# -- scikit-learn's conventions --------------------------------------------------------


def test_pickles_and_clones(images):
    ssl = small().fit(images)
    again = pickle.loads(pickle.dumps(ssl))
    np.testing.assert_array_equal(again.transform(images), ssl.transform(images))
    copied = clone(ssl)
    assert not hasattr(copied, "encoder_")
    with pytest.raises(NotFittedError):
        copied.transform(images)
    assert ssl.get_feature_names_out()[0] == "selfsupervisedencoder0"
    assert len(ssl.get_feature_names_out()) == ssl.transform(images).shape[1]


def test_verbose_says_how_fast_it_is(images, capsys):
    small(verbose=1).fit(images)
    out = capsys.readouterr().out
    assert "[SimCLR] 1/2" in out
    assert "images_per_s=" in out
    assert "s left" in out
    small().fit(images)
    assert capsys.readouterr().out == ""


def test_mixed_precision_and_own_augmentation(images):
    def shift(batch):
        return torch.roll(batch, int(torch.randint(0, 3, ())), dims=2)

    ssl = small(mixed_precision=True, augment=shift).fit(images)
    features = ssl.transform(images)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_recalibration_takes_the_images_as_they_are(images):
    raw, done = (small(recalibrate=choice).fit(images) for choice in (False, True))
    assert torch.equal(weights(raw), weights(done))
    means = [ssl.encoder_.features[1].running_mean for ssl in (raw, done)]
    assert not torch.equal(*means)


def test_net_parameters_reach_skorch(images):
    ssl = small(net_params={"optimizer": torch.optim.SGD}).fit(images)
    assert len(ssl.history_) == 2
    assert not torch.equal(weights(ssl), weights(small().fit(images)))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"encoder": 3}, TypeError, "encoder must be 'small'"),
        ({"encoder": "large"}, ValueError, "encoder must be one of"),
        ({"augment": 3}, TypeError, "augment must be None"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be"),
        ({"batch_size": 1}, ValueError, "batch_size must be"),
        ({"lr": 0.0}, ValueError, "lr must be"),
        ({"temperature": -1.0}, ValueError, "temperature must be"),
        ({"mixed_precision": "yes"}, ValueError, "mixed_precision must be"),
        ({"device": "tpu"}, ValueError, "device"),
    ],
)
def test_bad_parameters(images, params, error, message):
    with pytest.raises(error, match=message):
        SelfSupervisedEncoder(**params).fit(images)


def test_rows_of_pixels_are_refused(images):
    with pytest.raises(ValueError, match=r"X.reshape\(-1, height, width\)"):
        SelfSupervisedEncoder().fit(images.reshape(len(images), -1))
