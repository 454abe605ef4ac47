"""Find a group of rows apart from all the others: poison far off the data manifold.

k-nearest-neighbour graph, Leiden communities (one more than there are classes), the
distance of each community from the others, and the decision. `OffManifoldFilter` and
`OffManifoldSampler` only wrap `detect_off_manifold`.
"""

import logging
import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.utils import check_random_state

from skvibe._checks import check_integer, check_option, check_real
from skvibe._progress import tell
from skvibe.class_distances import WhitenedDirections, whitened_directions
from skvibe.communities import community_links, find_communities
from skvibe.community_geometry import nearest_centroid
from skvibe.knn import find_neighbors, neighbor_edges, transformer_edges
from skvibe.off_manifold_decision import judge_by_class, judge_by_community

MIN_ROWS = 100
"""With fewer rows the detector abstains."""

DECISIONS = {
    "removed": "one group of communities was removed",
    "too_few_rows": "too few rows, nothing was searched",
    "none_far": "no community is farther from the others than the threshold",
    "not_apart": "the far communities send too many edges outside to be groups",
    "whole_class": "the far communities are (nearly) all rows of a given class",
    "mixed_labels": "the far communities carry several labels and are not cut off",
    "not_alone": "other groups of one label lie far from the classes as well",
    "no_extra_group": "there are no more groups than classes",
    "too_large": "the farthest community holds more than max_removed of the rows",
}
"""What `OffManifoldResult.decision` can be, in words."""


@dataclass(frozen=True)
class OffManifoldResult:
    """What `detect_off_manifold` found.

    Attributes
    ----------
    removed : ndarray of bool of shape (n_samples,)
        Rows to remove. With ``distance="signed"`` the rows nearest to the centroid of
        the removed group, with "classes" those of its class on its side of a line,
        with "paper" the community.
    communities : ndarray of int64 of shape (n_samples,)
        Community of each row, 0 the largest; all 0 if the detector abstained.
    distances : ndarray of float64 of shape (n_communities,)
        Distance statistic of each community; pieces of one cluster share theirs.
    conductances : ndarray of float64 of shape (n_communities,)
        Share of the edges of each community (pieces of one cluster together) that
        lead outside, less what its size forces.
    groups : ndarray of int64 of shape (n_communities,)
        Communities with the same number were judged to be pieces of one cluster.
    centroids : ndarray of float64 of shape (n_groups, n_features)
        Mean features of each group, with ``distance="classes"`` in whitened directions.
    far_group : int
        Number of the removed group, -1 if none.
    threshold : float
        The threshold at this number of groups.
    resolution : float
        Resolution of the Leiden run, NaN if the detector abstained.
    decision : str
        A key of `DECISIONS`.
    whitening : WhitenedDirections or None
        Map from features to the space of the centroids; None if that is the same.
    """

    removed: np.ndarray
    communities: np.ndarray
    distances: np.ndarray
    conductances: np.ndarray
    groups: np.ndarray
    centroids: np.ndarray
    far_group: int
    threshold: float
    resolution: float
    decision: str
    whitening: WhitenedDirections | None = None

    @property
    def n_communities(self):
        """Number of communities found."""
        return len(self.distances)

    def is_off_manifold(self, features):
        """Which rows are nearer to the removed group than to any other.

        Parameters
        ----------
        features : array-like of shape (n_rows, n_features)
            Any rows, in the feature space of the detector.

        Returns
        -------
        ndarray of bool of shape (n_rows,)
            All False if nothing was removed.
        """
        if self.far_group < 0:
            return np.zeros(len(features), dtype=bool)
        features = np.asarray(features)
        if self.whitening is not None:
            features = self.whitening(features)
        nearest = nearest_centroid(features, self.centroids)
        return nearest == self.far_group


