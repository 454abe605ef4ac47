"""Images and attacks of the paper's tables, at every scale.

Triggers are fitted to the size of the images. On 8 x 8 digits they must be stronger to
have any effect at all; where they are, the comments say so.
"""

import functools
import os
from dataclasses import dataclass

import numpy as np
import torch
from _stamp import ROOT
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvibe import attacks
from skvibe.encoders import load_cifar10
from skvibe.encoders.image_input import channels_first

TARGET = 0
_SMALL_CLASSES = ("airplane", "automobile", "frog", "horse")
_N_VICTIMS = 8


@dataclass(frozen=True, eq=False)
class Images:
    """Clean images, and how they may be changed without changing what they show."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    source: str

    @property
    def channels(self):
        """Colour channels."""
        return 1 if self.X.ndim == 3 else 3

    @property
    def colour(self):
        """Whether the images are photographs, which may be mirrored."""
        return self.channels == 3

    @property
    def side(self):
        """Height in pixels."""
        return self.X.shape[1]


@functools.cache
def load_images(scale_name, data):
    """Clean images of a scale."""
    if data == "random":
        return _random_images()
    if data == "digits":
        digits = load_digits()
        X = np.minimum(digits.images * 16, 255).astype(np.uint8)
        X, X_test, y, y_test = train_test_split(
            X, digits.target, test_size=0.25, stratify=digits.target, random_state=0
        )
        return Images(X, y, X_test, y_test, "scikit-learn's digits, 8 x 8")
    home = os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data")
    if scale_name == "gpu":
        found = load_cifar10(home)
        size = "32 x 32"
    else:
        found = load_cifar10(home, classes=_SMALL_CLASSES, n_train=4000, n_test=1000)
        size = f"{', '.join(_SMALL_CLASSES)}, 16 x 16"
        found.X, found.X_test = _halve(found.X), _halve(found.X_test)
    source = f"CIFAR-10 ({found.source}), {size}"
    return Images(found.X, found.y, found.X_test, found.y_test, source)


def _random_images():
    """Coloured noise of ten classes: enough to see that everything runs."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 10
    X = rng.integers(0, 128, (300, 32, 32, 3)) + 12 * y[:, None, None, None]
    X = X.astype(np.uint8)
    return Images(X[:240], y[:240], X[240:], y[240:], "random images, 32 x 32")


def _halve(X):
    n, height, width, channels = X.shape
    blocks = X.reshape(n, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def make_attack(name, images, seed, bench):
    """The attack of a run."""
    maker = _MAKERS[name]
    return maker(images, bench, {"target": TARGET, "random_state": seed})


def _badnets(images, bench, shared):
    return attacks.BadNets(rate=0.1, size=2 if images.side < 16 else 3, **shared)


def _blend(images, bench, shared):
    return attacks.Blend(rate=0.1, alpha=0.2 if images.side < 32 else 0.1, **shared)


def _ftrojan(images, bench, shared):
    # Grey images carry the wave in their one channel; it must outdo the 17 grey levels.
    magnitude = 100.0 if images.side < 16 else 30.0
    return attacks.FTrojan(rate=0.1, magnitude=magnitude, **shared)


def _sig(images, bench, shared):
    if images.side < 16:
        # One wave across eight pixels; three turn most digits into zeros, attack or
        # not. Half the target class: without it too few clean zeros would be left.
        wave = {"frequency": 1.0, "amplitude": 100 / 255, "rate": 0.5}
    else:
        wave = {"rate": 0.5} if images.side < 32 else {}
    return attacks.SIG(**wave, **shared)


def _label_consistent(images, bench, shared):
    changes = {}
    if images.side < 16:
        # Digits have so much contrast that noise of 16/255 does not hide them, and a
        # quarter of their class would be fewer rows than the filter's neighbours.
        changes = {"size": 2, "eps": 64 / 255, "step": 6 / 255, "rate": 0.5}
    model = bench.attackers_model()
    return attacks.LabelConsistent(surrogate=model, **changes, **shared)


def _narcissus(images, bench, shared):
    n_iter = 300 if images.side < 32 else bench.scale.attack_iterations
    model = bench.attackers_model()
    return attacks.Narcissus(n_iter=n_iter, surrogate=model, **shared)


def _adaptive_trigger(images, bench, shared):
    encoder = bench.encoder_of(images.X, "clean", "default")
    return attacks.AdaptiveTrigger(rate=0.1, surrogate=UnitPixels(encoder), **shared)


def _witches_brew(images, bench, shared):
    victims = np.flatnonzero(images.y_test != TARGET)[:_N_VICTIMS]
    return attacks.WitchesBrew(
        victims=images.X_test[victims],
        n_restarts=1 if images.side < 32 else bench.scale.attack_restarts,
        surrogate=bench.attackers_model(),
        **shared,
    )


_MAKERS = {
    "BadNets": _badnets,
    "Blend": _blend,
    "WaNet": lambda images, bench, shared: attacks.WaNet(rate=0.1, **shared),
    "FTrojan": _ftrojan,
    "CTRL": lambda images, bench, shared: attacks.CTRL(**shared),
    "AdaptivePatch": lambda images, bench, shared: attacks.AdaptivePatch(**shared),
    "AdaptiveBlend": lambda images, bench, shared: attacks.AdaptiveBlend(**shared),
    "SIG": _sig,
    "LC": _label_consistent,
    "CLBA": _narcissus,
    "AdaptiveTrigger": _adaptive_trigger,
    "WitchesBrew": _witches_brew,
}


class UnitPixels(torch.nn.Module):
    """For attacks, which work on pixels in [0, 1]; our models were shown 0..255."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        """What the model says of the same images in 0..255."""
        return self.model(images * 255)


class Enlarged(torch.nn.Module):
    """An encoder that is shown every pixel of small images several times.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps images of `channels` channels to vectors.
    channels : int
        Channels of the images.
    factor : int
        How many times larger a side becomes.
    """

    def __init__(self, encoder, channels, factor):
        super().__init__()
        self.encoder, self.channels, self.factor = encoder, channels, factor
        self.n_features_out = encoder.n_features_out

    def forward(self, images):
        """Feature vectors."""
        images = channels_first(images, self.channels)
        # uint8 images stay uint8, so that their range is still known.
        for axis in (2, 3):
            images = images.repeat_interleave(self.factor, dim=axis)
        return self.encoder(images)
