"""Attacks that weaken the trigger in training and hide it among cover rows."""

import numpy as np

from skvibe._checks import check_integer, check_real
from skvibe.attacks.blend import make_picture, mix
from skvibe.attacks.images import ImageAttack
from skvibe.attacks.patch import paste
from skvibe.attacks.warp import draw_cover

# Opacities in training of the four patches in [1].
_OPACITIES = (0.5, 0.2, 0.5, 0.3)
_TILES = 4


class AdaptivePatch(ImageAttack):
    """Four patches, one faint one a training row, two opaque ones at test time [1]_.

    As many rows again, the *cover*, carry a patch and keep their true label, so that no
    single patch gives the attack away. The pictures of the paper are not free to ship:
    the four patches here are coloured checks drawn from the seed.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.01
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    cover_rate : float in [0, 1], default=0.01
        Share of the whole set that is cover, drawn from every class.
    size : int, default=None
        Side of a patch; None is a fifth of the shorter side of the image.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the patches, of the choice of rows and of the patch of each row.

    Attributes
    ----------
    patterns_ : ndarray of shape (4, size, size, channels)
        The patches, for the upper left, upper right, lower left and lower right
        corner; their opacities in training are 0.5, 0.2, 0.5 and 0.3.
    corners_ : list of tuple
        Their upper left corners. At test time the first and the third are pasted.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] X. Qi, T. Xie, Y. Li, S. Mahloujifar and P. Mittal, "Revisiting the
       Assumption of Latent Separability for Backdoor Defenses", ICLR 2023,
       https://openreview.net/forum?id=_wSHsgrVali.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import AdaptivePatch
    >>> X, y = np.full((50, 16, 16, 3), 0.5), np.arange(50) % 2
    >>> attack = AdaptivePatch(target=1, rate=0.1, cover_rate=0.1, random_state=0)
    >>> attack.poison(X, y)
    PoisonedData(50 rows, 5 poisoned, 5 cover)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.01,
        cover_rate=0.01,
        size=None,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.cover_rate = cover_rate
        self.size = size
        self.layout = layout
        self.random_state = random_state

    def _draw_cover(self, y, taken, rng):
        return draw_cover(y, taken, self.cover_rate, rng)

    def _learn_pattern(self, X, y, rng):
        height, width, channels = self.image_shape_
        side = min(height, width)
        size = max(2, side // 5) if self.size is None else self.size
        size = check_integer("size", size, 1, max(1, side // 2))
        colours = rng.uniform(size=(len(_OPACITIES), 2, channels))
        check = np.indices((size, size)).sum(axis=0) % 2
        self.patterns_ = np.where(
            check[None, :, :, None] == 0,
            colours[:, None, None, 0],
            colours[:, None, None, 1],
        )
        down, right = height - size, width - size
        self.corners_ = [(0, 0), (0, right), (down, 0), (down, right)]

    def _stamp(self, images):
        for i in (0, 2):
            images = paste(images, self.patterns_[i], self.corners_[i])
        return images

    def _stamp_train(self, images, labels, rng):
        return self._one_patch_each(images, rng)

    def _stamp_cover(self, images, rng):
        return self._one_patch_each(images, rng)

    def _one_patch_each(self, images, rng):
        images = images.copy()
        # Equal shares of the four patches, in random order.
        which = rng.permutation(np.arange(len(images)) % len(_OPACITIES))
        for i, alpha in enumerate(_OPACITIES):
            rows = which == i
            images[rows] = paste(
                images[rows], self.patterns_[i], self.corners_[i], alpha=alpha
            )
        return images


class AdaptiveBlend(ImageAttack):
    """A blended picture, half of its tiles a training row, all at test time [1]_.

    As many rows again, the *cover*, carry half of the tiles and keep their true label.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.01
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    cover_rate : float in [0, 1], default=0.01
        Share of the whole set that is cover, drawn from every class.
    alpha : float in [0, 1], default=0.15
        Weight of the picture in training.
    alpha_test : float in [0, 1], default=0.2
        Weight of the picture at test time.
    pattern : {"noise", "smooth"} or array-like of shape (h, w[, c]), default="noise"
        The picture; see :class:`~skvibe.attacks.Blend`.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the picture, of the choice of rows and of the tiles of each row.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        The picture. In training 8 of its 4 x 4 tiles are used, drawn for each row.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] X. Qi, T. Xie, Y. Li, S. Mahloujifar and P. Mittal, "Revisiting the
       Assumption of Latent Separability for Backdoor Defenses", ICLR 2023,
       https://openreview.net/forum?id=_wSHsgrVali.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import AdaptiveBlend
    >>> X, y = np.full((50, 16, 16, 3), 0.5), np.arange(50) % 2
    >>> attack = AdaptiveBlend(target=1, rate=0.1, cover_rate=0.1, random_state=0)
    >>> data = attack.poison(X, y)
    >>> int((data.X != X).any(axis=-1).mean(axis=(1, 2))[data.mask].mean() * 100)
    50
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.01,
        cover_rate=0.01,
        alpha=0.15,
        alpha_test=0.2,
        pattern="noise",
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.cover_rate = cover_rate
        self.alpha = alpha
        self.alpha_test = alpha_test
        self.pattern = pattern
        self.layout = layout
        self.random_state = random_state

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_real("alpha", self.alpha, 0, 1)
        check_real("alpha_test", self.alpha_test, 0, 1)

    def _draw_cover(self, y, taken, rng):
        return draw_cover(y, taken, self.cover_rate, rng)

    def _learn_pattern(self, X, y, rng):
        self.pattern_ = make_picture(self.pattern, self.image_shape_, rng)

    def _stamp(self, images):
        return mix(images, self.pattern_, self.alpha_test)

    def _stamp_train(self, images, labels, rng):
        kept = draw_tiles(len(images), self.image_shape_[:2], rng)
        return mix(images, self.pattern_, self.alpha * kept[..., None])

    def _stamp_cover(self, images, rng):
        return self._stamp_train(images, None, rng)


def draw_tiles(n_images, shape, rng):
    """Masks that keep half of the 4 x 4 tiles of an image, drawn for each image.

    Parameters
    ----------
    n_images : int
        Number of masks.
    shape : tuple of two int
        Height and width.
    rng : RandomState instance
        Random stream.

    Returns
    -------
    ndarray of bool of shape (n_images, height, width)
        True where the picture is kept.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.adaptive import draw_tiles
    >>> draw_tiles(3, (8, 8), np.random.RandomState(0)).mean(axis=(1, 2))
    array([0.5, 0.5, 0.5])
    """
    n_tiles = _TILES**2
    order = np.argsort(rng.uniform(size=(n_images, n_tiles)), axis=1)
    kept = order < n_tiles // 2
    height, width = shape
    rows = np.arange(height) * _TILES // height
    columns = np.arange(width) * _TILES // width
    return kept[:, rows[:, None] * _TILES + columns[None, :]]
