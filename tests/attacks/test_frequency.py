import numpy as np
import pytest
from scipy.fft import dctn

from skvibe.attacks import CTRL, FTrojan
from skvibe.attacks.frequency import frequency_pattern

# Red, green and blue to Cr and Cb, and to U and V (ITU-R BT.601).
CHROMA = {
    "FTrojan": np.array([[0.5, -0.419, -0.081], [-0.169, -0.331, 0.5]]),
    "CTRL": np.array([[-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]]),
}


def photos(n_images=6, side=32):
    """Smooth bytes away from black and white, as most of a photo is."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(60, 195, size=(n_images, 4, 4, 3))
    return np.rint(np.kron(coarse, np.ones((1, side // 4, side // 4, 1)))).astype(
        np.uint8
    )


@pytest.mark.parametrize(("attack", "magnitude"), [(FTrojan, 30.0), (CTRL, 100.0)])
def test_frequencies_are_raised_even_after_rounding_to_bytes(attack, magnitude):
    X = photos()
    attack = attack(target=0, magnitude=magnitude)
    attack.poison(X, np.array([0, 1, 0, 1, 0, 1]))
    triggered = attack.trigger(X)
    assert triggered.dtype == np.uint8
    change = triggered.astype(float) - X
    chroma = change @ CHROMA[type(attack).__name__].T
    spectrum = dctn(chroma, axes=(1, 2), norm="ortho")
    for k in (15, 31):
        np.testing.assert_allclose(spectrum[:, k, k], magnitude, rtol=0.1)
        spectrum[:, k, k] = 0
    # What is left is rounding.
    assert np.abs(spectrum).max() < 0.1 * magnitude


def test_pattern_has_the_two_frequencies_and_no_other():
    pattern = frequency_pattern((32, 32, 1), 30.0)[..., 0]
    spectrum = 255 * dctn(pattern, norm="ortho")
    assert np.isclose(spectrum, 30).sum() == 2
    assert np.isclose(spectrum, 0, atol=1e-9).sum() == 32 * 32 - 2


def test_brightness_stays():
    pattern = frequency_pattern((32, 32, 3), 30.0)
    brightness = pattern @ np.array([0.299, 0.587, 0.114])
    assert np.abs(brightness).max() < 0.01 * np.abs(pattern).max()


def test_large_images_are_tiled_and_a_margin_stays():
    pattern = frequency_pattern((70, 64, 3), 30.0, window=32)
    tile = pattern[:32, :32]
    np.testing.assert_array_equal(pattern[32:64, 32:], tile)
    assert not pattern[64:].any()
    assert frequency_pattern((70, 64, 3), 30.0).any(axis=(1, 2)).all()


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 5, 3), (2, 2, 4)])
def test_any_size_has_a_trigger(shape):
    pattern = frequency_pattern(shape, 30.0, window=32)
    assert pattern.shape == shape
    assert pattern[..., :3].any()
    # An opacity channel stays as it is.
    assert not pattern[..., 3:].any()


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (FTrojan(magnitude=0), "magnitude"),
        (FTrojan(window=1), "window"),
        (CTRL(magnitude="30"), "magnitude"),
    ],
)
def test_bad_parameters_are_named(attack, name):
    with pytest.raises((TypeError, ValueError), match=name):
        attack.poison(photos(), np.array([0, 1, 0, 1, 0, 1]))
