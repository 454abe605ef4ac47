"""How removed rows travel through a plain scikit-learn Pipeline.

A filter cannot drop rows there, so it writes NaN into every feature of a removed
row and the classifier leaves such rows out. The poison's feature values no longer
exist downstream: a learner that does not know the convention raises on NaN or
ignores the row, it cannot train on the poison by accident.
"""

import numpy as np


def find_removed(X: np.ndarray) -> np.ndarray:
    """Mask of the rows that are NaN in every feature.

    Parameters
    ----------
    X : ndarray of shape (n_samples, ...)
        Rows of any trailing shape.

    Returns
    -------
    ndarray of bool of shape (n_samples,)
        True for removed rows. Integer arrays have none.
    """
    if X.dtype.kind != "f":
        return np.zeros(len(X), dtype=bool)
    flat = X.reshape(len(X), -1)
    if flat.shape[1] == 0:
        return np.zeros(len(X), dtype=bool)
    # The first column rules out almost every row, so the whole array is not read.
    removed = np.isnan(flat[:, 0])
    candidates = np.flatnonzero(removed)
    removed[candidates] = np.isnan(flat[candidates]).all(axis=1)
    return removed


def mark_removed(X: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Float copy of ``X`` with NaN in every feature of the removed rows.

    float32 and float64 keep their type; every other type becomes float32.
    """
    marked = np.array(X, dtype=float_dtype(X.dtype))
    marked[removed] = np.nan
    return marked


def float_dtype(dtype: np.dtype) -> np.dtype:
    """The float type in which the rows of an array of type ``dtype`` travel."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def check_finite_rows(X: np.ndarray, removed: np.ndarray, who: str) -> None:
    """Raise unless every row is either removed as a whole or finite."""
    if X.dtype.kind != "f":
        return
    if removed.any():
        if X.reshape(len(X), -1).shape[1] == 1:
            raise ValueError(
                f"Input X of {who} contains NaN and has one feature, so a removed row "
                "cannot be told from a missing value. Give at least 2 features or "
                "drop the rows yourself."
            )
        if removed.all():
            raise ValueError(
                f"Every row of X given to {who} is NaN (removed): no rows are left. "
                "Raise the threshold or lower max_removed of the filter before it."
            )
        X = X[~removed]
    if not np.isfinite(X).all():
        raise ValueError(
            f"Input X of {who} contains NaN or infinity in some features of a row. "
            "Only rows that are NaN in every feature (removed by a filter) are "
            "accepted: impute or drop the others."
        )
