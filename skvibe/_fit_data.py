"""Data on their way into a classifier: validated, and as rows to train on."""

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skvibe._parameters import check_prior
from skvibe._prediction import encode_inputs
from skvibe._removed_rows import check_finite_rows, find_removed
from skvibe.posteriors import unit_rows
from skvibe.whitening import spread_of

_CHUNK = 4096


def check_fit_data(vibe, X, y):
    """Validated X and label codes; sets what is known before training."""
    X, y = validate_data(
        vibe,
        X,
        y,
        dtype=input_dtypes(vibe),
        ensure_all_finite=False,
        allow_nd=vibe.encoder is not None,
        ensure_min_samples=2,
        ensure_min_features=2 if vibe.encoder is None else 1,
    )
    check_classification_targets(y)
    removed = find_removed(X)
    check_finite_rows(X, removed, type(vibe).__name__)
    vibe.classes_, given = np.unique(y, return_inverse=True)
    if len(vibe.classes_) < 2:
        raise ValueError(
            f"{type(vibe).__name__} needs labels of at least 2 classes, got 1 "
            f"class ({vibe.classes_.tolist()[0]!r}) in y."
        )
    check_prior(vibe.prior, len(vibe.classes_))
    vibe.train_mask_ = ~removed
    vibe.n_removed_rows_ = int(removed.sum())
    if len(np.unique(given[~removed])) < 2:
        raise ValueError(
            f"Only one class is left in y after {vibe.n_removed_rows_} removed "
            "rows. Raise the threshold or lower max_removed of the filter."
        )
    return X, given


def check_predict_data(vibe, X):
    """Validated X of a fitted classifier; NaN is refused."""
    check_is_fitted(vibe)
    # The largest floats overflow in the sum that looks for NaN; they are finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return validate_data(
            vibe,
            X,
            reset=False,
            dtype=input_dtypes(vibe),
            allow_nd=vibe.encoder is not None,
        )


def input_dtypes(vibe):
    """Types of X that are kept as they are; scikit-learn converts the others."""
    # An encoder's integer inputs (images) stay as small as they are.
    return "numeric" if vibe.encoder is not None else [np.float64, np.float32]


def unit_training_rows(vibe, inputs, device):
    """Unit features of the rows to train on, float32 on the device."""
    if vibe._encoder is not None:
        return encode_inputs(vibe, inputs, device)
    features = torch.empty(inputs.shape, dtype=torch.float32, device=device)
    for start in range(0, len(inputs), _CHUNK):
        block = slice(start, start + _CHUNK)
        # A copy: inputs may be read-only, which torch does not know.
        features[block] = unit_rows(torch.from_numpy(np.array(inputs[block])))
    return features


def whiten_in_place(vibe, features, shrinkage, spread=None):
    """Whiten the rows and publish by what; nothing is done where it is None.

    Returns what a second whitening of the same rows need not find again.
    """
    vibe.whitening_ = shrinkage
    whiten = None
    if shrinkage is not None:
        spread = spread_of(features) if spread is None else spread
        whiten = spread.whitening(shrinkage)
        whiten(features, out=features)
    for name in ("mean", "directions", "scales"):
        value = None if whiten is None else getattr(whiten, name).cpu().numpy()
        setattr(vibe, f"whitening_{name}_", value)
    return spread
