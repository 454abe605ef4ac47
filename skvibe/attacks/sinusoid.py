"""SIG: a faint wave over images of the target class, whose labels stay true."""

import numpy as np

from skvibe._checks import check_real
from skvibe.attacks.base import CleanLabelMixin
from skvibe.attacks.images import ImageAttack


class SIG(CleanLabelMixin, ImageAttack):
    """Add a horizontal sine wave to rows of the target class [1]_.

    Labels stay true: the victim learns the wave as a sign of the class, and obeys it on
    rows of other classes.

    Parameters
    ----------
    target : label, default=0
        The attacker's class, from which the poisoned rows are drawn.
    rate : float in [0, 1], default=0.8
        Share of the rows that `rate_of` names.
    rate_of : {"target", "all"}, default="target"
        Whether `rate` is a share of the target class or of the whole set.
    amplitude : float > 0, default=40/255
        Height of the wave, for pixels in [0, 1].
    frequency : float > 0, default=6.0
        Waves across the width of the image; less than half the width in pixels.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (1, width, 1)
        The wave.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] M. Barni, K. Kallas and B. Tondi, "A New Backdoor Attack in CNNs by Training
       Set Corruption Without Label Poisoning", ICIP 2019,
       doi:10.1109/ICIP.2019.8802997.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import SIG
    >>> X, y = np.full((10, 8, 8), 0.5), np.arange(10) % 2
    >>> data = SIG(target=1, rate=0.6, frequency=2.0, random_state=0).poison(X, y)
    >>> data, bool((data.y == y).all())
    (PoisonedData(10 rows, 3 poisoned, 0 cover), True)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.8,
        rate_of="target",
        amplitude=40 / 255,
        frequency=6.0,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.rate_of = rate_of
        self.amplitude = amplitude
        self.frequency = frequency
        self.layout = layout
        self.random_state = random_state

    def _learn_pattern(self, X, y, rng):
        amplitude = check_real("amplitude", self.amplitude, 0, closed="()")
        # From half the width on, the pixels show a slower wave or none.
        half = self.image_shape_[1] / 2
        frequency = check_real("frequency", self.frequency, 0, half, closed="()")
        self.pattern_ = sine_wave(self.image_shape_[1], amplitude, frequency)

    def _stamp(self, images):
        return (images + self.pattern_).astype(images.dtype)


def sine_wave(width, amplitude, frequency):
    """``amplitude * sin(2 pi j frequency / width)`` along the columns j.

    Parameters
    ----------
    width : int
        Number of columns.
    amplitude : float
        Height of the wave.
    frequency : float
        Waves across the width.

    Returns
    -------
    ndarray of shape (1, width, 1)
        The wave.

    Examples
    --------
    >>> from skvibe.attacks.sinusoid import sine_wave
    >>> sine_wave(4, 0.5, 1.0).ravel().round(3)
    array([ 0. ,  0.5,  0. , -0.5])
    """
    columns = np.arange(width)
    return amplitude * np.sin(2 * np.pi * columns * frequency / width)[None, :, None]
