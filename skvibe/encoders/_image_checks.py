"""What every estimator that takes images asks of them."""

import numpy as np
from sklearn.utils.validation import validate_data

from skvibe._removed_rows import check_finite_rows, find_removed


def validate_images(estimator, X, *, fitting):
    """Validated images, uint8 or float32; those in a file stay there.

    Parameters
    ----------
    estimator : BaseEstimator
        Gets ``n_features_in_`` if `fitting`.
    X : array-like of shape (n_samples, height, width[, channels]) or \
(n_samples, channels, height, width)
        Images.
    fitting : bool
        True: at least two images, and rows that are NaN everywhere (removed by a
        filter) are left out.

    Returns
    -------
    ndarray of uint8 or float32
        Images that are kept.
    """
    X = validate_data(
        estimator,
        X,
        reset=fitting,
        dtype="numeric",
        ensure_all_finite=not fitting,
        allow_nd=True,
        ensure_min_samples=2 if fitting else 1,
    )
    if X.ndim not in (3, 4):
        raise ValueError(
            f"{type(estimator).__name__} takes images, of shape (n_samples, height, "
            f"width[, channels]); got an array of {X.ndim} dimensions. Use "
            "X.reshape(-1, height, width) for rows of pixels."
        )
    if X.size == 0:
        raise ValueError(f"Images must have pixels; got an array of shape {X.shape}.")
    X = _narrow(X)
    if fitting and X.dtype == np.float32:
        removed = find_removed(X)
        check_finite_rows(X, removed, type(estimator).__name__)
        if removed.any():
            return X[~removed]
    return X


def count_channels(images):
    """Channels of a batch of images, whichever axis they are on."""
    if images.ndim == 3:
        return 1
    return images.shape[1] if images.shape[1] in (1, 3, 4) else images.shape[3]


def _narrow(X):
    """uint8 and float32 as they are; other types as uint8 if it fits, else float32."""
    if X.dtype in (np.uint8, np.float32):
        return X
    if X.dtype.kind in "iub" and X.min() >= 0 and X.max() <= 255:
        return X.astype(np.uint8)
    with np.errstate(over="ignore"):
        narrow = X.astype(np.float32)
    if X.dtype.kind == "f" and (np.isinf(narrow) & np.isfinite(X)).any():
        raise ValueError(
            "X holds values too large for float32. Scale images to [0, 1] or give "
            "them as uint8."
        )
    return narrow
