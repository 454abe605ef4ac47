"""What all attacks share: which rows are poisoned, what is returned."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d

from skvibe._checks import check_option, check_real


@dataclass(frozen=True, eq=False, repr=False)
class PoisonedData:
    """A training set after an attack, with the truth about it.

    Parameters
    ----------
    X : ndarray or list of str
        The rows, poisoned ones included, in the order, type and layout given.
    y : ndarray of shape (n_samples,)
        The labels a victim would train on.
    mask : ndarray of bool of shape (n_samples,)
        True for poisoned rows.
    cover_mask : ndarray of bool of shape (n_samples,)
        True for cover rows: they carry a trigger and keep their true label, to hide the
        attack. They are not poison, and detection figures count them as clean.
    y_true : ndarray of shape (n_samples,)
        The labels before the attack.
    indices : ndarray of intp of shape (n_poisoned,)
        Row numbers of the poisoned rows, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import FeatureShift
    >>> X, y = np.eye(4), np.array([0, 0, 1, 1])
    >>> FeatureShift(target=0, rate=0.25, random_state=0).poison(X, y)
    PoisonedData(4 rows, 1 poisoned, 0 cover)
    """

    X: Any
    y: np.ndarray
    mask: np.ndarray
    cover_mask: np.ndarray
    y_true: np.ndarray
    indices: np.ndarray

    def __repr__(self):
        return (
            f"{type(self).__name__}({len(self.y)} rows, {len(self.indices)} poisoned, "
            f"{int(self.cover_mask.sum())} cover)"
        )


class BaseAttack(BaseEstimator):
    """Template of an attack: learn the trigger, draw rows, plant it, relabel.

    The trigger, the rows and the noise of single rows each have a random stream of
    their own, so that the trigger depends on `random_state` and on the shape of a row
    but not on how many rows there are.
    """

    def poison(self, X, y):
        """Poison a training set.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or list of str
            Rows of the kind the attack is made for. Left untouched.
        y : array-like of shape (n_samples,)
            True labels. Left untouched.

        Returns
        -------
        PoisonedData
            The poisoned copy and the truth about it.

        Raises
        ------
        TypeError, ValueError
            If a parameter is of the wrong type or out of range, if `target` is not in
            `y`, or if `rate` asks for more rows than there are to draw from.
        """
        X, y = self._check_rows(X), column_or_1d(y)
        check_consistent_length(X, y)
        self._check_parameters(y)
        trigger_rng, row_rng, noise_rng = _split_stream(self.random_state)
        self._learn_trigger(X, y, trigger_rng)
        rows = np.sort(self._draw_poison(y, row_rng))
        cover = np.sort(self._draw_cover(y, rows, row_rng))

        poisoned, labels = X.copy(), y.copy()
        wanted = self._relabel(y, rows)
        if len(rows):
            poisoned[rows] = self._plant(X[rows], wanted, noise_rng)
            labels[rows] = wanted
        if len(cover):
            poisoned[cover] = self._plant_cover(X[cover], noise_rng)
        return PoisonedData(
            X=self._give_back(poisoned),
            y=labels,
            mask=_mask(rows, len(y)),
            cover_mask=_mask(cover, len(y)),
            y_true=y.copy(),
            indices=rows,
        )

    def _check_parameters(self, y):
        check_target("target", self.target, y)

    def _learn_trigger(self, X, y, rng):
        raise NotImplementedError

    def _draw_poison(self, y, rng):
        return draw_rows(y != self.target, self.rate, rng)

    def _draw_cover(self, y, taken, rng):
        return np.empty(0, dtype=np.intp)

    def _relabel(self, y, rows):
        return np.full(len(rows), self.target, dtype=y.dtype)

    def _give_back(self, X):
        return X


class CleanLabelMixin:
    """Poison rows of the target class and leave their labels true."""

    target: Any
    rate: float
    rate_of: str

    def _draw_poison(self, y, rng):
        of_target = y == self.target
        check_option("rate_of", self.rate_of, ("target", "all"))
        n_reference = int(of_target.sum()) if self.rate_of == "target" else len(y)
        return draw_rows(of_target, self.rate, rng, n_reference=n_reference)


def draw_rows(allowed, rate, rng, *, n_reference=None, name="rate"):
    """Draw ``round(rate * n_reference)`` of the allowed rows without replacement.

    Parameters
    ----------
    allowed : ndarray of bool of shape (n_samples,)
        The rows that may be drawn.
    rate : float in [0, 1]
        Share of `n_reference`.
    rng : RandomState instance
        Random stream.
    n_reference : int, default=None
        What `rate` is a share of; by default the whole set, ``len(allowed)``.
    name : str, default="rate"
        Name of the parameter, for the error message.

    Returns
    -------
    ndarray of intp
        Row numbers.

    Raises
    ------
    ValueError
        If there are not enough allowed rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.base import draw_rows
    >>> len(draw_rows(np.arange(10) < 6, 0.5, np.random.RandomState(0)))
    5
    """
    rate = check_real(name, rate, 0, 1)
    n_rows = round(rate * (len(allowed) if n_reference is None else n_reference))
    candidates = np.flatnonzero(allowed)
    if n_rows > len(candidates):
        raise ValueError(
            f"{name}={rate} asks for {n_rows} rows but only {len(candidates)} of "
            f"{len(allowed)} may be drawn: lower {name}."
        )
    return rng.choice(candidates, n_rows, replace=False)


def check_target(name, target, y):
    """Raise unless ``target`` is one of the labels in ``y``."""
    if np.ndim(target) != 0 or not np.any(y == target):
        labels = np.unique(y)
        shown = ", ".join(repr(label) for label in labels[:5].tolist())
        more = ", ..." if len(labels) > 5 else ""
        raise ValueError(
            f"{name} must be one of the labels in y ({shown}{more}), got {target!r}."
        )


def check_poisoned(attack, attribute):
    """Raise unless ``poison``, which makes the trigger, was called before."""
    if not hasattr(attack, attribute):
        raise NotFittedError(
            f"This {type(attack).__name__} has no trigger yet: call poison first."
        )


def _split_stream(random_state):
    seeds = check_random_state(random_state).randint(2**31 - 1, size=3)
    return [np.random.RandomState(seed) for seed in seeds]


def _mask(rows, n_rows):
    mask = np.zeros(n_rows, dtype=bool)
    mask[rows] = True
    return mask
