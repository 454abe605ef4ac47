"""Groups measured against the given classes instead of against one another.

Communities of the features of an encoder that was trained briefly are not classes: they
are backgrounds, colours and strokes, and poison of a class is divided among them. Two
changes show it. In whitened directions a trigger counts as much as a background, so the
poisoned rows find one another; and the centroids of the *given* classes, of which a
clean-label attacker cannot change a label, are what a group is held against.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils import gen_batches

from skvibe.community_geometry import community_distances

# Share of the mean variance added to every direction's.
_SHRINKAGE = 0.1
# Times that the line between a group and its class is drawn.
_REDRAWN = 5
# A group, or what is left of its class, of fewer rows than this is not grown.
_FEWEST = 10
# Unit vectors nearer to one another than this are equal.
_ROUNDING = 1e-12
_BLOCK = 4096


@dataclass(frozen=True)
class WhitenedDirections:
    """A map of rows to unit vectors that vary about as much in all directions.

    Attributes
    ----------
    mean : ndarray of float64 of shape (n_features,)
        Of the unit vectors it was fitted to.
    matrix : ndarray of float64 of shape (n_features, n_features)
        Symmetric; what centred unit vectors are multiplied by.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features):
        """Map rows.

        Parameters
        ----------
        features : array-like of shape (n_rows, n_features)
            Rows as they are, of any length.

        Returns
        -------
        ndarray of shape (n_rows, n_features)
            Unit vectors of the same float type; a row equal to the mean is zero.
        """
        features = np.asarray(features)
        mapped = np.empty(features.shape, np.result_type(features.dtype, np.float32))
        for rows in gen_batches(len(features), _BLOCK):
            gaps = _unit(features[rows]) - self.mean
            # What is left of rows equal to the mean is rounding.
            gaps[np.linalg.norm(gaps, axis=1) < _ROUNDING] = 0.0
            mapped[rows] = _unit(gaps @ self.matrix)
        return mapped


def whitened_directions(features):
    """Fit the map: the length of rows is taken out, then most of what all share.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Rows. Labels are not asked for.

    Returns
    -------
    WhitenedDirections
        Every direction is divided by the root of its variance plus a tenth of the
        mean variance, which keeps directions of nothing but noise small.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.class_distances import whitened_directions
    >>> X = np.random.default_rng(0).standard_normal((500, 3)) * [9.0, 1.0, 1.0]
    >>> whitened_directions(X)(X).std(axis=0).round(1)
    array([0.8, 0.4, 0.4])
    """
    features = np.asarray(features)
    n, n_features = features.shape
    total, products = np.zeros(n_features), np.zeros((n_features, n_features))
    for rows in gen_batches(n, _BLOCK):
        total += _unit(features[rows]).sum(axis=0)
    mean = total / n
    for rows in gen_batches(n, _BLOCK):
        gaps = _unit(features[rows]) - mean
        products += gaps.T @ gaps
    variances, axes = np.linalg.eigh(products / n)
    variances = np.maximum(variances, 0.0)
    floor = _SHRINKAGE * variances.mean()
    scales = 1.0 / np.sqrt(variances + floor) if floor > 0 else np.ones(n_features)
    return WhitenedDirections(mean, (axes * scales) @ axes.T)


def distances_from_classes(features, groups, codes):
    """How much farther each group lies from the classes than they do from one another.

    The statistic of `skvibe.community_geometry.community_distances`, of the centroid
    of the group among the centroids of the classes, whose rows in the group are left
    out.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Rows.
    groups : ndarray of int of shape (n_samples,)
        Group of each row, every number from 0 used.
    codes : ndarray of int of shape (n_samples,)
        Given class of each row, every number from 0 used.

    Returns
    -------
    ndarray of float64 of shape (n_groups,)
        In [-1, 1]. Classes that lie in the group whole have no centroid; if fewer
        than two have one, -1.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.class_distances import distances_from_classes
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0]])
    >>> distances_from_classes(X, np.array([0, 0, 1]), np.array([0, 1, 0])).round(2)
    array([-1.  ,  0.44])
    """
    n_groups, n_classes = groups.max() + 1, codes.max() + 1
    sums, sizes = _class_sums(features, codes, n_classes)
    distances = np.full(n_groups, -1.0)
    for group in range(n_groups):
        rows = groups == group
        sums_inside, sizes_inside = _class_sums(features[rows], codes[rows], n_classes)
        left = sizes - sizes_inside
        held = left > 0
        if held.sum() < 2:
            continue
        classes = (sums - sums_inside)[held] / left[held, None]
        own = sums_inside.sum(axis=0) / sizes_inside.sum()
        distances[group] = community_distances(np.vstack([classes, own]))[-1]
    return distances


def _class_sums(features, codes, n_classes):
    """Sum of the rows of each class, and their number."""
    sums = np.zeros((n_classes, features.shape[1]))
    for code in np.unique(codes):
        sums[code] = features[codes == code].sum(axis=0, dtype=np.float64)
    return sums, np.bincount(codes, minlength=n_classes)


def grow_group(features, in_class, in_group):
    """Move the border of a group within its class to where a line parts the two.

    A community holds the poison that looks alike. The direction in which it differs
    from the rest of its class is the trigger's, and along it lies also the poison that
    was counted among other communities. Group and rest count as equally likely.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Rows.
    in_class : ndarray of bool of shape (n_samples,)
        Rows of the class.
    in_group : ndarray of bool of shape (n_samples,)
        Rows of the group; those outside the class are dropped.

    Returns
    -------
    ndarray of bool of shape (n_samples,)
        The group, after a few redrawings of the line or when it no longer moves.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.class_distances import grow_group
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 4))
    >>> X[:80, 0] += 9.0
    >>> community = np.arange(200) < 50
    >>> int(grow_group(X, np.ones(200, dtype=bool), community).sum())
    80
    """
    rows = np.flatnonzero(in_class)
    inside = in_group[rows]
    for _ in range(_REDRAWN):
        if min(inside.sum(), len(rows) - inside.sum()) < _FEWEST:
            break
        line = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=[0.5, 0.5]
        )
        before, inside = (
            inside,
            line.fit(features[rows], inside).predict(features[rows]),
        )
        if (inside == before).all():
            break
    grown = np.zeros(len(features), dtype=bool)
    grown[rows[inside]] = True
    return grown


def _unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    # In two steps: squares of very small or large numbers are not finite.
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-300)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
