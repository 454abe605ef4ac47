"""A trigger seen only after an encoder: a displacement of feature vectors."""

import numpy as np
from sklearn.utils import check_array

from skvibe._checks import check_real
from skvibe.attacks.base import BaseAttack, CleanLabelMixin, check_poisoned, draw_rows


class FeatureShift(CleanLabelMixin, BaseAttack):
    """Move feature vectors along one direction and give the attacker's label.

    This is how most triggers look to a frozen encoder: whatever is planted in the
    input, the embedding moves by nearly the same vector. The strength can be swept to
    see where a defence breaks. It is not an attack of the literature but a model of
    one.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes; with ``clean_label=True`` see `rate_of`.
    strength : float >= 0, default=1.0
        Length of the displacement, in units of the root mean square distance of the
        rows from their mean.
    direction : {"random", "target"} or array-like of shape (n_features,), \
default="random"
        A random direction, the one from the mean of the other classes to the mean of
        the target, or one given; only the direction counts, not the length.
    clean_label : bool, default=False
        Poison rows of the target class and leave their labels true.
    rate_of : {"all", "target"}, default="all"
        With ``clean_label=True``, whether `rate` is a share of the whole set or of the
        target class.
    keep_norm : bool, default=False
        Scale each displaced row back to its own length, as encoders that normalise
        would.
    random_state : int, RandomState instance or None, default=None
        Seed of the direction and of the choice of rows.

    Attributes
    ----------
    shift_ : ndarray of shape (n_features,)
        The displacement.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import FeatureShift
    >>> X = np.random.default_rng(0).normal(size=(30, 5))
    >>> y = np.arange(30) % 3
    >>> attack = FeatureShift(target=1, rate=0.1, strength=2.0, random_state=0)
    >>> data = attack.poison(X, y)
    >>> data
    PoisonedData(30 rows, 3 poisoned, 0 cover)
    >>> np.allclose(data.X[data.mask] - X[data.mask], attack.shift_)
    True
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        strength=1.0,
        direction="random",
        clean_label=False,
        rate_of="all",
        keep_norm=False,
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.strength = strength
        self.direction = direction
        self.clean_label = clean_label
        self.rate_of = rate_of
        self.keep_norm = keep_norm
        self.random_state = random_state

    def trigger(self, X):
        """Displace every row by the displacement of the last ``poison``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Feature vectors. Left untouched.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Displaced copies, of the same floating type.

        Raises
        ------
        NotFittedError
            If ``poison`` was not called before.
        ValueError
            If the number of features differs.
        """
        check_poisoned(self, "shift_")
        X = self._check_rows(X)
        if X.shape[1] != len(self.shift_):
            raise ValueError(
                f"X has {X.shape[1]} features, the trigger was made for "
                f"{len(self.shift_)}."
            )
        return shift_rows(X, self.shift_, keep_norm=self.keep_norm)

    def _check_rows(self, X):
        return check_array(X, dtype=[np.float64, np.float32, np.float16])

    def _learn_trigger(self, X, y, rng):
        strength = check_real("strength", self.strength, 0)
        direction = self._find_direction(X, y, rng)
        spread = np.sqrt(X.astype(float).var(axis=0).sum())
        self.shift_ = strength * spread * direction

    def _find_direction(self, X, y, rng):
        if not isinstance(self.direction, str):
            direction = np.asarray(self.direction, dtype=float)
            if direction.shape != X.shape[1:]:
                raise ValueError(
                    f"direction has shape {direction.shape}, the rows {X.shape[1:]}."
                )
        elif self.direction == "random":
            direction = rng.normal(size=X.shape[1])
        elif self.direction == "target":
            of_target = y == self.target
            to = X[of_target].mean(axis=0, dtype=float)
            direction = to - X[~of_target].mean(axis=0, dtype=float)
        else:
            raise ValueError(
                "direction must be 'random', 'target' or an array of shape "
                f"(n_features,), got {self.direction!r}."
            )
        length = np.linalg.norm(direction)
        if not (np.isfinite(length) and length > 0):
            raise ValueError("direction has no finite length above 0: give another.")
        return direction / length

    def _draw_poison(self, y, rng):
        if self.clean_label:
            return super()._draw_poison(y, rng)
        return draw_rows(y != self.target, self.rate, rng)

    def _plant(self, X, labels, rng):
        return self.trigger(X)


def shift_rows(X, shift, *, keep_norm=False):
    """Rows moved by a vector, scaled back to their own length if asked.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    shift : ndarray of shape (n_features,)
        Displacement.
    keep_norm : bool, default=False
        Whether each row keeps its length.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Moved rows, of the type of X.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.embeddings import shift_rows
    >>> X, shift = np.array([[3.0, 0.0]]), np.array([0.0, 3.0])
    >>> shift_rows(X, shift, keep_norm=True).round(2)
    array([[2.12, 2.12]])
    """
    moved = X + shift
    if keep_norm:
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        own = np.linalg.norm(X.astype(float), axis=1, keepdims=True)
        moved *= own / np.where(length > 0, length, 1)
    return moved.astype(X.dtype)
