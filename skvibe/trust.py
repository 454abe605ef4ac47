"""Which given labels are believed, and what follows from the believed ones.

Four things are read off the rows that can be trusted: how large the classes really
are, whether the relabelling of the others is to be believed, which of the others are
merely hard, and an ordinary classifier that is sharper than the prototypes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from sklearn.linear_model import LogisticRegression

from skvibe.planted import shared_displacement

if TYPE_CHECKING:
    from torch import Tensor

# Of one kind: all arrays, or all tensors.
_Rows = TypeVar("_Rows", np.ndarray, "Tensor")
# A class share within this factor of 1 / n_classes counts as equal. Poison moves
# shares too, so a small deviation must not loosen the balance that keeps it out.
EQUAL_SHARES_FACTOR = 1.3
# Where a trigger is suspected the refit is stricter than a coin flip: a handful of
# triggered rows is enough for an ordinary classifier to learn the trigger. Rows enter
# with the label given below the first score, with the clean one above the second.
KEEP_SCORE = 0.4
RELABEL_SCORE = 0.8
# A judge finds a label plausible that is no less probable than this share of the best.
PLAUSIBLE_RATIO = 0.1
# Along a suspected displacement, in standard deviations of the trusted rows: doubted
# rows below the first one do not carry it, any row above the second does. In between
# the judge must find no other label more probable.
_WITHOUT, _PLANTED = 1.0, 4.0
# Rows that a judge is fitted to.
JUDGE_ROWS = 4000
# No single row decides: its log-likelihood ratio counts up to this much.
_LARGEST_RATIO = 5.0
_BLOCK = 4096


def trusted_rows(given: _Rows, clean: _Rows, scores: _Rows) -> _Rows:
    """Rows whose given label is believed.

    Parameters
    ----------
    given : ndarray of int of shape (n_samples,)
        Codes of the given labels.
    clean : ndarray of int of shape (n_samples,)
        Codes of the inferred clean labels.
    scores : ndarray of shape (n_samples,)
        Poison scores.

    Returns
    -------
    ndarray of bool of shape (n_samples,)
        True where the clean label is the given one (the balance agrees) and no other
        class is more probable (the features agree).

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import trusted_rows
    >>> trusted_rows(np.array([0, 0]), np.array([0, 1]), np.array([0.1, 0.1]))
    array([ True, False])
    """
    return (given == clean) & (scores < 0.5)


@dataclass
class Doubts:
    """What is found out about doubted rows before a classifier is fitted again.

    Parameters
    ----------
    suspicious : ndarray of bool of shape (n_samples,)
        Rows whose class holds doubted rows that share a displacement.
    plausible : ndarray of bool of shape (n_samples,)
        Rows whose given label a judge finds plausible, or most probable where the row
        may carry such a displacement; none that does.
    planted : ndarray of bool of shape (n_samples,)
        Trusted rows that do carry one.
    proba : ndarray of shape (n_planted, n_classes)
        What the judge says of each planted row, ascending.
    """

    suspicious: np.ndarray
    plausible: np.ndarray
    planted: np.ndarray
    proba: np.ndarray


def look_into_doubts(
    features: Callable[[np.ndarray], np.ndarray],
    given: np.ndarray,
    trusted: np.ndarray,
    n_classes: int,
    random_state: np.random.Generator,
) -> Doubts:
    """Tell the hard rows among the doubted ones from those that may be poisoned.

    EM doubts every row that lies between classes, and a classifier that never sees
    those is worse for it. Two things speak for a doubted row: a judge that was fitted
    to trusted rows only finds its given label plausible, and it is not displaced as
    the doubted rows of its class are together (`skvibe.planted.shared_displacement`);
    displaced a little, only the most probable label is plausible. The same displacement
    betrays triggered rows that EM had trusted.

    Parameters
    ----------
    features : callable
        Gives the unit features, ndarray of shape (n, n_features), of the rows whose
        numbers it is called with.
    given : ndarray of int of shape (n_samples,)
        Codes of the given labels.
    trusted : ndarray of bool of shape (n_samples,)
        Rows whose label is believed.
    n_classes : int
        Number of classes.
    random_state : numpy.random.Generator
        Draws the rows that the judge is fitted to.

    Returns
    -------
    Doubts
        Nothing is plausible if rows of fewer than two classes are trusted.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import look_into_doubts
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 200)
    >>> X = rng.normal(size=(400, 10)) + 5 * labels[:, None]
    >>> trusted = np.arange(400) % 20 != 0
    >>> X[~trusted & (labels == 1)] = rng.normal(size=10)  # of the other class
    >>> doubts = look_into_doubts(X.__getitem__, labels, trusted, 2, rng)
    >>> bool(doubts.plausible[~trusted & (labels == 0)].all())
    True
    >>> bool(doubts.plausible[~trusted & (labels == 1)].any())
    False
    """
    n = len(given)
    nothing = np.zeros(n, dtype=bool)
    reference = judge_rows(np.flatnonzero(trusted), random_state)
    if len(np.unique(given[reference])) < 2:
        return Doubts(~nothing, nothing, nothing, np.zeros((0, n_classes)))
    judge = fit_judge(features(reference), given[reference])
    ratios = np.empty(n)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        proba = _class_proba(judge, features(rows), n_classes)
        own = proba[np.arange(len(rows)), given[rows]]
        ratios[rows] = own / proba.max(axis=1)
    shared = shared_displacement(features, given, trusted, reference, n_classes)
    suspicious = shared.suspicious[given]
    moved = suspicious & (shared.projections >= _WITHOUT)
    far = suspicious & (shared.projections > _PLANTED)
    planted = trusted & far
    proba = np.zeros((0, n_classes))
    if planted.any():
        proba = _class_proba(judge, features(np.flatnonzero(planted)), n_classes)
    plausible = np.where(moved, ratios == 1, ratios > PLAUSIBLE_RATIO) & ~far
    return Doubts(suspicious, plausible, planted, proba)


def refit_labels(
    given: np.ndarray, clean: np.ndarray, scores: np.ndarray, doubts: Doubts
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels for an ordinary classifier after EM.

    Trusted rows keep their label, in a suspicious class only with a margin, and so do
    doubted rows whose label is plausible. Rows whose clean label is another one beyond
    reasonable doubt come in under that label: triggered rows with their true class are
    what teaches a classifier that the trigger means nothing. Planted rows stay out.

    Parameters
    ----------
    given : ndarray of int of shape (n_samples,)
        Codes of the given labels.
    clean : ndarray of int of shape (n_samples,)
        Codes of the inferred clean labels.
    scores : ndarray of shape (n_samples,)
        Poison scores.
    doubts : Doubts
        From `look_into_doubts`.

    Returns
    -------
    mask : ndarray of bool of shape (n_samples,)
        Rows to use.
    labels : ndarray of int of shape (n_samples,)
        Label of each row; meaningful where ``mask``.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import Doubts, refit_labels
    >>> no = np.zeros(4, dtype=bool)
    >>> doubts = Doubts(no, np.array([True, True, False, False]), no, np.zeros((0, 2)))
    >>> mask, labels = refit_labels(
    ...     np.array([0, 1, 0, 1]),
    ...     np.array([0, 0, 1, 0]),
    ...     np.array([0.1, 0.9, 0.99, 0.6]),
    ...     doubts,
    ... )
    >>> mask, labels[mask]
    (array([ True,  True,  True, False]), array([0, 1, 1]))
    """
    trusted = trusted_rows(given, clean, scores)
    kept = trusted & ((scores < KEEP_SCORE) | ~doubts.suspicious)
    kept |= ~trusted & doubts.plausible
    relabelled = (given != clean) & (scores > RELABEL_SCORE) & ~kept
    return (kept | relabelled) & ~doubts.planted, np.where(kept, given, clean)


