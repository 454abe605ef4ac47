import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from skvibe.communities import community_links
from skvibe.community_geometry import (
    calibrate_threshold,
    community_distances,
    group_conductances,
    join_pieces,
    nearest_centroid,
    refine_groups,
)
from skvibe.knn import find_neighbors, neighbor_edges


@settings(max_examples=50)
@given(
    n_groups=st.integers(3, 60),
    ratio=st.floats(1.0, 3.0),
    threshold=st.floats(0.1, 0.4),
)
def test_calibration_asks_the_same_ratio_at_every_number_of_groups(
    n_groups, ratio, threshold
):
    # The other centroids a distance 1 apart, the last one `ratio` from all of them.
    others = np.eye(n_groups - 1, n_groups) / np.sqrt(2)
    centre = others.mean(axis=0)
    height = np.sqrt(ratio**2 - np.sum((others[0] - centre) ** 2))
    outlier = centre + height * np.eye(n_groups)[-1]
    distances = community_distances(np.vstack([others, outlier]))
    assert distances.argmax() == n_groups - 1 or ratio < 1 + 1e-9
    scaled = distances[-1] / calibrate_threshold(threshold, n_groups)
    expected = (1 - 1 / ratio) * 0.9 / threshold
    assert scaled == pytest.approx(expected, abs=1e-9)


def test_calibration_keeps_the_paper_at_ten_classes():
    assert calibrate_threshold(0.275, 11) == pytest.approx(0.275)
    assert calibrate_threshold(0.275, 2) == np.inf


def test_distances_of_the_paper_by_hand():
    centroids = np.array([[0.0], [1.0], [5.0]])
    # Mean distances (self included) 2, 5/3, 3; over the largest: 2/3, 5/9, 1.
    expected = [2 / 3 - 7 / 9, 5 / 9 - 5 / 6, 1 - 11 / 18]
    np.testing.assert_allclose(community_distances(centroids), expected)
    np.testing.assert_allclose(
        community_distances(centroids, "paper"), np.abs(expected)
    )
    np.testing.assert_array_equal(community_distances(np.ones((4, 2))), np.zeros(4))


def test_nearest_centroid_far_from_the_origin():
    centroids = np.array([[0.0, 1e6], [1.0, 1e6]])
    rows = np.array([[0.4, 1e6], [0.6, 1e6]], dtype=np.float64)
    np.testing.assert_array_equal(nearest_centroid(rows, centroids), [0, 1])


@pytest.mark.parametrize("d", [2, 5, 30, 200])
def test_halves_of_a_cluster_are_joined_and_clusters_are_not(d):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, d))
    X[600:, 0] += 8.0
    labels = np.where(X[:, 1] > 0, 0, 1)
    labels[600:] = 2
    edges = neighbor_edges(find_neighbors(X, 20))
    groups = join_pieces(X, labels, community_links(labels, edges, 3), 20)
    np.testing.assert_array_equal(groups, [0, 0, 1])


def test_conductance_forgives_what_a_small_group_must_send_outside():
    X = np.random.default_rng(0).standard_normal((400, 4))
    X[:15] += 100.0  # fewer rows than neighbours, though wholly apart
    labels = np.repeat([1, 0], [15, 385])
    links = community_links(labels, neighbor_edges(find_neighbors(X, 20)), 2)
    outside = 1 - np.diag(links) / links.sum(axis=1)
    forgiven = group_conductances(np.arange(2), np.bincount(labels), links, 20)
    assert outside[1] > 0.25
    assert forgiven[1] < 0.01


def test_refinement_returns_strays_and_keeps_empty_groups():
    X = np.concatenate([np.zeros(50), np.ones(30), np.full(20, 9.0)])[:, None]
    X = X + 0.01 * np.random.default_rng(0).standard_normal(X.shape)
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    strays = truth.copy()
    strays[[3, 60]] = 2
    assigned, centroids = refine_groups(X, strays, 5)
    np.testing.assert_array_equal(assigned, truth)
    np.testing.assert_array_equal(nearest_centroid(X, centroids), truth)
    same, _ = refine_groups(X, strays, 0)
    np.testing.assert_array_equal(same, strays)
    equal = np.zeros((6, 2))
    assigned, centroids = refine_groups(equal, np.arange(6) % 3, 5)
    assert centroids.shape == (3, 2)
    np.testing.assert_array_equal(assigned, np.zeros(6))


# -- against their definitions, written out --------------------------------------------


def conductance(group, groups, labels, edges, n_neighbors):
    """Share of the ends of edges in a group that lead outside, less what is forced."""
    inside = groups[labels] == group
    size, ends, leaving = inside.sum(), 0, 0
    for i, j in edges:
        ends += int(inside[i]) + int(inside[j])
        leaving += int(inside[i] != inside[j])
    forced = min(1.0, max(0.0, (n_neighbors + 1 - size) / n_neighbors))
    # A group without edges has nothing inside.
    return max(0.0, (leaving / ends if ends else 1.0) - forced)


