"""How well a classifier stood up to a backdoor attack."""

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d


def attack_success_rate(y_true, y_pred, *, target, labels=None):
    """Share of triggered rows that are classified as the attacker wants.

    Rows whose true label is already the attacker's are left out: for them a correct
    answer and a successful attack are the same thing.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of the rows.
    y_pred : array-like of shape (n_samples,)
        Predictions for the same rows *with the trigger*.
    target : label, "all" or array-like of shape (n_samples,)
        The attacker's class; or one class for each row; or "all" for the all-to-all
        attack, which wants the class after the true one (the last one is followed by
        the first).
    labels : array-like of shape (n_classes,), default=None
        All classes in order, read only if ``target="all"``. Default: the sorted labels
        of `y_true`.

    Returns
    -------
    float in [0, 1]
        Attack success rate (ASR). It means nothing without its *control*, the same
        share for a classifier trained on clean data.

    Raises
    ------
    ValueError
        If the lengths differ, or if no row has a true label other than the target.

    References
    ----------
    .. [1] T. Gu, B. Dolan-Gavitt and S. Garg, "BadNets: Identifying Vulnerabilities in
       the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.

    Examples
    --------
    >>> from skvibe.metrics import attack_success_rate
    >>> attack_success_rate([0, 1, 1, 2], [0, 0, 1, 0], target=0)
    0.666...
    >>> attack_success_rate([0, 1, 2], [1, 2, 0], target="all")
    1.0
    """
    y_true, y_pred = column_or_1d(y_true), column_or_1d(y_pred)
    check_consistent_length(y_true, y_pred)
    wanted = wanted_labels(y_true, target, labels=labels)
    counted = y_true != wanted
    if not counted.any():
        raise ValueError(
            "No row of y_true has a label other than target, so there is nothing to "
            "attack. Give the triggered rows of the other classes."
        )
    return float(np.mean(y_pred[counted] == wanted[counted]))


def wanted_labels(y_true, target, *, labels=None):
    """The label the attacker wants for each row.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    target : label, "all" or array-like of shape (n_samples,)
        See :func:`attack_success_rate`.
    labels : array-like of shape (n_classes,), default=None
        All classes in order, read only if ``target="all"``. Default: the sorted labels
        of `y_true`.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels wanted.

    Raises
    ------
    ValueError
        If `target` has the wrong length, or `y_true` holds a label not in `labels`.

    Examples
    --------
    >>> from skvibe.metrics import wanted_labels
    >>> wanted_labels(["a", "b", "c"], "all").tolist()
    ['b', 'c', 'a']
    """
    y_true = column_or_1d(y_true)
    if isinstance(target, str) and target == "all":
        classes = np.unique(y_true) if labels is None else column_or_1d(labels)
        place = {label: i for i, label in enumerate(classes.tolist())}
        unknown = sorted(set(y_true.tolist()) - set(place), key=str)
        if unknown:
            raise ValueError(
                f"y_true holds {unknown[0]!r}, which is not in labels: "
                "give all classes."
            )
        following = [place[label] + 1 for label in y_true.tolist()]
        return classes[np.asarray(following, dtype=np.intp) % len(classes)]
    if np.ndim(target) == 0:
        return np.full(len(y_true), target)
    target = column_or_1d(target)
    if len(target) != len(y_true):
        raise ValueError(
            f"target has {len(target)} entries for {len(y_true)} rows: give one label, "
            "'all', or one label for each row."
        )
    return target
