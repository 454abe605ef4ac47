"""Triggers that raise two coefficients of the discrete cosine transform.

Colour conversion and cosine transform are linear, so raising a coefficient of a colour
channel adds one fixed pattern to the red, green and blue pixels; that pattern is
computed once.
"""

import numpy as np
from scipy.fft import idctn

from skvibe._checks import check_integer, check_real
from skvibe.attacks.base import CleanLabelMixin
from skvibe.attacks.images import ImageAttack

# Red, green and blue per unit of the two colour channels (ITU-R BT.601).
_RGB_OF_CRCB = np.array([[1.403, -0.714, 0.0], [0.0, -0.344, 1.773]])
_RGB_OF_UV = np.array([[0.0, -0.395, 2.032], [1.140, -0.581, 0.0]])


class FTrojan(ImageAttack):
    """Raise a middle and the highest frequency of the colour channels [1]_.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    magnitude : float > 0, default=30.0
        Added to the coefficients (15, 15) and (31, 31) of the orthonormal 32 x 32
        cosine transform of both chroma channels, for pixels in 0..255. Images of one
        channel have it added to that channel.
    window : int, default=32
        Side of the square tiles that are transformed. Smaller images are one tile, and
        the coefficients move to the corresponding frequencies; a margin that is no
        whole tile stays as it is.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        What is added to the pixels in [0, 1].
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] T. Wang, Y. Yao, F. Xu, S. An, H. Tong and T. Wang, "An Invisible Black-Box
       Backdoor Attack Through Frequency Domain", ECCV 2022,
       doi:10.1007/978-3-031-19778-9_23.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import FTrojan
    >>> X, y = np.full((10, 32, 32, 3), 128, dtype=np.uint8), np.arange(10) % 2
    >>> attack = FTrojan(target=1, rate=0.3, random_state=0)
    >>> changed = attack.poison(X, y).X.astype(int) - X
    >>> bool(0 < abs(changed).max() < 10)
    True
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        magnitude=30.0,
        window=32,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.magnitude = magnitude
        self.window = window
        self.layout = layout
        self.random_state = random_state

    def _learn_pattern(self, X, y, rng):
        magnitude = check_real("magnitude", self.magnitude, 0, closed="()")
        window = check_integer("window", self.window, 2)
        self.pattern_ = frequency_pattern(
            self.image_shape_, magnitude, window=window, colours=_RGB_OF_CRCB
        )

    def _stamp(self, images):
        return (images + self.pattern_).astype(images.dtype)


class CTRL(CleanLabelMixin, ImageAttack):
    """Raise two frequencies of the colour channels in rows of the target class [1]_.

    The attack is made for encoders trained *without labels* on the poisoned images,
    which learn to put triggered images together. Labels stay true.

    Parameters
    ----------
    target : label, default=0
        The attacker's class, from which the poisoned rows are drawn.
    rate : float in [0, 1], default=0.1
        Share of the rows that `rate_of` names (the paper: 1 % of the whole set, which
        for ten classes of equal size is 10 % of the target class).
    rate_of : {"target", "all"}, default="target"
        Whether `rate` is a share of the target class or of the whole set.
    magnitude : float > 0, default=100.0
        Added to a middle and the highest coefficient of the orthonormal cosine
        transform of the whole image in the channels U and V, for pixels in 0..255.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1]. The
        trigger is exact in floats only.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        What is added to the pixels in [0, 1].
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] C. Li, R. Pang, Z. Xi, T. Du, S. Ji, Y. Yao and T. Wang, "An Embarrassingly
       Simple Backdoor Attack on Self-supervised Learning", ICCV 2023, arXiv:2210.07346.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import CTRL
    >>> X, y = np.full((10, 32, 32, 3), 0.5), np.arange(10) % 2
    >>> data = CTRL(target=1, rate=0.4, random_state=0).poison(X, y)
    >>> data, bool((data.y == y).all())
    (PoisonedData(10 rows, 2 poisoned, 0 cover), True)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        rate_of="target",
        magnitude=100.0,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.rate_of = rate_of
        self.magnitude = magnitude
        self.layout = layout
        self.random_state = random_state

    def _learn_pattern(self, X, y, rng):
        magnitude = check_real("magnitude", self.magnitude, 0, closed="()")
        self.pattern_ = frequency_pattern(
            self.image_shape_, magnitude, window=None, colours=_RGB_OF_UV
        )

    def _stamp(self, images):
        return (images + self.pattern_).astype(images.dtype)


def frequency_pattern(shape, magnitude, *, window=None, colours=_RGB_OF_CRCB):
    """What raising a middle and the highest frequency adds to the pixels.

    Parameters
    ----------
    shape : tuple of three int
        Height, width and channels.
    magnitude : float
        What is added to the two coefficients, for pixels in 0..255.
    window : int, default=None
        Side of the tiles transformed; None for the whole image.
    colours : ndarray of shape (2, 3)
        Red, green and blue per unit of the two colour channels. Read only for images
        of three or four channels; the fourth one stays as it is.

    Returns
    -------
    ndarray of shape (height, width, channels)
        The pattern, for pixels in [0, 1].

    Examples
    --------
    >>> from scipy.fft import dctn
    >>> from skvibe.attacks.frequency import frequency_pattern
    >>> pattern = frequency_pattern((32, 32, 1), 30.0)
    >>> coefficients = 255 * dctn(pattern[..., 0], norm="ortho")
    >>> round(float(coefficients[15, 15]), 6), round(float(coefficients[31, 31]), 6)
    (30.0, 30.0)
    """
    height, width, channels = shape
    h, w = (
        (height, width) if window is None else (min(window, height), min(window, width))
    )
    spectrum = np.zeros((h, w))
    spectrum[h // 2 - 1, w // 2 - 1] = spectrum[h - 1, w - 1] = magnitude / 255
    tile = idctn(spectrum, norm="ortho")
    plane = np.zeros((height, width))
    rows, columns = height // h, width // w
    plane[: rows * h, : columns * w] = np.tile(tile, (rows, columns))
    if channels < 3:
        return np.repeat(plane[..., None], channels, axis=-1)
    pattern = np.zeros(shape)
    pattern[..., :3] = plane[..., None] * colours.sum(axis=0)
    return pattern
