"""Geometry of the communities: which are one cluster, and how far each lies."""

import numpy as np

# The number of groups at which `threshold` means what it means in the paper.
_REFERENCE_GROUPS = 11
# Two halves of a normal cluster lie 1.33 of their summed standard deviations apart,
# a tail and the rest up to 1.5, the halves of a uniform one 1.73; separate clusters
# above 2. In few dimensions this shows a cut cluster, in many the shared edges do.
_MIN_SEPARATION = 1.5
_MAX_SHARED_EDGES = 0.25


def community_distances(centroids, distance="signed"):
    """How much farther each centroid lies from all of them than the others do.

    With ``a_i`` the mean distance of centroid i to all centroids (itself included,
    at 0) over the largest such mean, the statistic is ``a_i - mean_{j != i} a_j``.

    Parameters
    ----------
    centroids : ndarray of shape (n_groups, n_features)
        At least two.
    distance : {"signed", "paper"}, default="signed"
        "paper" takes the absolute value, so that a group at the centre of the
        others scores as an outlier as well.

    Returns
    -------
    ndarray of float64 of shape (n_groups,)
        In [-1, 1]; without unit.

    References
    ----------
    I. Sabolić, M. Grcić, S. Šegvić. Seal Your Backdoor with Variational Defense.
    ICCV 2025. Algorithm 2, in the form the authors' code computes.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.community_geometry import community_distances
    >>> centroids = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0]])
    >>> community_distances(centroids).round(2)
    array([-0.22, -0.22,  0.44])
    """
    centroids = np.asarray(centroids, dtype=np.float64)
    gaps = np.array([np.linalg.norm(centroids - row, axis=1) for row in centroids])
    means = gaps.mean(axis=1)
    if len(means) < 2 or means.max() == 0.0:
        return np.zeros(len(means))
    means = means / means.max()
    deviations = means - (means.sum() - means) / (len(means) - 1)
    return np.abs(deviations) if distance == "paper" else deviations


def calibrate_threshold(threshold, n_groups):
    """Threshold that asks the same relative distance of an outlier at any K.

    If the other ``M - 1`` of M groups lie at equal distances r and one at a distance
    R from them all, it scores ``(M - 2) / (M - 1) (1 - r / R)``. The given threshold
    is the paper's at M = 11 (ten classes); at M it becomes
    ``threshold * (M - 2) / (M - 1) * 10 / 9``, so that the same R / r passes.

    Parameters
    ----------
    threshold : float
        Threshold at eleven groups.
    n_groups : int
        Number of groups M. Two groups cannot have an outlier: infinity.

    Returns
    -------
    float
        Threshold at this number of groups.

    Examples
    --------
    >>> from skvibe.community_geometry import calibrate_threshold
    >>> [round(calibrate_threshold(0.275, m), 3) for m in (2, 3, 4, 11, 101)]
    [inf, 0.153, 0.204, 0.275, 0.302]
    """
    if n_groups < 3:
        return np.inf
    reference = (_REFERENCE_GROUPS - 2) / (_REFERENCE_GROUPS - 1)
    return threshold * (n_groups - 2) / (n_groups - 1) / reference


def nearest_centroid(features, centroids):
    """Number of the nearest centroid of each row, ties to the lowest.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        The rows.
    centroids : ndarray of shape (n_centroids, n_features)
        The centroids.

    Returns
    -------
    ndarray of int64 of shape (n_samples,)
        Number of a centroid.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.community_geometry import nearest_centroid
    >>> nearest_centroid(np.array([[0.9], [0.2]]), np.array([[0.0], [1.0]]))
    array([1, 0])
    """
    centre = centroids.mean(axis=0)
    centroids = centroids - centre
    half = 0.5 * np.einsum("ij,ij->i", centroids, centroids)
    nearest = np.empty(len(features), dtype=np.int64)
    for start in range(0, len(features), 4096):
        rows = features[start : start + 4096] - centre
        nearest[start : start + 4096] = np.argmin(half - rows @ centroids.T, axis=1)
    return nearest


