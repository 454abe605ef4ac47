import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
