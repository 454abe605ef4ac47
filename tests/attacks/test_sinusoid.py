import numpy as np
import pytest

from skvibe.attacks import SIG
from skvibe.attacks.sinusoid import sine_wave

X = np.full((10, 32, 32, 3), 0.5)
Y = np.arange(10) % 2


def test_wave_has_the_frequency_and_the_height():
    wave = sine_wave(64, 0.25, 6.0).ravel()
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() == 6
    assert np.isclose(spectrum[6], 0.25 * 64 / 2)


def test_the_same_in_every_row_and_channel():
    attack = SIG(target=1)
    data = attack.poison(X, Y)
    change = data.X[data.mask] - 0.5
    wave = np.broadcast_to(attack.pattern_, change.shape)
    np.testing.assert_allclose(change, wave, atol=1e-12)
    assert np.abs(change).max() <= 40 / 255 + 1e-12


def test_a_wave_too_fast_for_the_pixels_is_an_error():
    with pytest.raises(ValueError, match="frequency"):
        SIG().poison(X[:, :, :12], Y)
    with pytest.raises(ValueError, match="amplitude"):
        SIG(amplitude=-1.0).poison(X, Y)