def refine_groups(features, assigned, n_steps):
    """Reassign rows to the nearest group centroid, a few times (Lloyd's steps).

    The community of a small group takes in neighbours that are not of it. A real
    group loses them here and moves out; a group without meaning takes in ever more
    and moves in.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        The rows.
    assigned : ndarray of int of shape (n_samples,)
        Group of each row, every number from 0 used.
    n_steps : int
        Reassignments. 0: groups as they are.

    Returns
    -------
    assigned : ndarray of int of shape (n_samples,)
        Number of the nearest of the centroids returned (with ``n_steps`` above 0).
    centroids : ndarray of float64 of shape (n_groups, n_features)
        One for each group, also if it has lost all its rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.community_geometry import refine_groups
    >>> refine_groups(np.array([[0.0], [1.0], [9.0]]), np.array([0, 1, 1]), 3)
    (array([0, 0, 1]), array([[0.5],
           [9. ]]))
    """
    n_groups = assigned.max() + 1
    centroids = _group_means(features, assigned, n_groups)
    for _ in range(n_steps):
        assigned = nearest_centroid(features, centroids)
        if len(np.unique(assigned)) < n_groups:
            break
        centroids = _group_means(features, assigned, n_groups)
    if n_steps:
        assigned = nearest_centroid(features, centroids)
    return assigned, centroids


def group_conductances(groups, sizes, links, n_neighbors):
    """Share of the edges of each group that lead outside it.

    Less the share that its size forces: of the neighbours of a row in a group of s
    rows at least ``n_neighbors + 1 - s`` are outside.

    Parameters
    ----------
    groups : ndarray of int of shape (n_communities,)
        Group of each community.
    sizes : ndarray of int of shape (n_communities,)
        Rows of each community.
    links : ndarray of shape (n_communities, n_communities)
        As `skvibe.communities.community_links` returns it.
    n_neighbors : int
        Neighbours of a row in the graph.

    Returns
    -------
    ndarray of float64 of shape (n_groups,)
        In [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.community_geometry import group_conductances
    >>> links = np.array([[6.0, 2.0], [2.0, 14.0]])
    >>> group_conductances(np.arange(2), np.array([8, 16]), links, 2)
    array([0.25 , 0.125])
    """
    member = np.eye(groups.max() + 1)[groups].T
    links = member @ links @ member.T
    outside = 1.0 - np.diag(links) / np.maximum(links.sum(axis=1), 1.0)
    return np.maximum(outside - _forced_outside(member @ sizes, n_neighbors), 0.0)


def _forced_outside(sizes, n_neighbors):
    """Share of edges that must lead outside because a group is below k + 1 rows."""
    return np.clip((n_neighbors + 1 - sizes) / n_neighbors, 0.0, 1.0)


def join_pieces(features, labels, links, n_neighbors):
    """Number communities so that the pieces of one cluster share a number.

    Two communities are pieces of one cluster if their centroids are closer than 1.5
    times the sum of their standard deviations along the line between them, or if
    more than a quarter of the edges of one lead to the other.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        The rows.
    labels : ndarray of int of shape (n_samples,)
        Community of each row.
    links : ndarray of shape (n_communities, n_communities)
        As `skvibe.communities.community_links` returns it.
    n_neighbors : int
        Neighbours of a row in the graph.

    Returns
    -------
    ndarray of int64 of shape (n_communities,)
        Group of each community, numbered from 0.
    """
    n_found = len(links)
    sizes = np.bincount(labels)
    centroids = _group_means(features, labels, n_found)
    degrees = np.maximum(links.sum(axis=1), 1.0)
    shared = links / degrees[:, None] - _forced_outside(sizes, n_neighbors)[:, None]
    np.fill_diagonal(shared, 0.0)
    same = np.maximum(shared, shared.T) > _MAX_SHARED_EDGES
    spreads = _directional_spreads(features, labels, centroids)
    gaps = np.array([np.linalg.norm(centroids - row, axis=1) for row in centroids])
    same |= gaps < _MIN_SEPARATION * (spreads + spreads.T)
    groups = np.arange(n_found)
    for i, j in zip(*np.nonzero(np.triu(same, 1)), strict=True):
        groups[groups == groups[j]] = groups[i]
    return np.unique(groups, return_inverse=True)[1]


def _directional_spreads(features, labels, centroids):
    """Standard deviation of community i along the line from its centroid to j's."""
    spreads = np.zeros((len(centroids), len(centroids)))
    for i in range(len(centroids)):
        rows = features[labels == i] - centroids[i]
        lines = centroids - centroids[i]
        lengths = np.linalg.norm(lines, axis=1)
        lines /= np.where(lengths > 0, lengths, 1.0)[:, None]
        spreads[i] = np.sqrt(np.mean((rows @ lines.T) ** 2, axis=0))
    return spreads


def _group_means(features, labels, n_groups):
    means = np.empty((n_groups, features.shape[1]))
    for i in range(n_groups):
        means[i] = features[labels == i].mean(axis=0, dtype=np.float64)
    return means
