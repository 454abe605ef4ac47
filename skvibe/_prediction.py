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

_CHUNK = 4096


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
    # Copies: loaded with a memory map, the arrays are read-only.
    prototypes = torch.from_numpy(np.array(vibe.prototypes_))
    log_prior = torch.log(torch.from_numpy(np.array(vibe.prior_)))
    blocks = []
    for start in range(0, len(X), _CHUNK):
        block = X[start : start + _CHUNK]
        if vibe._encoder is None:
            # float64, so that a row's result does not depend on its neighbours.
            features = unit_rows(torch.from_numpy(np.array(block, dtype=float)))
        else:
            features = encode_inputs(vibe, block, _device(vibe)).cpu().double()
        cosines = features @ prototypes.T
        blocks.append(clean_log_posterior(cosines, log_prior, vibe.kappa))
    return torch.cat(blocks).numpy()


def score_rows(vibe, X, given):
    """Poison scores of rows with the codes of the labels given to them."""
    log_proba = torch.from_numpy(log_posterior(vibe, X))
    given = torch.from_numpy(given)
    return poison_score_from_log_posterior(log_proba, given).numpy()


def unit_features(vibe, X):
    """Unit features of validated rows."""
    if vibe._encoder is None:
        return unit_rows(torch.from_numpy(np.array(X))).numpy()
    return encode_inputs(vibe, X, _device(vibe)).cpu().numpy()


@torch.no_grad()
def encode_inputs(vibe, X, device):
    """Unit features of encoder inputs, batch by batch, in evaluation mode."""
    was_training = vibe._encoder.training
    vibe._encoder.eval()
    blocks = []
    for start in range(0, len(X), vibe.batch_size):
        rows = np.array(X[start : start + vibe.batch_size])
        batch = torch.from_numpy(rows).to(device).float()
        blocks.append(unit_rows(torch.flatten(vibe._encoder(batch), start_dim=1)))
    vibe._encoder.train(was_training)
    return torch.cat(blocks)


def _device(vibe):
    return next(vibe._encoder.parameters(), torch.empty(0)).device
