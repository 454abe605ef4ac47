"""What a classifier publishes when training is over, and the refit on it."""

import functools

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from skvibe._prediction import score_rows, unit_features
from skvibe._progress import tell
from skvibe.posteriors import poisoning_log_rule, unit_rows
from skvibe.trust import look_into_doubts, refit_labels, trusted_rows


def publish_em(vibe, net, inputs, given, exact=True):
    """Set what EM has found, aligned with the rows given to fit.

    Without ``exact`` poison scores are those of the net's own rows, in single
    precision: enough to compare settings, and `publish_scores` has to follow.

    Returns
    -------
    bool
        Whether nobody interrupted the fit, here or earlier.
    """
    keep, n_classes = vibe.train_mask_, len(vibe.classes_)
    module = net.module_
    vibe.net_ = net
    vibe.history_ = net.history
    if vibe.train_encoder:
        vibe._encoder = module.encoder
    prototypes = unit_rows(module.prototypes.detach().double())
    corrupted = unit_rows(module.corrupted.detach().double())
    log_prior = module.log_prior().detach().double()
    vibe.prototypes_ = prototypes.cpu().numpy()
    vibe._n_features_out = vibe.prototypes_.shape[1]
    vibe.corrupted_prototypes_ = corrupted.cpu().numpy()
    vibe.prior_ = torch.softmax(log_prior, dim=0).cpu().numpy()
    rule = poisoning_log_rule(prototypes @ corrupted.T, vibe.nu_).exp()
    vibe.poisoning_rule_ = rule.cpu().numpy()

    state = net.em_
    clean_proba, final = _to_the_end(net.final_e_step)
    if not final:
        state.interrupt()
    vibe.lower_bounds_ = np.array(state.lower_bounds)
    vibe.label_changes_ = np.array(state.label_changes)
    vibe.converged_ = state.converged
    vibe.n_iter_ = state.iteration
    if keep.all():  # large: not a second time
        vibe.clean_proba_ = np.ascontiguousarray(clean_proba)
    else:
        vibe.clean_proba_ = np.zeros((len(given), n_classes), dtype=np.float32)
        vibe.clean_proba_[np.arange(len(given)), given] = 1
        vibe.clean_proba_[keep] = clean_proba
    whole = state.finished
    vibe.clean_labels_ = vibe.classes_[vibe.clean_proba_.argmax(axis=1)]
    if not exact:
        _set_scores(vibe, given, net.poison_scores().cpu().numpy())
    # The training data do not travel with the model, and make room for the rest.
    del net.em_, state, clean_proba
    return publish_scores(vibe, inputs, given) and whole if exact else whole


def publish_scores(vibe, inputs, given):
    """Set the poison scores; returns whether nobody interrupted that."""
    keep = vibe.train_mask_
    scores, whole = _to_the_end(lambda: score_rows(vibe, inputs, given[keep]))
    if not whole:
        vibe.converged_ = False
    _set_scores(vibe, given, scores)
    return whole


def _set_scores(vibe, given, scores):
    vibe.poison_scores_ = np.ones(len(given))
    vibe.poison_scores_[vibe.train_mask_] = scores
    clean = vibe.clean_proba_.argmax(axis=1)
    trusted = trusted_rows(given, clean, vibe.poison_scores_)
    vibe.trusted_mask_ = vibe.train_mask_ & trusted


def _to_the_end(work):
    """What ``work()`` returns, and whether nobody pressed Ctrl-C meanwhile.

    Without it there is no model: it is begun again, and a second Ctrl-C ends the fit.
    """
    try:
        return work(), True
    except KeyboardInterrupt:
        return work(), False


def publish_refit(vibe, inputs, given, seed):
    """Set the classifier that predicts; returns whether nobody interrupted it."""
    if vibe.refit is False:
        vibe.refit_classifier_ = None
        return True
    keep, refit, whole = vibe.train_mask_, None, True
    try:
        features = _rows_of(vibe, inputs)
        doubts = look_into_doubts(
            features,
            given[keep],
            vibe.trusted_mask_[keep],
            len(vibe.classes_),
            np.random.default_rng(seed),
        )
        refit = _fit_refit(vibe, features, given[keep], doubts, seed)
        _publish_planted(vibe, given[keep], doubts)
    except KeyboardInterrupt:
        # What was learned is worth more: the prototypes predict.
        whole = vibe.converged_ = False
    vibe.refit_classifier_ = refit
    return whole


def _rows_of(vibe, inputs):
    """Function from row numbers to unit features; an encoder is asked only once."""
    if vibe._encoder is not None:
        return unit_features(vibe, inputs).__getitem__
    return functools.partial(unit_features, vibe, inputs)


def _fit_refit(vibe, features, given, doubts, seed):
    """An ordinary classifier on the rows whose label is known well enough."""
    clean = vibe.clean_proba_[vibe.train_mask_].argmax(axis=1)
    scores = vibe.poison_scores_[vibe.train_mask_]
    mask, labels = refit_labels(given, clean, scores, doubts)
    for missing in np.setdiff1d(given, labels[mask]):
        # A class without one trusted row: its own rows are all there is.
        mask |= given == missing
        labels[given == missing] = missing
    if len(np.unique(labels[mask])) < 2:
        # Every clean label is of one class: nothing for a classifier to learn.
        return None
    if vibe.refit is True:
        classifier = LogisticRegression(C=10, max_iter=1000)
    else:
        classifier = clone(vibe.refit)
    if classifier.get_params().get("random_state", 0) is None:
        classifier.set_params(random_state=seed)
    message = f"{np.count_nonzero(mask)} of {len(mask)} rows"
    tell("refit", message, vibe.verbose > 0)
    return classifier.fit(features(np.flatnonzero(mask)), labels[mask])


def _publish_planted(vibe, given, doubts):
    """Rows that EM trusted and that carry a trigger: what it said of them is wrong."""
    planted = np.flatnonzero(doubts.planted)
    rows = np.flatnonzero(vibe.train_mask_)[planted]
    proba = doubts.proba.copy()
    # Any class but the one given, as the judge ranks them.
    proba[np.arange(len(planted)), given[planted]] = 0
    proba /= np.maximum(proba.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    vibe.clean_proba_[rows] = proba
    vibe.clean_labels_[rows] = vibe.classes_[proba.argmax(axis=1)]
    vibe.poison_scores_[rows] = 1
    vibe.trusted_mask_[rows] = False
