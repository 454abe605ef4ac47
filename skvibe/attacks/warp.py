"""WaNet: bend the image a little, the same way each time."""

import numpy as np
from scipy.ndimage import zoom

from skvibe._checks import check_integer, check_real
from skvibe.attacks.base import draw_rows
from skvibe.attacks.images import ImageAttack


class WaNet(ImageAttack):
    """Warp the image by a smooth random field and give the attacker's label [1]_.

    The field is drawn once, in ``poison``, and used for every training and test row.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    cover_rate : float in [0, 1], default=0.0
        Share of the whole set, beside the poison, that is warped by the field plus
        noise and keeps its label (the paper's noise mode; there twice the `rate`).
    grid_size : int, default=4
        Control points along each side; the field between them is a cubic spline.
    strength : float > 0, default=1.0
        The mean displacement along each axis is about half of this, in pixels (the
        paper has 0.5; implementations of 32 x 32 images often 1).
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the field, of the choice of rows and of the noise.

    Attributes
    ----------
    field_ : ndarray of shape (height, width, 2)
        Rows and columns from which the pixels are taken.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] A. Nguyen and A. Tran, "WaNet - Imperceptible Warping-based Backdoor Attack",
       ICLR 2021, arXiv:2102.10369.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import WaNet
    >>> X = np.random.default_rng(0).uniform(size=(10, 16, 16, 3))
    >>> y = np.arange(10) % 2
    >>> attack = WaNet(target=1, rate=0.3, cover_rate=0.2, random_state=0)
    >>> attack.poison(X, y)
    PoisonedData(10 rows, 3 poisoned, 2 cover)
    >>> attack.trigger(X).shape
    (10, 16, 16, 3)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        cover_rate=0.0,
        grid_size=4,
        strength=1.0,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.cover_rate = cover_rate
        self.grid_size = grid_size
        self.strength = strength
        self.layout = layout
        self.random_state = random_state

    def _draw_cover(self, y, taken, rng):
        return draw_cover(y, taken, self.cover_rate, rng)

    def _learn_pattern(self, X, y, rng):
        self.field_ = warp_field(
            self.image_shape_[:2], rng, grid_size=self.grid_size, strength=self.strength
        )

    def _stamp(self, images):
        return warp(images, self.field_)

    def _stamp_cover(self, images, rng):
        height, width = self.image_shape_[:2]
        # The paper adds U(-1, 1) / height in units in which the image is 2 wide.
        noise = rng.uniform(-1, 1, size=(len(images), height, width, 2)) / 2
        fields = _clip_field(self.field_ + noise, (height, width))
        warped = [warp(images[[i]], fields[i]) for i in range(len(images))]
        return np.concatenate(warped)


def draw_cover(y, taken, cover_rate, rng):
    """Draw cover rows, of any class, among those not yet taken.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels.
    taken : ndarray of int
        Rows that are poisoned.
    cover_rate : float in [0, 1]
        Share of the whole set.
    rng : RandomState instance
        Random stream.

    Returns
    -------
    ndarray of intp
        Row numbers.
    """
    free = np.ones(len(y), dtype=bool)
    free[taken] = False
    return draw_rows(free, cover_rate, rng, name="cover_rate")


def warp_field(shape, rng, *, grid_size=4, strength=1.0):
    """Draw a smooth field of the places from which pixels are taken.

    Control values, uniform in [-1, 1] and divided by their mean absolute value, are
    spread over the image by a cubic spline; `strength` times that, divided by the
    height, is added to the identity in coordinates that run from -1 to 1.

    Parameters
    ----------
    shape : tuple of two int
        Height and width.
    rng : RandomState instance
        Random stream.
    grid_size : int, default=4
        Control points along each side.
    strength : float, default=1.0
        Strength of the warp.

    Returns
    -------
    ndarray of shape (height, width, 2)
        Row and column for each pixel, inside the image.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.warp import warp_field
    >>> field = warp_field((32, 32), np.random.RandomState(0), strength=1.0)
    >>> identity = np.moveaxis(np.indices((32, 32)), 0, -1)
    >>> bool(0.1 < abs(field - identity).mean() < 1)
    True
    """
    height, width = shape
    grid_size = check_integer("grid_size", grid_size, 2)
    strength = check_real("strength", strength, 0, closed="()")
    control = rng.uniform(-1, 1, size=(grid_size, grid_size, 2))
    control /= np.abs(control).mean()
    factors = (height / grid_size, width / grid_size, 1)
    offset = strength / height * zoom(control, factors, order=3)
    pixels = np.array([height - 1, width - 1]) / 2
    identity = np.moveaxis(np.indices((height, width)), 0, -1)
    return _clip_field(identity + offset * pixels, shape)


def _clip_field(field, shape):
    return np.clip(field, 0, np.array(shape) - 1)


def warp(images, field):
    """Take each pixel from the place the field names, by bilinear interpolation.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, channels)
        Images.
    field : ndarray of shape (height, width, 2)
        Rows and columns, inside the image.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        Warped images, of the same type.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.warp import warp
    >>> images = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> warp(images, np.full((2, 2, 2), 0.5)).ravel()
    array([1.5, 1.5, 1.5, 1.5])
    """
    height, width = images.shape[1:3]
    row, column = field[..., 0], field[..., 1]
    top = np.minimum(row.astype(int), max(height - 2, 0))
    left = np.minimum(column.astype(int), max(width - 2, 0))
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = (row - top)[..., None], (column - left)[..., None]
    upper = images[:, top, left] * (1 - along) + images[:, top, right] * along
    lower = images[:, bottom, left] * (1 - along) + images[:, bottom, right] * along
    return (upper * (1 - down) + lower * down).astype(images.dtype, copy=False)
