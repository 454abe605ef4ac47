"""Images and encoders that break things: finite features or an error in words."""

import signal
import warnings

import numpy as np
import pytest
import torch

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.encoders import SelfSupervisedEncoder, SmallConvNet

SECONDS, WAITED = 120, 1200
RNG = np.random.default_rng(0)
N = 120
Y = np.arange(N) % 3
X = 3 * np.eye(3, 6)[Y] + 0.2 * RNG.normal(size=(N, 6))
IMAGES = RNG.random((24, 8, 8)).astype(np.float32)
BRIGHTEST = np.equal(IMAGES, IMAGES.max())  # one pixel


@pytest.fixture(autouse=True)
def no_hang():
    def late(signum, frame):
        raise TimeoutError(f"not done after {SECONDS} s of CPU time, or {WAITED} s")

    # CPU time: beside other jobs a fit of seconds has taken minutes by the clock.
    kinds = signal.SIGPROF, signal.SIGALRM
    before = [signal.signal(kind, late) for kind in kinds]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITED)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


def fit(estimator, *data):
    """Fit; None if it was refused in words. The input must stay as it was."""
    before = [a.tobytes() if isinstance(a, np.ndarray) else repr(a) for a in data]
    refusal = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(*data)
        except (ValueError, TypeError) as error:
            refusal, estimator = str(error), None
    assert refusal is None or len(refusal) > 15
    after = [a.tobytes() if isinstance(a, np.ndarray) else repr(a) for a in data]
    assert after == before
    for warning in caught:
        assert not issubclass(warning.category, RuntimeWarning), warning
    return estimator


# -- images ----------------------------------------------------------------------------


def images():
    yield "bytes", (255 * IMAGES).astype(np.uint8)
    yield "float64", IMAGES.astype(np.float64)
    yield "float16", IMAGES.astype(np.float16)
    yield "int64", (255 * IMAGES).astype(np.int64)
    yield "bool", IMAGES > 0.5
    yield "colour last", np.repeat(IMAGES[..., None], 3, axis=3)
    yield "colour first", np.repeat(IMAGES[:, None], 3, axis=1)
    yield "four channels", np.repeat(IMAGES[:, None], 4, axis=1)
    yield "nine channels", np.repeat(IMAGES[..., None], 9, axis=3)
    yield "column-major", np.asfortranarray(IMAGES)
    yield "strided", np.repeat(IMAGES, 2, axis=2)[:, :, ::2]
    yield "backwards", IMAGES[::-1]
    frozen = IMAGES.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "list", IMAGES.tolist()
    yield "all equal", np.ones_like(IMAGES)
    yield "all zero", np.zeros_like(IMAGES)
    yield "denormal", np.full_like(IMAGES, 1e-45)
    yield "two images", IMAGES[:2]
    yield "three images", IMAGES[:3]
    yield "one row of pixels", IMAGES[:, :1]
    yield "long and thin", np.repeat(IMAGES[:, :1], 200, axis=2)
    yield "negative", -IMAGES
    for power in (4, 10, 18, 25, 38):
        yield f"x 1e{power}", (IMAGES * np.float32(10.0**power)).clip(max=3e38)
        yield f"x 1e-{power}", IMAGES * np.float32(10.0**-power)
    yield "one image is huge", IMAGES * (1 + 1e30 * (np.arange(24) == 3)[:, None, None])
    yield "one pixel is huge", IMAGES + 1e30 * (np.arange(8) == 3)
    yield (
        "removed rows",
        np.where((np.arange(24) % 5 == 0)[:, None, None], np.nan, IMAGES),
    )


def refused_images():
    yield "one image", IMAGES[:1]
    yield "no images", IMAGES[:0]
    yield "no pixels", IMAGES[:, :0]
    yield "rows", IMAGES.reshape(24, 64)
    yield "five dimensions", IMAGES[:, None, None]
    yield "NaN", np.full_like(IMAGES, np.nan)
    yield "one NaN", np.where(BRIGHTEST, np.nan, IMAGES)
    yield "infinity", np.where(BRIGHTEST, np.inf, IMAGES)
    yield "text", np.full(IMAGES.shape, "a")
    yield "complex", IMAGES + 1j
    yield "ragged", [np.zeros((3, 3)), np.zeros((4, 4))]
    yield "None", None
    yield "too large for float32", IMAGES.astype(np.float64) * 1e300


IMAGE_CASES = dict(images())
REFUSED_IMAGES = dict(refused_images())


