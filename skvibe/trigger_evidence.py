"""How strong the evidence for a trigger is: two tests and their p-values.

A class is judged on its own by the log densities of its rows under two explanations,
and together with the others by whether their displacements agree.
"""

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

# Label noise may lie this far off its class's mean (within-class standard deviations).
REACH = 3.0
# Two displacements agree when their common part is the larger part of each.
AGREEMENT = np.sqrt(0.5)
# Starting points of the mixtures of a class: the best fit is one of so many.
N_STARTS = 4


def vuong_statistic(difference, groups):
    """Self-normalised sum of log-density differences; duplicates count as one.

    Where two models are equally close to the truth (in Kullback-Leibler divergence)
    it is standard normal for many rows [1]_, and for symmetric differences its tail is
    sub-Gaussian for any number of rows [2]_.

    Parameters
    ----------
    difference : ndarray of shape (n_rows,)
        Log density of each row under the first model less that under the second.
    groups : ndarray of int of shape (n_rows,)
        Identical rows carry the same number: their differences are not independent.

    Returns
    -------
    float
        Zero where the models agree on every row; never above the square root of the
        number of distinct rows.

    References
    ----------
    .. [1] Q. H. Vuong, "Likelihood ratio tests for model selection and non-nested
       hypotheses", Econometrica 57 (1989), doi:10.2307/1912557.
    .. [2] B. Efron, "Student's t-test under symmetry conditions", J. Amer. Statist.
       Assoc. 64 (1969), doi:10.1080/01621459.1969.10501056.

    Examples
    --------
    >>> import numpy as np
    >>> vuong_statistic(np.ones(9), np.arange(9))
    3.0
    >>> vuong_statistic(np.ones(9), np.zeros(9, dtype=int))
    1.0
    """
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=difference)
    spread = np.sqrt(np.square(sums).sum())
    return float(sums.sum() / spread) if spread > 0 else 0.0


def own_p_values(statistics):
    """Bonferroni-corrected p-values of the classes' own tests.

    Parameters
    ----------
    statistics : ndarray of shape (K,)
        NaN where not tested.

    Returns
    -------
    ndarray of shape (K,)
        Corrected for the number of classes tested and of starting points; 1 where
        not tested.
    """
    tested = np.isfinite(statistics)
    tail = norm.sf(np.where(tested, statistics, -np.inf))
    return np.minimum(tail * max(tested.sum(), 1) * N_STARTS, 1.0)


def across_p_values(shifts, offsets, sizes, eligible):
    """Corrected p-values of "this class's displacement is another class's too".

    With one source for each class (all-to-all) a moved group is one cloud and no class
    can be judged alone. Two natural facts must be ruled out for a pair of classes.
    Unrelated groups point in unrelated directions: in d whitened dimensions
    the cosine of their displacements has a known law. And a sub-topic that two
    classes share lies equally far from *their own* means, where moved rows lie equally
    far from the means of their sources: the group centres must fit the second better.

    Parameters
    ----------
    shifts : ndarray of shape (K, n_features)
        Whitened displacements of the groups from their sources.
    offsets : ndarray of shape (K, n_features)
        Whitened displacements of the groups from their own class.
    sizes : ndarray of shape (K,)
        Numbers of rows in the groups.
    eligible : ndarray of bool of shape (K,)
        Classes to compare.

    Returns
    -------
    p_values : ndarray of shape (K,)
        1 without a partner at a cosine above `AGREEMENT`.
    agreements : ndarray of shape (K,)
        Largest cosine with another eligible class, 0 without one.
    """
    n_classes, d = shifts.shape
    p_values, agreements = np.ones(n_classes), np.zeros(n_classes)
    classes = np.flatnonzero(eligible & (np.linalg.norm(shifts, axis=1) > REACH))
    if len(classes) < 2 or d < 3:
        return p_values, agreements
    cosine = np.clip(cosines(shifts[classes]), -1 + 1e-12, 1 - 1e-12)
    np.fill_diagonal(cosine, -1.0 + 1e-12)
    agreements[classes] = cosine.max(axis=1)
    p_direction = student_t.sf(cosine * np.sqrt((d - 1) / (1 - cosine**2)), d - 1)
    p_place = _same_place_p_values(shifts[classes], offsets[classes], sizes[classes])
    pairs = n_classes * (n_classes - 1) / 2
    p_pair = np.where(cosine > AGREEMENT, np.maximum(p_direction, p_place), 1.0)
    p_values[classes] = np.minimum(p_pair.min(axis=1) * pairs, 1.0)
    return p_values, agreements


def _same_place_p_values(shifts, offsets, sizes):
    """That two groups are no nearer each other seen from their sources, by pairs.

    Group centres have the identity over their size as covariance, so the difference of
    the two squared distances is normal, with a known variance.
    """
    from_sources = shifts[:, None] - shifts[None]
    from_own = offsets[:, None] - offsets[None]
    gain = np.square(from_own).sum(axis=2) - np.square(from_sources).sum(axis=2)
    lever = np.linalg.norm(from_own - from_sources, axis=2)
    variance = 1 / np.maximum(sizes, 1)
    spread = 2 * lever * np.sqrt(variance[:, None] + variance[None])
    return norm.sf(gain / np.maximum(spread, 1e-12))


def cosines(vectors):
    """Cosine of every pair of rows, shape (n_rows, n_rows)."""
    vectors = np.asarray(vectors, dtype=np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T