def judge_rows(trusted: np.ndarray, random_state: np.random.Generator) -> np.ndarray:
    """At most `JUDGE_ROWS` of the row numbers, ascending.

    Parameters
    ----------
    trusted : ndarray of int of shape (n_trusted,)
        Numbers of the trusted rows, ascending.
    random_state : numpy.random.Generator
        Draws them.

    Returns
    -------
    ndarray of int
        Themselves, if they are few.
    """
    if len(trusted) <= JUDGE_ROWS:
        return trusted
    return np.sort(random_state.choice(trusted, JUDGE_ROWS, replace=False))


def fit_judge(X: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Classifier of trusted rows, asked about the others.

    Parameters
    ----------
    X : ndarray of shape (n_trusted, n_features)
        Unit features.
    labels : ndarray of int of shape (n_trusted,)
        Their codes, of at least two classes.

    Returns
    -------
    LogisticRegression
        Fitted, with a coarse tolerance.
    """
    return LogisticRegression(C=10, tol=1e-3, max_iter=1000).fit(X, labels)


def _class_proba(
    judge: LogisticRegression, X: np.ndarray, n_classes: int
) -> np.ndarray:
    """Of all classes, zero for those that the judge has not seen."""
    proba = np.zeros((len(X), n_classes))
    proba[:, judge.classes_] = judge.predict_proba(X)
    return proba


def relabelling_gain(
    trusted_X: np.ndarray,
    trusted_labels: np.ndarray,
    changed_X: np.ndarray,
    given: np.ndarray,
    clean: np.ndarray,
    n_samples: int,
) -> float:
    """How far an independent classifier confirms the relabelling of rows.

    A classifier that has seen trusted rows only is asked, for every row that was given
    a new label, how much more probable the new one is than the old. Where poisoned
    rows were relabelled it has no reason to believe in the trigger and confirms them;
    where they stayed and clean rows had to go in their place it knows better, and
    denies it. The criterion looks at rows that it was not fitted to and at no constant
    of the model, so settings can be compared by it; no clean data are needed.

    It is blind where the judge is misled itself: by poison that is trusted whatever
    the setting.

    Parameters
    ----------
    trusted_X : ndarray of shape (n_trusted, n_features)
        Unit features of trusted rows.
    trusted_labels : ndarray of int of shape (n_trusted,)
        Codes of their labels.
    changed_X : ndarray of shape (n_changed, n_features)
        Unit features of the rows whose clean label is not the one given.
    given, clean : ndarray of int of shape (n_changed,)
        Codes of their labels given and of their clean labels.
    n_samples : int
        Number of all rows.

    Returns
    -------
    float
        Sum of the log-likelihood ratios, each within [-5, 5], over the number of
        rows: the higher, the better. 0 if no row was relabelled, -5 if rows of fewer
        than two classes are trusted.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import relabelling_gain
    >>> trusted, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
    >>> row = np.array([[0.0, 1.0]])
    >>> relabelling_gain(trusted, labels, row, np.array([0]), np.array([1]), 21) > 0
    True
    >>> relabelling_gain(trusted, labels, row, np.array([1]), np.array([0]), 21) > 0
    False
    """
    if len(np.unique(trusted_labels)) < 2:
        return -_LARGEST_RATIO
    if not len(changed_X):
        return 0.0
    judge = fit_judge(trusted_X, trusted_labels)
    n_classes = 1 + max(given.max(), clean.max(), trusted_labels.max())
    proba = _class_proba(judge, changed_X, n_classes)
    proba = np.maximum(proba, np.exp(-2 * _LARGEST_RATIO))
    rows = np.arange(len(proba))
    ratios = np.log(proba[rows, clean] / proba[rows, given])
    return float(ratios.clip(-_LARGEST_RATIO, _LARGEST_RATIO).sum() / n_samples)


def class_shares(predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Class shares counted from predictions; equal where nearly equal.

    Parameters
    ----------
    predicted : ndarray of int of shape (n_samples,)
        Codes of the classes predicted for all rows by a classifier that was fitted to
        trusted rows.
    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of shape (n_classes,)
        Positive, sums to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import class_shares
    >>> class_shares(np.repeat([0, 1], [52, 48]), 2)
    array([0.5, 0.5])
    >>> class_shares(np.repeat([0, 1], [89, 9]), 2)
    array([0.9, 0.1])
    """
    counts = np.bincount(predicted, minlength=n_classes) + 1.0
    shares = counts / counts.sum()
    if np.abs(np.log(shares * n_classes)).max() < np.log(EQUAL_SHARES_FACTOR):
        return np.full(n_classes, 1 / n_classes)
    return shares
