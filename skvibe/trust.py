"""Which given labels are believed, and what follows from the believed ones.

Three things are read off the rows that can be trusted: how large the classes really
are, whether the relabelling of the others is to be believed, and an ordinary classifier
that is sharper than the prototypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from torch import Tensor

# Of one kind: all arrays, or all tensors.
_Rows = TypeVar("_Rows", np.ndarray, "Tensor")
# A class share within this factor of 1 / n_classes counts as equal. Poison moves
# shares too, so a small deviation must not loosen the balance that keeps it out.
EQUAL_SHARES_FACTOR = 1.3
# The refit is stricter than a coin flip: a handful of triggered rows is enough for an
# ordinary classifier to learn the trigger, so doubtful rows stay out. Rows enter with
# the label given below the first poison score, with the clean one above the second.
KEEP_SCORE = 0.4
RELABEL_SCORE = 0.8
# No single row decides: its log-likelihood ratio counts up to this much.
_LARGEST_RATIO = 5.0


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


def refit_labels(
    given: np.ndarray, clean: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels for an ordinary classifier after EM.

    Rows trusted with a margin keep their label. Rows whose clean label is another one
    beyond reasonable doubt come in under that label: triggered rows with their true
    class are what teaches a classifier that the trigger means nothing.

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
    mask : ndarray of bool of shape (n_samples,)
        Rows to use.
    labels : ndarray of int of shape (n_samples,)
        Label of each row; meaningful where ``mask``.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trust import refit_labels
    >>> mask, labels = refit_labels(
    ...     np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.1, 0.99, 0.6])
    ... )
    >>> mask, labels[mask]
    (array([ True,  True, False]), array([0, 1]))
    """
    kept = (given == clean) & (scores < KEEP_SCORE)
    relabelled = (given != clean) & (scores > RELABEL_SCORE)
    return kept | relabelled, np.where(kept, given, clean)


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
    judge = LogisticRegression(C=10, tol=1e-3, max_iter=1000)
    judge.fit(trusted_X, trusted_labels)
    n_classes = 1 + max(given.max(), clean.max(), trusted_labels.max())
    proba = np.zeros((len(changed_X), n_classes))
    proba[:, judge.classes_] = judge.predict_proba(changed_X)
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
