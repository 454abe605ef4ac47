"""Which given labels are believed, and what follows from the believed ones.

Two things are read off the rows that can be trusted: how large the classes really
are, and an ordinary classifier that is sharper than the prototypes.
"""

import numpy as np

# A class share within this factor of 1 / n_classes counts as equal. Poison moves
# shares too, so a small deviation must not loosen the balance that keeps it out.
EQUAL_SHARES_FACTOR = 1.3
# The refit is stricter than a coin flip: a handful of triggered rows is enough for an
# ordinary classifier to learn the trigger, so doubtful rows stay out. Rows enter with
# the label given below the first poison score, with the clean one above the second.
KEEP_SCORE = 0.4
RELABEL_SCORE = 0.8


def trusted_rows(given, clean, scores):
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


def refit_labels(given, clean, scores):
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


def class_shares(predicted, n_classes):
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
