"""The settings that a fit tries out, and which of them it keeps.

No single whitening, kappa and nu holds on all data: near the point where a backdoor
tips over, each lets some in that another keeps out. A few are tried, and the one whose
relabelling an independent classifier confirms best stays (`skvibe.trust`).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from skvibe._checkpoint import open_checkpoint
from skvibe._fit_data import unit_training_rows, whiten_in_place
from skvibe._fitting import fit_em
from skvibe._prediction import unit_features
from skvibe._progress import tell
from skvibe._publishing import publish_em, publish_scores
from skvibe._rows import place_rows
from skvibe.paper_settings import paper_concentration
from skvibe.trust import judge_rows, relabelling_gain

# Settings that differ on fewer rows than this share of those relabelled agree: the
# others need not be tried.
_AGREED = 0.1
# A gain below this: the relabelling is denied on the whole.
_DENIED = -0.01
# A class of which a smaller share stays trusted has vanished.
_VANISHED = 0.05


@dataclass(frozen=True)
class Setting:
    """What is tried: shrinkage of the whitening or None, kappa, nu, another prior."""

    whitening: float | None
    kappa: float
    nu: float
    prior: str | None = None


# They fail on different data; chosen among 8 on a part of the defence table's cells.
TRIALS = (Setting(0.1, 15, 10), Setting(0.3, 15, 15), Setting(0.1, 20, 15))


def settings_to_try(vibe):
    """The settings that a classifier's parameters leave open, without repetition.

    Parameters
    ----------
    vibe : VIBEClassifier
        With ``classes_``.

    Returns
    -------
    list of Setting
        One, where features are not whitened: then "auto" is the paper's value. With
        ``prior="auto"`` the last one takes the shares of the given labels.
    """
    if vibe.whitening is None or vibe.train_encoder:
        value = paper_concentration(len(vibe.classes_))
        open_settings = [Setting(None, value, value)]
    else:
        open_settings = list(TRIALS)
    settings = []
    for trial in open_settings:
        fixed = {
            name: float(getattr(vibe, name))
            for name in ("whitening", "kappa", "nu")
            if not isinstance(getattr(vibe, name), (str, type(None)))
        }
        if trial.whitening is None:
            fixed.pop("whitening", None)
        setting = Setting(**{**vars(trial), **fixed})
        if setting not in settings:
            settings.append(setting)
    is_auto = isinstance(vibe.prior, str) and vibe.prior == "auto"
    if is_auto and not vibe.train_encoder:
        # The last resort, where every relabelling is denied or a class has vanished:
        # classes so unequal that equal shares wipe out the small ones.
        settings.append(replace(settings[0], prior="empirical"))
    return settings


def open_checkpoints(vibe, inputs, given, seeds, device):
    """A setting to try and its checkpoint, for each; they share the seeds."""
    trials = []
    for setting in settings_to_try(vibe):
        checkpoint = open_checkpoint(vibe, inputs, given, seeds, device, vars(setting))
        seeds = checkpoint.seeds
        trials.append((setting, checkpoint))
    return trials


def fit_trials(vibe, inputs, given, trials, device):
    """Fit each setting and leave the best one published.

    Parameters
    ----------
    vibe : VIBEClassifier
        Gets the fitted attributes.
    inputs : ndarray of shape (n_rows, ...)
        Rows to train on.
    given : ndarray of int of shape (n_samples,)
        Codes of all labels given, removed rows included.
    trials : list of (Setting, Checkpoint)
        From `open_checkpoints`.
    device : torch.device
        Of the training.

    Returns
    -------
    bool
        Whether nobody interrupted the fit.
    """
    best, whole, warned = None, True, False
    # Encoding may take longer than all else: once for all trials.
    encoded = None if vibe.encoder is None else unit_training_rows(vibe, inputs, device)
    spread, agreed, several = None, False, len(trials) > 1
    for setting, checkpoint in trials:
        if best is not None and not _is_worth_trying(setting, best, agreed, given):
            continue
        checkpoint.warned = warned
        features = None  # those of the last setting make room first
        try:
            if encoded is None:
                features = unit_training_rows(vibe, inputs, device)
            else:
                features = encoded.clone()
            spread = _open_setting(vibe, features, setting, spread)
            whole = _fit_setting(
                vibe, inputs, features, given, checkpoint, setting, several
            )
        except KeyboardInterrupt:
            if best is None:
                raise
            # An earlier setting is there: what this one left is overwritten by it.
            whole = False
            break
        warned = checkpoint.warned
        agreed = best is not None and _agree(vibe, best, given)
        # An interrupted setting is all there is, or it is not in the running.
        new = _published(vibe)
        if best is None or (whole and _merit(new, given) > _merit(best, given)):
            best = new
        if not whole:
            break
    vars(vibe).update(best)
    if several:
        whole &= publish_scores(vibe, inputs, given)
    if not whole:
        vibe.converged_ = False
    return whole


def _open_setting(vibe, features, setting, spread):
    """Set what a setting says and whiten the rows; the spread of the rows before."""
    values = (f"{name}={value}" for name, value in vars(setting).items() if value)
    tell("EM", f"setting: {', '.join(values)}", vibe.verbose > 0)
    vibe.kappa_, vibe.nu_ = float(setting.kappa), float(setting.nu)
    return whiten_in_place(vibe, features, setting.whitening, spread)


def _fit_setting(vibe, inputs, features, given, checkpoint, setting, several):
    """Fit one setting and judge it; whether nobody interrupted that."""
    whole = _fit_one(vibe, inputs, features, given, checkpoint, setting.prior, several)
    vibe.relabelling_gain_ = 0.0
    return whole and _judge(vibe, inputs, given, checkpoint.seeds[0])


def _is_worth_trying(setting, best, agreed, given):
    if setting.prior is None:
        return not agreed
    minus_vanished, gain = _merit(best, given)
    return minus_vanished < 0 or gain < _DENIED


def _fit_one(vibe, inputs, features, given, checkpoint, prior, several):
    """Run EM and publish what it finds; whether nobody interrupted it."""
    codes = torch.from_numpy(given[vibe.train_mask_]).to(features.device)
    encoder, rows = None, features
    if vibe.train_encoder:
        encoder, rows = vibe._encoder, place_rows(inputs, features.device)
    seed, n_classes = checkpoint.seeds[0], len(vibe.classes_)
    net = fit_em(
        vibe, rows, features, codes, n_classes, seed, encoder, checkpoint, prior
    )
    # Scores to the last digit take long: of several settings only the best one's.
    return publish_em(vibe, net, inputs, given, exact=not several)


def _agree(vibe, other, given):
    """Whether two fits relabel nearly the same rows in the same way."""
    clean = vibe.clean_proba_.argmax(axis=1)
    before = other["clean_proba_"].argmax(axis=1)
    relabelled = np.count_nonzero((clean != given) | (before != given))
    return np.count_nonzero(clean != before) <= _AGREED * relabelled


def _merit(fitted, given):
    """What settings are compared by: classes that are left, then the gain.

    A judge that has hardly seen a class denies it too: it must not be asked whether
    the class may go.
    """
    n_classes = len(fitted["classes_"])
    trusted = np.bincount(given[fitted["trusted_mask_"]], minlength=n_classes)
    trained = np.bincount(given[fitted["train_mask_"]], minlength=n_classes)
    vanished = np.count_nonzero(trusted < _VANISHED * trained)
    return -vanished, fitted["relabelling_gain_"]


def _judge(vibe, inputs, given, seed):
    """Publish the relabelling gain; whether nobody interrupted that."""
    keep = vibe.train_mask_
    given = given[keep]
    clean = vibe.clean_proba_[keep].argmax(axis=1)
    trusted = np.flatnonzero(vibe.trusted_mask_[keep])
    trusted = judge_rows(trusted, np.random.default_rng(seed))
    changed = np.flatnonzero(clean != given)
    if not len(changed):
        return True
    if not len(trusted):
        vibe.relabelling_gain_ = -np.inf
        return True
    try:
        vibe.relabelling_gain_ = relabelling_gain(
            unit_features(vibe, inputs, trusted),
            given[trusted],
            unit_features(vibe, inputs, changed),
            given[changed],
            clean[changed],
            len(given),
        )
    except KeyboardInterrupt:
        return False
    return True


def _published(vibe):
    own = ("_n_features_out", "_encoder")
    return {
        name: value
        for name, value in vars(vibe).items()
        if name in own or (name.endswith("_") and not name.startswith("_"))
    }
