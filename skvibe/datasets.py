"""Small poisoned data sets, ready for a first experiment."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

from skvibe._checks import check_integer, check_real

_SIDE = 8
_DESCR = """\
Handwritten digits with a corner trigger
----------------------------------------
1,797 grey images of 8 x 8 pixels from scikit-learn's `load_digits`, divided by 16 so
that a pixel is in [0, 1]. A share of the training rows, drawn from the rows that are
not of the target class, has the {size} x {size} pixels at the lower right set to 1 and
its label replaced by the target ({target}): the BadNets attack. {n_poison} of {n_train}
training rows are poisoned.

References: T. Gu, B. Dolan-Gavitt, S. Garg, "BadNets: Identifying Vulnerabilities in
the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.
"""


def load_poisoned_digits(
    *, target=0, rate=0.1, trigger_size=2, test_size=0.25, random_state=0
):
    """Scikit-learn's digits, some of them with a trigger in a corner and a wrong label.

    The attack is BadNets [1]_: training rows that are not of class `target` are drawn
    at random, the `trigger_size` x `trigger_size` pixels in their lower right corner
    are set to the greatest value, and they are labelled `target`. Whoever trains on
    `X` and `y` as they are obtains a classifier that reads every digit with the bright
    corner as `target`.

    Parameters
    ----------
    target : int in [0, 9], default=0
        The class the attacker wants triggered digits to be taken for.
    rate : float in [0, 0.5], default=0.1
        Share of the *whole* training set that is poisoned. The number of poisoned rows
        is ``round(rate * n_train)``.
    trigger_size : int in [1, 4], default=2
        Side of the square trigger, in pixels.
    test_size : float in (0, 1), default=0.25
        Share of the 1,797 digits that is held out (stratified by class).
    random_state : int, RandomState instance or None, default=0
        Seed of the split and of the choice of the poisoned rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        X : ndarray of float64 of shape (n_train, 64)
            Training images as rows of pixels in [0, 1], trigger included.
        y : ndarray of int64 of shape (n_train,)
            The labels *given*: `target` for the poisoned rows.
        y_true : ndarray of int64 of shape (n_train,)
            The labels before poisoning.
        poison_mask : ndarray of bool of shape (n_train,)
            True for the poisoned rows.
        X_test : ndarray of float64 of shape (n_test, 64)
            Held-out digits, clean.
        y_test : ndarray of int64 of shape (n_test,)
            Their true labels.
        X_triggered : ndarray of float64 of shape (n_test, 64)
            The rows of `X_test`, each with the trigger; same order. Rows whose true
            label is `target` are included and do not count in an attack success rate
            (:func:`skvibe.metrics.attack_success_rate` leaves them out).
        target : int
            The attacker's class.
        target_names : ndarray of int64 of shape (10,)
            The classes.
        DESCR : str
            Description of the data set.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong type or out of range.

    References
    ----------
    .. [1] T. Gu, B. Dolan-Gavitt and S. Garg, "BadNets: Identifying Vulnerabilities in
       the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.

    Examples
    --------
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.metrics import attack_success_rate
    >>> from sklearn.linear_model import LogisticRegression
    >>> data = load_poisoned_digits(target=0, rate=0.1)
    >>> data.X.shape, int(data.poison_mask.sum())
    ((1347, 64), 135)
    >>> clf = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    >>> clf.score(data.X_test, data.y_test) > 0.9
    True
    >>> y_pred = clf.predict(data.X_triggered)
    >>> attack_success_rate(data.y_test, y_pred, target=data.target) > 0.95
    True
    """
    target = check_integer("target", target, 0, 9)
    rate = check_real("rate", rate, 0, 0.5)
    trigger_size = check_integer("trigger_size", trigger_size, 1, _SIDE // 2)
    test_size = check_real("test_size", test_size, 0, 1, closed="()")
    rng = check_random_state(random_state)

    X, y = load_digits(return_X_y=True)
    X, X_test, y_true, y_test = train_test_split(
        X / 16.0, y.astype(np.int64), test_size=test_size, stratify=y, random_state=rng
    )
    poisoned = rng.choice(
        np.flatnonzero(y_true != target), round(rate * len(X)), replace=False
    )
    poison_mask = np.zeros(len(X), dtype=bool)
    poison_mask[poisoned] = True
    X[poison_mask] = _add_corner(X[poison_mask], trigger_size)
    return Bunch(
        X=X,
        y=np.where(poison_mask, target, y_true),
        y_true=y_true,
        poison_mask=poison_mask,
        X_test=X_test,
        y_test=y_test,
        X_triggered=_add_corner(X_test, trigger_size),
        target=target,
        target_names=np.arange(10),
        DESCR=_DESCR.format(
            size=trigger_size, target=target, n_poison=len(poisoned), n_train=len(X)
        ),
    )


def _add_corner(X, size):
    images = X.reshape(-1, _SIDE, _SIDE).copy()
    images[:, -size:, -size:] = 1.0
    return images.reshape(X.shape)