@pytest.mark.parametrize("n_neighbors", [3, 8, 40, 90])
def test_conductances_by_counting_ends(n_neighbors):
    rng = np.random.default_rng(n_neighbors)
    labels = np.r_[np.arange(6), rng.choice(6, 70, p=[0.4, 0.2, 0.2, 0.1, 0.1, 0])]
    edges = np.unique(np.sort(rng.integers(76, size=(400, 2)), axis=1), axis=0)
    apart = (edges[:, 0] != edges[:, 1]) & (labels[edges] != 5).all(axis=1)
    edges = edges[apart]  # community 5 has no edge at all
    links = community_links(labels, edges, 6)
    for groups in (np.arange(6), np.array([0, 1, 0, 2, 1, 3])):
        found = group_conductances(groups, np.bincount(labels), links, n_neighbors)
        expected = [
            conductance(g, groups, labels, edges, n_neighbors)
            for g in range(groups.max() + 1)
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def pieces(features, labels, links, n_neighbors):
    """Which communities are pieces of one cluster, pair by pair."""
    n = len(links)
    joined = np.zeros((n, n))
    for p in range(n):
        for q in range(n):
            P, Q = features[labels == p], features[labels == q]
            gap = np.linalg.norm(P.mean(axis=0) - Q.mean(axis=0))
            line = (Q.mean(axis=0) - P.mean(axis=0)) / (gap or 1.0)
            near = gap < 1.5 * ((P @ line).std() + (Q @ line).std())
            forced = min(1.0, max(0.0, (n_neighbors + 1 - len(P)) / n_neighbors))
            shared = links[p, q] / max(links[p].sum(), 1) - forced > 0.25
            joined[p, q] = p != q and (near or shared)
    return connected_components(joined, directed=False)[1]


def same_partition(one, other):
    return np.array_equal(one[:, None] == one, other[:, None] == other)


@pytest.mark.parametrize("n_neighbors", [4, 12])
@pytest.mark.parametrize("seed", range(8))
def test_pieces_by_looking_at_every_pair(seed, n_neighbors):
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=3.0, size=(9, 3))
    labels = np.r_[np.arange(9), np.arange(9), rng.integers(9, size=90)]
    features = centres[labels] + rng.normal(size=(108, 3)) * [0.3, 1.0, 2.0]
    links = rng.integers(0, 9, size=(9, 9)) * (rng.random((9, 9)) < 0.2)
    links = links + links.T + np.diag(rng.integers(1, 40, size=9))
    groups = join_pieces(features, labels, links, n_neighbors)
    assert set(groups) == set(range(groups.max() + 1))
    expected = pieces(features, labels, links, n_neighbors)
    assert 1 < len(set(expected)) < 9
    assert same_partition(groups, expected)


@pytest.mark.parametrize(("gap", "one"), [(2.99, True), (3.0, False), (3.01, False)])
def test_pieces_lie_closer_than_their_spreads(gap, one):
    # Two rows each, one to either side of the centroid; wide across the line.
    rows = np.array([[-1.0, 50.0], [1.0, -50.0]])
    features = np.vstack([rows, rows + np.array([gap, 0.0])])
    labels = np.array([0, 0, 1, 1])
    groups = join_pieces(features, labels, np.diag([9.0, 9.0]), 1)
    assert (groups[0] == groups[1]) == one


@pytest.mark.parametrize(
    ("links", "n_neighbors", "one"),
    [
        ([[15, 5], [5, 75]], 2, False),  # a quarter of the edges of the first
        ([[14, 5], [5, 75]], 2, True),
        ([[75, 5], [5, 14]], 2, True),
        # Of its three rows' four neighbours at least two are elsewhere.
        ([[10, 30], [30, 900]], 4, False),
        ([[9, 31], [31, 900]], 4, True),
        ([[0, 0], [0, 0]], 2, False),
    ],
)
def test_pieces_share_edges(links, n_neighbors, one):
    labels = np.repeat([0, 1], [3, 60])
    features = np.where(labels == 1, 1e3, 0.0)[:, None]
    groups = join_pieces(features, labels, np.array(links, float), n_neighbors)
    assert (groups[0] == groups[1]) == one


@pytest.mark.parametrize("n_rows", [1, 4096, 4097, 9000])
def test_nearest_centroid_by_all_distances(n_rows):
    rng = np.random.default_rng(0)
    features, centroids = rng.normal(size=(n_rows, 3)), 5 + rng.normal(size=(7, 3))
    found = nearest_centroid(features, centroids)
    gaps = np.linalg.norm(features[:, None] - centroids, axis=2)
    np.testing.assert_array_equal(found, gaps.argmin(axis=1))
    assert found.dtype == np.int64
    tied = nearest_centroid(np.zeros((2, 1)), np.array([[3.0], [1.0], [-1.0]]))
    np.testing.assert_array_equal(tied, [1, 1])


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
def test_refinement_is_that_many_steps_of_lloyd(n_steps):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 2))
    start = np.r_[np.arange(5), rng.integers(5, size=295)]
    assigned, centroids = refine_groups(features, start, n_steps)
    groups = start
    for step in range(n_steps + 1):
        means = np.array([features[groups == g].mean(axis=0) for g in range(5)])
        if step < n_steps or n_steps:
            gaps = np.linalg.norm(features[:, None] - means, axis=2)
            groups = gaps.argmin(axis=1)
    np.testing.assert_allclose(centroids, means)
    np.testing.assert_array_equal(assigned, groups)


def test_refinement_stops_before_a_group_is_empty():
    # The first group lies round the second's only row and has lost all in one step.
    features = np.array([[-4.0], [4.0], [0.0], [9.0], [9.5]])
    start = np.array([0, 0, 1, 2, 2])
    assigned, centroids = refine_groups(features, start, 5)
    np.testing.assert_allclose(centroids[:, 0], [0.0, 0.0, 9.25])
    np.testing.assert_array_equal(assigned, [0, 0, 0, 2, 2])


def test_one_group_has_no_distance():
    np.testing.assert_array_equal(community_distances(np.ones((1, 3))), [0.0])
    np.testing.assert_allclose(community_distances(np.eye(2)), [0.0, 0.0])