def detect_off_manifold(
    features,
    n_classes,
    *,
    y=None,
    n_neighbors=50,
    threshold=0.275,
    metric="euclidean",
    distance="signed",
    neighbors="auto",
    leiden="igraph",
    max_removed=0.3,
    random_state=None,
    n_jobs=None,
    verbose=0,
):
    """Decide which rows, if any, form a group apart from the rest.

    The rows are put into an order of their own first (by distance from their mean),
    so the order in which they are given does not change the result.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Finite features.
    n_classes : int
        Number of classes K; K + 1 communities are looked for, 3 K + 1 with
        ``distance="classes"``.
    y : array-like of shape (n_samples,), default=None
        Given labels. Used only to spare a community that is a whole class or
        carries several labels; without them nothing is removed unless there are more
        groups than classes. ``distance="classes"`` needs them.
    n_neighbors : int, default=50
        Neighbours of a row in the graph.
    threshold : float, default=0.275
        A community farther from the others than this may be removed. In the paper's
        scale at ten classes: with equal distances r between the others, an outlier
        passes 0.275 at 1.44 r.
        `skvibe.community_geometry.calibrate_threshold` keeps that ratio at any K.
    metric : str, default="euclidean"
        For the graph; see `skvibe.knn.find_neighbors`.
    distance : {"signed", "classes", "paper"}, default="signed"
        "signed" counts only communities farther out than the others, and adds the
        safeguards under Notes. "classes" measures them against the classes as given,
        in whitened directions: for features in which communities are not classes,
        such as those of an encoder trained briefly on the images themselves, and
        for poison whose labels are true (Notes). "paper" is the statistic of the
        authors' code, with the threshold taken as it is: it also removes a community
        at the centre, and, with two or three classes, a whole class.
    neighbors : {"auto", "exact", "pynndescent"} or object, default="auto"
        How neighbours are searched, or an object whose ``fit_transform(features)``
        returns a sparse graph, such as `KNeighborsTransformer`; ``n_neighbors`` and
        ``metric`` then do not apply.
    leiden : {"igraph", "leidenalg"}, default="igraph"
        Implementation of Leiden.
    max_removed : float, default=0.3
        Largest share of the rows that may be removed. If the farthest community is
        larger, nothing is removed and a warning given.
    random_state : int, RandomState instance or None, default=None
        Seed of Leiden and of pynndescent.
    n_jobs : int, default=None
        Threads of the neighbour search.
    verbose : int, default=0
        Above 0, print how far the stages are and what each found.

    Returns
    -------
    OffManifoldResult
        What was found, and why rows are removed or not.

    Notes
    -----
    With ``distance="signed"`` a far community is spared if (1) it is not a group:
    more than 0.35 of its edges lead outside; (2) it holds more than 0.9 of a given
    class; (3) no label is given to more than 0.85 of its rows, and more than 0.05 of
    its edges lead outside: an attacker plants one label, or keeps one, while rows
    that lie apart by what they show (thin strokes, a blue background) carry several
    and have neighbours elsewhere; or (4) no labels are given and there are no more
    groups than classes.
    Two communities count as one group if they look like one cluster cut in two:
    centroids closer than 1.5 summed standard deviations along the line between
    them, or 0.25 of the edges of the smaller one lead to the other. Without this
    two plain clusters, the first cut in two to reach K + 1, would make an outlier
    of the second. The distances are taken after five reassignments of the rows to
    the nearest group centroid, and the rows removed are those nearest to the
    removed group's: on sentences with a trigger this raised the share of poison
    among them from about 0.75 to 0.9.

    With ``distance="classes"`` features become unit vectors, are whitened (without
    labels) and made unit vectors again; the distance of a community is that of its
    centroid among the centroids of the classes, whose rows in it are left out; and
    there are no pieces to be joined, since a community that is cut in two does not
    change the classes. The safeguards are the same, without allowance for communities
    smaller than a neighbourhood, more than 0.95 of the rows must carry one label, and
    no other such group may lie half as far: classes that are made of several clusters
    are natural. If a community is removed, the rows that go are those of its class on
    its side of the line (Fisher's discriminant) between it and the rest of the class.
    With a small encoder and four classes of CIFAR-10 this found 498 of 500 images
    with a sine wave, where "signed" found 481, and 250 of 250 with bright corners,
    where "signed" found none. It finds no poison whose labels are wrong unless that
    makes a group as well.

    References
    ----------
    I. Sabolić, M. Grcić, S. Šegvić. Seal Your Backdoor with Variational Defense.
    ICCV 2025. Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.off_manifold import detect_off_manifold
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((660, 8)) * 0.1
    >>> X[:300, 0] += 1.0  # class a
    >>> X[300:600, 1] += 1.0  # class b
    >>> X[600:, 2] += 4.0  # a group apart
    >>> result = detect_off_manifold(X, 2, random_state=0)
    >>> result.decision, bool(result.removed[600:].all()), int(result.removed.sum())
    ('removed', True, 60)
    """
    n_classes = check_integer("n_classes", n_classes, low=2)
    n_neighbors = check_integer("n_neighbors", n_neighbors, low=1)
    threshold = check_real("threshold", threshold, low=0.0, closed="()")
    max_removed = check_real("max_removed", max_removed, 0.0, 1.0)
    check_option("distance", distance, ("signed", "classes", "paper"))
    if distance == "classes" and y is None:
        raise ValueError('distance="classes" needs y, the given labels; got None.')
    check_option("leiden", leiden, ("igraph", "leidenalg"))
    if isinstance(neighbors, str):
        check_option("neighbors", neighbors, ("auto", "exact", "pynndescent"))
    elif not hasattr(neighbors, "fit_transform"):
        raise TypeError(
            "neighbors must be 'auto', 'exact', 'pynndescent' or an object with "
            f"fit_transform, such as KNeighborsTransformer; got {neighbors!r}."
        )
    rng = check_random_state(random_state)
    features = np.asarray(features)
    n = len(features)
    least = max(MIN_ROWS, n_neighbors + 1)
    if n < least:
        warnings.warn(
            f"Only {n} rows: at least {least} (the larger of {MIN_ROWS} and "
            "n_neighbors + 1) are needed to look for off-manifold rows. Nothing was "
            "removed.",
            UserWarning,
            stacklevel=3,
        )
        return _abstain(features)

    order = canonical_order(features)
    features = features[order]
    whitening, n_wanted = None, n_classes + 1
    if distance == "classes":
        # More communities than classes: a class falls into what its rows show.
        whitening, n_wanted = whitened_directions(features), 3 * n_classes + 1
        features = whitening(features)
    if isinstance(neighbors, str):
        found = find_neighbors(
            features,
            n_neighbors,
            metric=metric,
            method=neighbors,
            random_state=rng,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        edges = neighbor_edges(found)
        del found
    else:
        edges = transformer_edges(neighbors, features)
    _report(verbose, f"graph: {n} rows, {len(edges)} edges")
    partition = find_communities(
        edges,
        n,
        n_wanted,
        features=features,
        backend=leiden,
        random_state=rng,
        verbose=verbose,
    )
    labels = partition.labels
    _report(
        verbose,
        f"Leiden: {partition.n_communities} communities at resolution "
        f"{partition.resolution:.3g} ({partition.n_runs} runs, "
        f"{partition.n_merged} merged)",
    )
    if partition.n_communities != n_wanted:
        times = "three times " if distance == "classes" else ""
        warnings.warn(
            f"{partition.n_communities} communities were found instead of "
            f"{n_wanted} ({times}the number of classes + 1), which makes the "
            "off-manifold decision less reliable. Lower n_neighbors or check the "
            "number of classes.",
            UserWarning,
            stacklevel=3,
        )
    links = community_links(labels, edges, partition.n_communities)
    y = None if y is None else np.asarray(y)[order]
    limits = {"threshold": threshold, "max_removed": max_removed}
    if distance == "classes":
        judged = judge_by_class(features, labels, links, y, **limits)
    else:
        judged = judge_by_community(
            features,
            labels,
            links,
            y,
            n_classes=n_classes,
            n_neighbors=n_neighbors,
            signed=distance == "signed",
            **limits,
        )
    distances, level, decision = judged.distances, judged.level, judged.decision
    _report(verbose, f"farthest {distances.max():.3f}, level {level:.3f}: {decision}")
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    return OffManifoldResult(
        removed=judged.removed[place],
        communities=labels[place],
        distances=distances[judged.groups],
        conductances=judged.conductances[judged.groups],
        groups=judged.groups,
        centroids=judged.centroids,
        far_group=judged.far_group,
        threshold=level,
        resolution=partition.resolution,
        decision=decision,
        whitening=whitening,
    )


def canonical_order(features):
    """Order of the rows that does not depend on how they are given or rotated.

    By distance from the mean; rows at the same distance by their values.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        The rows.

    Returns
    -------
    ndarray of int64 of shape (n_samples,)
        Row numbers.
    """
    centre = features.mean(axis=0, dtype=np.float64)
    reach = np.empty(len(features))
    for start in range(0, len(features), 4096):
        gaps = features[start : start + 4096] - centre
        reach[start : start + 4096] = np.einsum("ij,ij->i", gaps, gaps)
    # Differences by the order of summation must not split ties.
    grid = reach.max(initial=0.0) * 2.0**-44
    if grid > 0:
        reach = np.rint(reach / grid)
    order = np.argsort(reach, kind="stable")
    tied = np.diff(reach[order]) == 0
    tied = np.concatenate([[False], tied]) | np.concatenate([tied, [False]])
    spots = np.flatnonzero(tied)
    if len(spots):
        rows = order[spots]
        keys = np.vstack([features[rows].T[::-1], reach[rows]])
        order[spots] = rows[np.lexsort(keys)]
    return order


def _abstain(features):
    n = len(features)
    return OffManifoldResult(
        removed=np.zeros(n, dtype=bool),
        communities=np.zeros(n, dtype=np.int64),
        distances=np.zeros(1),
        conductances=np.zeros(1),
        groups=np.zeros(1, dtype=np.int64),
        centroids=features.mean(axis=0, dtype=np.float64)[None],
        far_group=-1,
        threshold=np.inf,
        resolution=np.nan,
        decision="too_few_rows",
    )


def _report(verbose, message):
    tell("off-manifold", message, verbose > 0, level=logging.INFO)
