"""What a fitted classifier says of validated rows, block by block.

`vibe` is everywhere the fitted classifier. Removed rows and data validation are no
matter of this file.
"""

import numpy as np
import torch

from skvibe.posteriors import (
    clean_log_posterior,
    poison_score_from_log_posterior,
    unit_rows,
)
from skvibe.whitening import Whitening

_CHUNK = 1024


def predicted_log_proba(vibe, X):
    """Logarithm of what `predict_proba` returns."""
    if vibe.refit_classifier_ is None:
        return log_posterior(vibe, X)
    # A class whose rows were all removed is unknown to the refit.
    log_proba = np.full((len(X), len(vibe.classes_)), -np.inf)
    known = vibe.refit_classifier_.classes_
    for start in range(0, len(X), _CHUNK):
        block = slice(start, start + _CHUNK)
        # float64, so that a row's result does not depend on its neighbours.
        features = unit_features(vibe, X[block]).astype(np.float64)
        with np.errstate(divide="ignore"):
            log_rows = np.log(vibe.refit_classifier_.predict_proba(features))
        log_proba[block, known] = log_rows
    return log_proba


def log_posterior(vibe, X):
    """log p(l | x), float64, in blocks of rows."""
    return torch.cat(list(_log_posteriors(vibe, X))).numpy()


def _log_posteriors(vibe, X):
    # Copies: loaded with a memory map, the arrays are read-only.
    prototypes = torch.from_numpy(np.array(vibe.prototypes_))
    log_prior = torch.log(torch.from_numpy(np.array(vibe.prior_)))
    whiten = _whitening(vibe)
    for start in range(0, len(X), _CHUNK):
        block = X[start : start + _CHUNK]
        if vibe._encoder is None:
            # float64, so that a row's result does not depend on its neighbours.
            features = unit_rows(torch.from_numpy(np.array(block, dtype=float)))
        else:
            features = encode_inputs(vibe, block, _device(vibe)).cpu().double()
        cosines = whiten(features) @ prototypes.T
        yield clean_log_posterior(cosines, log_prior, vibe.kappa_)


def score_rows(vibe, X, given):
    """Poison scores of rows with the codes of the labels given to them."""
    scores = []
    codes = torch.from_numpy(given).split(_CHUNK)
    for log_proba, block in zip(_log_posteriors(vibe, X), codes, strict=True):
        scores.append(poison_score_from_log_posterior(log_proba, block))
    return torch.cat(scores).numpy()


def unit_features(vibe, X, rows=None):
    """Unit features of validated rows, or of those numbered in ``rows``."""
    if vibe._encoder is not None:
        X = X if rows is None else X[rows]
        return encode_inputs(vibe, X, _device(vibe)).cpu().numpy()
    # Block by block: nothing but the result is of the size of the data.
    out = np.empty((len(X) if rows is None else len(rows), X.shape[1]), X.dtype)
    for start in range(0, len(out), _CHUNK):
        block = slice(start, start + _CHUNK)
        features = X[block] if rows is None else X[rows[block]]
        out[block] = unit_rows(torch.from_numpy(np.array(features))).numpy()
    return out


def latent_features(vibe, X):
    """Unit vectors of the space in which the prototypes lie, of validated rows."""
    return _whitening(vibe)(torch.from_numpy(unit_features(vibe, X))).numpy()


def _whitening(vibe):
    """Function from unit features to latent ones."""
    if vibe.whitening_mean_ is None:
        return lambda features: features
    # Copies: loaded with a memory map, the arrays are read-only.
    parts = (vibe.whitening_mean_, vibe.whitening_directions_, vibe.whitening_scales_)
    return Whitening(*(torch.from_numpy(np.array(part)) for part in parts))


@torch.no_grad()
def encode_inputs(vibe, X, device):
    """Unit features of encoder inputs, batch by batch, in evaluation mode.

    Every part of the encoder is put back into the mode it had, also after an error.
    """
    modes = [(part, part.training) for part in vibe._encoder.modules()]
    blocks = []
    try:
        vibe._encoder.eval()
        for start in range(0, len(X), vibe.batch_size):
            rows = np.array(X[start : start + vibe.batch_size])
            batch = torch.from_numpy(rows).to(device).float()
            blocks.append(unit_rows(_checked_features(vibe._encoder(batch), len(rows))))
    finally:
        for part, training in modes:
            part.training = training
    return torch.cat(blocks)


def _checked_features(output, n_rows):
    """What an encoder returned for a batch, as a float matrix, or an error in words."""
    right = isinstance(output, torch.Tensor) and output.ndim > 1
    if not right or len(output) != n_rows or not output.numel() or output.is_complex():
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output)
        raise ValueError(
            "encoder must return a tensor with one row of real features per row "
            f"given: {n_rows} rows in, {got} out."
        )
    features = torch.flatten(output, start_dim=1)
    if not features.is_floating_point() or features.itemsize != 4:
        features = features.float()
    if not torch.isfinite(features).all():
        raise ValueError(
            "encoder returned NaN or infinity for some rows: check its weights and "
            "the scale of X."
        )
    return features


def _device(vibe):
    return next(vibe._encoder.parameters(), torch.empty(0)).device
