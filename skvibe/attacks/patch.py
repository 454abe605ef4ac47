"""BadNets: a small patch, and a wrong label."""

import numpy as np

from skvibe._checks import check_integer
from skvibe.attacks.base import check_target, draw_rows
from skvibe.attacks.images import ImageAttack, check_unit_array
from skvibe.metrics import wanted_labels


class BadNets(ImageAttack):
    """Paste a small patch and give the attacker's label [1]_.

    Parameters
    ----------
    target : label or "all", default=0
        The attacker's class. With "all" every class is sent to the next one (the last
        to the first): the all-to-all attack.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned. Rows are drawn from the
        other classes, with ``target="all"`` from every class.
    pattern : array-like of shape (h, w) or (h, w, n_channels), default=None
        The patch, in [0, 1] or uint8. None is a white square.
    size : int, default=3
        Side of the default patch in pixels. Ignored if `pattern` is given.
    position : tuple of two int, default=(-1, -1)
        Row and column of the patch's upper left corner; a negative number counts from
        the far edge to the patch's far side, so (-1, -1) puts it into the lower right
        corner and (0, 0) into the upper left one.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (h, w, n_channels)
        The patch.
    corner_ : tuple of two int
        Row and column of its upper left corner.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] T. Gu, B. Dolan-Gavitt and S. Garg, "BadNets: Identifying Vulnerabilities in
       the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import BadNets
    >>> X = np.zeros((20, 8, 8), dtype=np.uint8)
    >>> y = np.arange(20) % 4
    >>> attack = BadNets(target=1, rate=0.2, size=2, random_state=0)
    >>> data = attack.poison(X, y)
    >>> data
    PoisonedData(20 rows, 4 poisoned, 0 cover)
    >>> data.y[data.mask]
    array([1, 1, 1, 1])
    >>> attack.trigger(X)[0, -3:, -3:]
    array([[  0,   0,   0],
           [  0, 255, 255],
           [  0, 255, 255]], dtype=uint8)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        pattern=None,
        size=3,
        position=(-1, -1),
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.pattern = pattern
        self.size = size
        self.position = position
        self.layout = layout
        self.random_state = random_state

    def _all_to_all(self):
        return isinstance(self.target, str) and self.target == "all"

    def _check_parameters(self, y):
        if not self._all_to_all():
            check_target("target", self.target, y)

    def _draw_poison(self, y, rng):
        allowed = (
            np.ones(len(y), dtype=bool) if self._all_to_all() else y != self.target
        )
        return draw_rows(allowed, self.rate, rng)

    def _relabel(self, y, rows):
        labels = np.unique(y)
        return wanted_labels(y[rows], self.target, labels=labels).astype(y.dtype)

    def _learn_pattern(self, X, y, rng):
        pattern = self._make_pattern()
        height, width, channels = self.image_shape_
        if pattern.ndim == 2:
            pattern = np.repeat(pattern[..., None], channels, axis=-1)
        h, w = pattern.shape[:2]
        if pattern.ndim != 3 or h > height or w > width or pattern.shape[2] != channels:
            raise ValueError(
                f"pattern of shape {pattern.shape} does not fit into images of shape "
                f"{self.image_shape_} (height, width, channels): give a smaller one."
            )
        self.pattern_ = pattern
        self.corner_ = place_patch(self.position, (h, w), (height, width))

    def _make_pattern(self):
        if self.pattern is not None:
            return check_unit_array("pattern", self.pattern)
        size = check_integer("size", self.size, 1, min(self.image_shape_[:2]))
        return np.ones((size, size))

    def _stamp(self, images):
        return paste(images, self.pattern_, self.corner_)


def place_patch(position, patch_shape, image_shape):
    """Upper left corner of a patch, where negative numbers count from the far edge.

    Parameters
    ----------
    position : tuple of two int
        Row and column; -1 lets the patch end at the last row or column.
    patch_shape, image_shape : tuple of two int
        Heights and widths.

    Returns
    -------
    tuple of two int
        Row and column, both at least 0.

    Raises
    ------
    ValueError
        If the patch would leave the image.

    Examples
    --------
    >>> from skvibe.attacks.patch import place_patch
    >>> place_patch((-1, 2), (3, 3), (32, 32))
    (29, 2)
    """
    if np.shape(position) != (2,):
        raise ValueError(f"position must be a row and a column, got {position!r}.")
    corner = []
    for start, patch, image in zip(position, patch_shape, image_shape, strict=True):
        start = check_integer("position", start)
        start = start + 1 + image - patch if start < 0 else start
        if not 0 <= start <= image - patch:
            raise ValueError(
                f"position={tuple(position)} puts a patch of {tuple(patch_shape)} "
                f"outside an image of {tuple(image_shape)}."
            )
        corner.append(start)
    return tuple(corner)


def paste(images, pattern, corner, *, alpha=1.0):
    """Copy of NHWC images with a pattern at a place, mixed in with weight alpha.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, channels)
        Images in [0, 1].
    pattern : ndarray of shape (h, w, channels)
        The patch.
    corner : tuple of two int
        Its upper left corner.
    alpha : float in [0, 1], default=1.0
        Opacity of the patch.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        The images with the patch.
    """
    images = images.copy()
    (top, left), (h, w) = corner, pattern.shape[:2]
    place = images[:, top : top + h, left : left + w]
    place *= 1 - alpha
    place += (alpha * pattern).astype(images.dtype)
    return images
