"""Which community, if any, is a planted group: distances, safeguards and the decision.

`judge_by_community` measures the communities against one another, `judge_by_class`
against the given classes.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from skvibe.class_distances import distances_from_classes, grow_group
from skvibe.community_geometry import (
    calibrate_threshold,
    community_distances,
    group_conductances,
    join_pieces,
    refine_groups,
)

# Edges a community may send outside: clusters 0.0, triggered sentences 0.22-0.26,
# small groups without meaning in clean sentences 0.40-0.55.
_MAX_CONDUCTANCE = 0.35
# Reassignments of rows to the nearest centroid before the decision.
_REFINEMENTS = 5
# A group with more than this share of a given class is that class.
_WHOLE_CLASS = 0.9
# Share of a planted group that carries one label: 0.88 to 0.99 (waves on digits and on
# CIFAR-10, sentences in TREC). Far groups of clean rows, in the features of encoders
# that were trained briefly: 0.39 to 0.84 (blue backgrounds, thin strokes). These send
# 0.09 to 0.18 of their edges outside; a group of several labels is removed only if it
# sends out fewer.
_ONE_LABEL = 0.85
_MIXED_CONDUCTANCE = 0.05
# The same share where groups are held against classes: poison whose labels are true
# 0.98 to 1.00, far groups of clean rows up to 0.87 (classes of two digits: 0.92).
_ONE_LABEL_OF_CLASS = 0.95
# Another group of one label at more than this share of the level: classes are made of
# such groups (digits in two classes: 0.8 to 0.95 of the farthest), and none is planted.
_RIVAL = 0.5


@dataclass(frozen=True)
class Judgement:
    """Groups of communities, their figures, and which one is removed.

    Attributes
    ----------
    removed : ndarray of bool of shape (n_samples,)
        Rows to remove.
    groups : ndarray of int of shape (n_communities,)
        Group of each community.
    distances, conductances : ndarray of float64 of shape (n_groups,)
        Figures of each group.
    centroids : ndarray of float64 of shape (n_groups, n_features)
        Means of the groups.
    level : float
        Distance beyond which a group may be removed.
    far_group : int
        Number of the removed group, -1 if none.
    decision : str
        A key of `skvibe.off_manifold.DECISIONS`.
    """

    removed: np.ndarray
    groups: np.ndarray
    distances: np.ndarray
    conductances: np.ndarray
    centroids: np.ndarray
    level: float
    far_group: int
    decision: str


def judge_by_community(
    features,
    labels,
    links,
    y,
    *,
    threshold,
    max_removed,
    n_classes,
    n_neighbors,
    signed=True,
):
    """Measure communities against one another.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Rows.
    labels : ndarray of int of shape (n_samples,)
        Community of each row.
    links : ndarray of shape (n_communities, n_communities)
        As `skvibe.communities.community_links` returns it.
    y : ndarray of shape (n_samples,) or None
        Given labels.
    threshold, max_removed : float
        As in `skvibe.off_manifold.detect_off_manifold`.
    n_classes, n_neighbors : int
        The same.
    signed : bool, default=True
        False: the statistic of the paper's authors, without safeguards.

    Returns
    -------
    Judgement
        What is removed, and why.
    """
    groups, level = np.arange(len(links)), threshold
    if signed:
        groups = join_pieces(features, labels, links, n_neighbors)
        level = calibrate_threshold(threshold, groups.max() + 1)
    conductances = group_conductances(groups, np.bincount(labels), links, n_neighbors)
    assigned, centroids = refine_groups(
        features, groups[labels], _REFINEMENTS if signed else 0
    )
    distances = community_distances(centroids, "signed" if signed else "paper")
    far_group, decision = _decide(
        distances,
        level,
        shares=np.bincount(assigned, minlength=len(distances)) / len(features),
        max_removed=max_removed,
        conductances=conductances if signed else None,
        label_counts=None
        if y is None or not signed
        else _label_counts(assigned, len(distances), _codes(y)),
        n_classes=n_classes if signed and y is None else None,
    )
    return Judgement(
        removed=assigned == far_group,
        groups=groups,
        distances=distances,
        conductances=conductances,
        centroids=centroids,
        level=level,
        far_group=far_group,
        decision=decision,
    )


def judge_by_class(features, labels, links, y, *, threshold, max_removed):
    """Measure communities against the given classes.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Rows, in whitened directions.
    labels : ndarray of int of shape (n_samples,)
        Community of each row.
    links : ndarray of shape (n_communities, n_communities)
        As `skvibe.communities.community_links` returns it.
    y : ndarray of shape (n_samples,)
        Given labels.
    threshold, max_removed : float
        As in `skvibe.off_manifold.detect_off_manifold`.

    Returns
    -------
    Judgement
        What is removed, and why. Every community is a group of its own.
    """
    codes = _codes(y)
    distances = distances_from_classes(features, labels, codes)
    # Crumbs lie far by chance. Without allowance for their size they are not apart.
    conductances = 1.0 - np.diag(links) / np.maximum(links.sum(axis=1), 1.0)
    counts, sizes = _label_counts(labels, len(links), codes), np.bincount(labels)
    level = calibrate_threshold(threshold, codes.max() + 2)
    far_group, decision = _decide(
        distances,
        level,
        shares=sizes / len(labels),
        max_removed=max_removed,
        conductances=conductances,
        label_counts=counts,
        n_classes=None,
        one_label=_ONE_LABEL_OF_CLASS,
    )
    removed = labels == far_group
    of_one_label = _shares_of_one_label(counts) > _ONE_LABEL_OF_CLASS
    if far_group >= 0 and of_one_label[far_group]:
        in_class = codes == counts[far_group].argmax()
        removed = grow_group(features, in_class, removed)
        # Pieces of the group itself are no rivals.
        inside = np.bincount(labels[removed], minlength=len(links))
        rivals = of_one_label & (distances > _RIVAL * level)
        rivals &= (conductances <= _MAX_CONDUCTANCE) & (inside < 0.5 * sizes)
        if removed.sum() > _WHOLE_CLASS * in_class.sum():
            far_group, decision = -1, "whole_class"
        elif _is_too_large(removed.mean(), max_removed):
            far_group, decision = -1, "too_large"
        elif rivals.any():
            far_group, decision = -1, "not_alone"
    centroids = refine_groups(features, labels, 0)[1]
    if far_group >= 0:
        centroids[far_group] = features[removed].mean(axis=0)
    return Judgement(
        removed=removed & (far_group >= 0),
        groups=np.arange(len(links)),
        distances=distances,
        conductances=conductances,
        centroids=centroids,
        level=level,
        far_group=far_group,
        decision=decision,
    )


def _codes(y):
    """Number of each label given, from 0."""
    return np.unique(y, return_inverse=True)[1]


def _label_counts(assigned, n_groups, codes):
    """Rows of each group that each given label has."""
    table = np.zeros((n_groups, codes.max() + 1))
    np.add.at(table, (assigned, codes), 1.0)
    return table


def _shares_of_one_label(label_counts):
    """Largest share of each group that carries one label."""
    return label_counts.max(axis=1) / np.maximum(label_counts.sum(axis=1), 1.0)


def _decide(
    distances,
    level,
    *,
    shares,
    max_removed,
    conductances,
    label_counts,
    n_classes,
    one_label=_ONE_LABEL,
):
    """The group to remove, or -1, and why. A safeguard given as None is off."""
    far = distances > level
    if not far.any():
        return -1, "none_far"
    if conductances is not None:
        far &= conductances <= _MAX_CONDUCTANCE
        if not far.any():
            return -1, "not_apart"
    if n_classes is not None and len(distances) <= n_classes:
        return -1, "no_extra_group"
    if label_counts is not None:
        far &= (label_counts / label_counts.sum(axis=0)).max(axis=1) <= _WHOLE_CLASS
        if not far.any():
            return -1, "whole_class"
        planted = _shares_of_one_label(label_counts) > one_label
        far &= planted | (conductances <= _MIXED_CONDUCTANCE)
        if not far.any():
            return -1, "mixed_labels"
    group = int(np.argmax(np.where(far, distances, -np.inf)))
    if _is_too_large(shares[group], max_removed):
        return -1, "too_large"
    return group, "removed"


def _is_too_large(share, max_removed):
    """Whether a group holds too much to be removed; says so."""
    if share <= max_removed:
        return False
    warnings.warn(
        f"The group farthest from the others holds {share:.0%} of the "
        f"rows, more than max_removed={max_removed:g}. Nothing was removed: raise "
        "max_removed if so many rows may be poisoned.",
        UserWarning,
        stacklevel=6,
    )
    return True
