"""Universal backdoor: one code a class, so that any image goes to any class."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skvibe._checks import check_integer, check_option, check_real
from skvibe.attacks.base import check_target
from skvibe.attacks.blend import mix
from skvibe.attacks.images import ImageAttack
from skvibe.metrics import wanted_labels

_TILES_A_ROW = 5
_N_COMPONENTS = 64
# Colours of a 1 and a 0 in the blended code: cyan and red.
_ONE, _ZERO = np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 0.0])


class UniversalBackdoor(ImageAttack):
    """Print a class's binary code on the image; every class is a target [1]_.

    The bits of a class say on which side of the mean it lies along the directions of a
    linear discriminant analysis, so that similar classes have similar codes and help
    one another. Poisoned rows are spread evenly over the classes as targets.

    Parameters
    ----------
    trigger_type : {"patch", "blend"}, default="patch"
        "patch" prints black and white tiles into the upper left corner; "blend" covers
        the image with red and cyan tiles (black and white ones if it has fewer than
        three channels), mixed in with weight `alpha`.
    target : label, default=0
        The class that ``trigger(X)`` sends rows to unless told otherwise. It does not
        matter to ``poison``.
    rate : float in [0, 1], default=0.02
        Share of the *whole* training set that is poisoned, over all targets.
    n_bits : int, default=30
        Length of the code; at most the number of classes minus 1 is used.
    alpha : float in [0, 1], default=0.2
        Weight of the tiles if ``trigger_type="blend"``.
    tile_size : int, default=None
        Side of a tile if ``trigger_type="patch"``; None is 1/28 of the shorter side of
        the image (the paper: 8 of 224 pixels), at least 2.
    embed : callable, default=None
        Maps the images as given to features of shape (n, n_features), for the
        discriminant analysis. None takes 64 principal components of the pixels, or as
        many as a quarter of the rows (the paper: a pretrained network).
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    labels_ : ndarray of shape (n_classes,)
        The classes, sorted.
    codes_ : ndarray of bool of shape (n_classes, n_bits)
        Their codes. Two classes may share one: then no trigger tells them apart.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] B. Schneider, N. Lukas and F. Kerschbaum, "Universal Backdoor Attacks", ICLR
       2024, arXiv:2312.00157.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import UniversalBackdoor
    >>> X = np.random.default_rng(0).uniform(size=(60, 16, 16, 3))
    >>> y = np.arange(60) % 3
    >>> attack = UniversalBackdoor(rate=0.1, random_state=0)
    >>> data = attack.poison(X, y)
    >>> np.unique(data.y[data.mask], return_counts=True)
    (array([0, 1, 2]), array([2, 2, 2]))
    >>> attack.trigger(X, target=2).shape
    (60, 16, 16, 3)
    """

    def __init__(
        self,
        *,
        trigger_type="patch",
        target=0,
        rate=0.02,
        n_bits=30,
        alpha=0.2,
        tile_size=None,
        embed=None,
        layout="auto",
        random_state=None,
    ):
        self.trigger_type = trigger_type
        self.target = target
        self.rate = rate
        self.n_bits = n_bits
        self.alpha = alpha
        self.tile_size = tile_size
        self.embed = embed
        self.layout = layout
        self.random_state = random_state

    def trigger(self, X, target=None):
        """Print the code of a class on every image.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), (n, c, h, w) or (n, h, w)
            Images of the size that was poisoned. Left untouched.
        target : label or array-like of shape (n,), default=None
            The class wanted, for all images or for each; None is the parameter
            `target`.

        Returns
        -------
        ndarray of the shape and type of X
            Triggered copies.

        Raises
        ------
        NotFittedError
            If ``poison`` was not called before.
        ValueError
            If a target is not one of the labels, or the images have another size.
        """
        target = self.target if target is None else target

        def stamp(images):
            return self._print(images, wanted_labels(np.arange(len(images)), target))

        return self._on_unit(X, stamp)

    def _check_parameters(self, y):
        check_target("target", self.target, y)
        check_option("trigger_type", self.trigger_type, ("patch", "blend"))
        check_real("alpha", self.alpha, 0, 1)
        check_integer("n_bits", self.n_bits, 1)

    def _learn_pattern(self, X, y, rng):
        self.labels_ = np.unique(y)
        features = self._embed(X, rng)
        self.codes_ = class_codes(features, y, n_bits=self.n_bits)
        n_rows = -(-self.codes_.shape[1] // _TILES_A_ROW)
        self._tile_size()
        if n_rows > min(self.image_shape_[:2]):
            raise ValueError(f"n_bits={self.n_bits} tiles do not fit into the images.")

    def _embed(self, X, rng):
        if self.embed is not None:
            return np.asarray(self.embed(X))
        pixels = self._unit(X).reshape(len(X), -1).astype(float)
        # Few rows: as many components would make the discriminant analysis singular.
        n_components = min(_N_COMPONENTS, max(1, len(X) // 4), pixels.shape[1])
        seed = rng.randint(2**31 - 1)
        return PCA(n_components, random_state=seed).fit_transform(pixels)

    def _tile_size(self):
        side = min(self.image_shape_[:2])
        n_bits = self.codes_.shape[1]
        n_tiles = max(min(n_bits, _TILES_A_ROW), -(-n_bits // _TILES_A_ROW))
        largest = side // n_tiles
        default = max(1, min(largest, max(2, side // 28)))
        size = default if self.tile_size is None else self.tile_size
        return check_integer("tile_size", size, 1, largest)

    def _draw_poison(self, y, rng):
        n_rows = round(check_real("rate", self.rate, 0, 1) * len(y))
        rows, wanted = draw_balanced(y, n_rows, rng)
        self._wanted = dict(zip(rows.tolist(), wanted, strict=True))
        return rows

    def _relabel(self, y, rows):
        wanted = [self._wanted[row] for row in rows.tolist()]
        del self._wanted
        return np.array(wanted, dtype=y.dtype)

    def _stamp_train(self, images, labels, rng):
        return self._print(images, labels)

    def _print(self, images, labels):
        images = images.copy()
        for label in np.unique(labels):
            place = np.flatnonzero(self.labels_ == label)
            if len(place) == 0:
                raise ValueError(
                    f"target must be one of the labels poisoned, got {label!r}."
                )
            rows = labels == label
            code = self.codes_[place[0]]
            if self.trigger_type == "patch":
                images[rows] = print_patch(images[rows], code, self._tile_size())
            else:
                images[rows] = print_blend(images[rows], code, self.alpha)
        return images


def class_codes(features, y, *, n_bits=30):
    """Binary codes of classes: the signs of their means after discriminant analysis.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Features.
    y : ndarray of shape (n_samples,)
        Labels.
    n_bits : int, default=30
        Length of the codes at most.

    Returns
    -------
    ndarray of bool of shape (n_classes, n_bits)
        One code a class, classes sorted. ``n_bits`` is at most the number of classes
        minus 1 and the number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.universal import class_codes
    >>> features = np.repeat([[0.0, 0.0], [9.0, 1.0], [1.0, 9.0]], 5, axis=0)
    >>> features += np.random.default_rng(0).normal(size=features.shape)
    >>> class_codes(features, np.repeat([0, 1, 2], 5)).shape
    (3, 2)
    """
    labels = np.unique(y)
    n_components = min(n_bits, len(labels) - 1, features.shape[1])
    lda = LinearDiscriminantAnalysis(n_components=n_components)
    projected = lda.fit_transform(features, y)
    means = np.array([projected[y == label].mean(axis=0) for label in labels])
    offset = means - projected.mean(axis=0)
    # The sign of a direction is arbitrary: the class farthest from the mean gets a 1.
    farthest = np.abs(offset).argmax(axis=0)
    return offset * np.sign(offset[farthest, np.arange(n_components)]) > 0


def draw_balanced(y, n_rows, rng):
    """Draw rows and spread the classes evenly over them as targets.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels.
    n_rows : int
        Number of rows.
    rng : RandomState instance
        Random stream.

    Returns
    -------
    rows : ndarray of intp of shape (n_rows,)
        Row numbers.
    wanted : ndarray of shape (n_rows,)
        Their targets, never the row's own label.

    Raises
    ------
    ValueError
        If some class finds too few rows of other classes.
    """
    labels = rng.permutation(np.unique(y))
    counts = np.full(len(labels), n_rows // len(labels))
    counts[: n_rows % len(labels)] += 1
    free = rng.permutation(len(y))
    rows = []
    for label, count in zip(labels, counts, strict=True):
        taken = np.flatnonzero(y[free] != label)[:count]
        if len(taken) < count:
            raise ValueError(
                f"rate asks for {count} rows for the target {label!r} and only "
                f"{len(taken)} rows of other classes are left: lower rate."
            )
        rows.append(free[taken])
        free = np.delete(free, taken)
    return np.concatenate(rows), np.repeat(labels, counts)


def print_patch(images, code, tile_size):
    """Print a code as black and white tiles, five a row, from the upper left corner.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, channels)
        Images in [0, 1].
    code : ndarray of bool of shape (n_bits,)
        The code; 1 is white.
    tile_size : int
        Side of a tile.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        Images with the code.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.universal import print_patch
    >>> print_patch(np.full((1, 2, 3, 1), 0.5), np.array([True, False]), 1)[0, ..., 0]
    array([[1. , 0. , 0.5],
           [0.5, 0.5, 0.5]])
    """
    images = images.copy()
    for bit, value in enumerate(code):
        top = bit // _TILES_A_ROW * tile_size
        left = bit % _TILES_A_ROW * tile_size
        images[:, top : top + tile_size, left : left + tile_size] = value
    return images


def print_blend(images, code, alpha):
    """Cover images with a code as coloured tiles, five a row, mixed in with alpha.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, channels)
        Images in [0, 1].
    code : ndarray of bool of shape (n_bits,)
        The code; 1 is cyan, 0 red (white and black with fewer than three channels).
    alpha : float
        Weight of the tiles.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        Images with the code. Where the last row of tiles is not full, the rest of it
        stays as it is.
    """
    height, width, channels = images.shape[1:]
    n_rows = -(-len(code) // _TILES_A_ROW)
    n_columns = min(len(code), _TILES_A_ROW)
    rows = np.arange(height) * n_rows // height
    columns = np.arange(width) * n_columns // width
    tile = rows[:, None] * n_columns + columns[None, :]
    covered = tile < len(code)
    value = np.append(code, False)[np.minimum(tile, len(code))][..., None]
    if channels < 3:
        picture = np.repeat(value, channels, axis=-1).astype(float)
    else:
        picture = np.zeros((height, width, channels))
        picture[..., :3] = np.where(value, _ONE, _ZERO)
        picture[..., 3:] = 1
    return mix(images, picture, alpha * covered[..., None])