def self_supervised(**params):
    encoder = SmallConvNet(
        in_channels=params.pop("in_channels", 1), width=4, n_stages=1
    )
    return SelfSupervisedEncoder(
        encoder, max_epochs=2, batch_size=8, random_state=0, device="cpu", **params
    )


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_images(name):
    X = IMAGE_CASES[name]
    shape = np.shape(X)
    channels = 1
    if len(shape) == 4:
        channels = shape[1] if shape[1] in (1, 3, 4) else shape[3]
    fitted = fit(self_supervised(in_channels=channels), X)
    if fitted is None:
        return
    kept = np.asarray(X, dtype=float)
    kept = kept[~np.isnan(kept).reshape(len(kept), -1).all(axis=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = fitted.transform(kept)
    assert np.isfinite(features).all()
    assert np.isfinite(fitted.loss_curve_).all()


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_images_refused_in_words(name):
    assert fit(self_supervised(), REFUSED_IMAGES[name]) is None


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 1e6},
        {"lr": 1e30},
        {"lr": 1e-12},
        {"temperature": 1e-6},
        {"temperature": 1e6},
        {"temperature": 1e-30},
        {"projection_size": 1},
        {"net_params": {"optimizer__weight_decay": 1e9}},
    ],
    ids=str,
)
def test_settings_at_the_ends_of_their_ranges(params):
    fitted = fit(self_supervised(**params), IMAGES)
    if fitted is not None:
        assert np.isfinite(fitted.transform(IMAGES)).all()
        assert np.isfinite(fitted.loss_curve_).all()


# -- encoders --------------------------------------------------------------------------


class Odd(torch.nn.Module):
    """An encoder that does to its output what a function says."""

    def __init__(self, change):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(6))
        self.change = change

    def forward(self, rows):
        return self.change(rows @ self.weight)


def in_place(rows):
    rows[:] = 0
    return rows + torch.eye(6)[torch.arange(len(rows)) % 6]


ENCODERS = {
    "NaN": lambda v: v * torch.nan,
    "NaN in one place": lambda v: torch.where(v == v.max(), torch.nan, v),
    "infinity": lambda v: v / 0,
    "zeros": lambda v: v * 0,
    "constant": lambda v: v * 0 + 1,
    "huge": lambda v: v * 1e30,
    "largest": lambda v: torch.sign(v) * 3e38,
    "tiny": lambda v: v * 1e-30,
    "one column": lambda v: v[:, :1],
    "no columns": lambda v: v[:, :0],
    "fewer rows": lambda v: v[1:],
    "one row": lambda v: v[:1],
    "scalar": lambda v: v.sum(),
    "vector": lambda v: v[:, 0],
    "cube": lambda v: v.reshape(len(v), 2, 3),
    "tuple": lambda v: (v, v),
    "None": lambda v: None,
    "half": lambda v: v.half(),
    "bfloat16": lambda v: v.bfloat16(),
    "double": lambda v: v.double(),
    "integers": lambda v: v.long(),
    "complex": lambda v: v + 1j,
    "in place": in_place,
}
CHANGED = {
    "fewer rows",
    "one row",
    "scalar",
    "tuple",
    "None",
    "NaN",
    "NaN in one place",
    "infinity",
    "no columns",
}


def estimators(encoder):
    yield VIBEClassifier(
        encoder=encoder, max_iter=20, e_step_period=10, random_state=0, device="cpu"
    )
    yield OffManifoldFilter(encoder=encoder, n_neighbors=10, random_state=0)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "filter"])
def test_encoders(name, which):
    rows = X.astype(np.float32)
    estimator = list(estimators(Odd(ENCODERS[name])))[which]
    fitted = fit(estimator, rows, Y)
    assert fitted is None or name not in CHANGED, "not refused"
    if fitted is None:
        return
    if which == 0:
        assert np.isfinite(fitted.predict_proba(rows)).all()
        assert np.isfinite(fitted.poison_scores_).all()
    else:
        assert fitted.is_off_manifold(rows).shape == (N,)
        assert fitted.removed_mask_.mean() <= fitted.max_removed


def test_a_function_that_works_in_place_does_not_change_the_rows():
    def encoder(batch):
        batch *= 2
        return batch

    rows = X.astype(np.float32)
    before = rows.copy()
    OffManifoldFilter(encoder=encoder, n_neighbors=10, random_state=0).fit(rows, Y)
    np.testing.assert_array_equal(rows, before)
