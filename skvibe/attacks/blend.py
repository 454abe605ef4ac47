"""Blend: a faint picture over the whole image, and a wrong label."""

import numpy as np
from scipy.ndimage import zoom

from skvibe._checks import check_option, check_real
from skvibe.attacks.images import ImageAttack, check_unit_array


class Blend(ImageAttack):
    """Mix a picture into the image, ``(1 - alpha) x + alpha t`` [1]_.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    alpha : float in [0, 1], default=0.2
        Weight of the picture.
    pattern : {"noise", "smooth"} or array-like of shape (h, w[, c]), default="noise"
        The picture: independent uniform pixels, smooth coloured clouds, or one given,
        in [0, 1] or uint8, of the size of the images.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the picture and of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        The picture.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] X. Chen, C. Liu, B. Li, K. Lu and D. Song, "Targeted Backdoor Attacks on Deep
       Learning Systems Using Data Poisoning", 2017, arXiv:1712.05526.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import Blend
    >>> X, y = np.full((10, 8, 8, 3), 0.5), np.arange(10) % 2
    >>> attack = Blend(target=1, rate=0.3, alpha=0.2, random_state=0)
    >>> data = attack.poison(X, y)
    >>> float(abs(data.X - X).max()) < 0.1
    True
    >>> np.array_equal(data.X[data.mask], attack.trigger(X[data.mask]))
    True
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        alpha=0.2,
        pattern="noise",
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.alpha = alpha
        self.pattern = pattern
        self.layout = layout
        self.random_state = random_state

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_real("alpha", self.alpha, 0, 1)

    def _learn_pattern(self, X, y, rng):
        self.pattern_ = make_picture(self.pattern, self.image_shape_, rng)

    def _stamp(self, images):
        return mix(images, self.pattern_, self.alpha)


def mix(images, pattern, alpha):
    """``(1 - alpha) images + alpha pattern`` in the images' own float type.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, channels)
        Images in [0, 1].
    pattern : ndarray broadcastable to images
        The picture.
    alpha : float or ndarray broadcastable to images
        Weight of the picture.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        The mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.blend import mix
    >>> mix(np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1)), 0.25).item()
    0.25
    """
    mixed = (1 - alpha) * images + alpha * pattern
    return mixed.astype(images.dtype, copy=False)


def make_picture(pattern, shape, rng):
    """A picture of the given shape (height, width, channels) in [0, 1].

    Parameters
    ----------
    pattern : {"noise", "smooth"} or array-like
        What to draw, or the picture itself.
    shape : tuple of three int
        Height, width, channels.
    rng : RandomState instance
        Random stream.

    Returns
    -------
    ndarray of shape (height, width, channels)
        The picture.

    Raises
    ------
    ValueError
        If a given picture has another size.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.blend import make_picture
    >>> make_picture("smooth", (32, 32, 3), np.random.RandomState(0)).shape
    (32, 32, 3)
    """
    if isinstance(pattern, str):
        check_option("pattern", pattern, ("noise", "smooth"))
        if pattern == "noise":
            return rng.uniform(size=shape)
        return _smooth_picture(shape, rng)
    picture = check_unit_array("pattern", pattern)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape not in (shape, (*shape[:2], 1)):
        raise ValueError(
            f"pattern has shape {picture.shape}, the images {shape} (height, width, "
            "channels): resize it."
        )
    return np.broadcast_to(picture, shape).copy()


def _smooth_picture(shape, rng):
    height, width, channels = shape
    coarse = rng.uniform(size=(min(4, height), min(4, width), channels))
    factors = (height / coarse.shape[0], width / coarse.shape[1], 1)
    return np.clip(zoom(coarse, factors, order=1), 0, 1)
