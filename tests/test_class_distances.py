import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from skvibe.class_distances import (
    distances_from_classes,
    grow_group,
    whitened_directions,
)
from skvibe.community_geometry import community_distances


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def stretched(n=600, d=5, seed=0):
    """Rows whose spread differs 30-fold between directions, far from the origin."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.geomspace(1, 1 / 30, d) + 2.0 * np.eye(d)[0]


def test_whitening_by_its_definition():
    X = stretched()
    U = unit(X)
    covariance = np.cov(U.T, bias=True)
    floor = 0.1 * np.trace(covariance) / X.shape[1]
    values, axes = np.linalg.eigh(covariance)
    expected = (U - U.mean(axis=0)) @ axes / np.sqrt(values + floor) @ axes.T
    np.testing.assert_allclose(whitened_directions(X)(X), unit(expected), atol=1e-10)


def test_whitening_evens_the_spread_out():
    X = stretched()
    before, after = unit(X).std(axis=0), whitened_directions(X)(X).std(axis=0)
    assert before.max() / before.min() > 3 * after.max() / after.min()


@settings(max_examples=20)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-200, 1e-6, 1.0, 1e6, 1e150]))
def test_whitening_follows_rotations_and_forgets_lengths(seed, scale):
    X = stretched(n=200, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = special_ortho_group.rvs(X.shape[1], random_state=rng)
    changed = scale * rng.uniform(0.5, 2.0, (len(X), 1)) * X @ rotation
    expected = whitened_directions(X)(X) @ rotation
    np.testing.assert_allclose(
        whitened_directions(changed)(changed), expected, atol=1e-8
    )


def test_whitening_of_rows_that_are_all_alike_or_zero():
    for X in (np.ones((10, 3)), np.zeros((10, 3))):
        np.testing.assert_array_equal(whitened_directions(X)(X), 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whitening_keeps_the_float_type(dtype):
    X = stretched().astype(dtype)
    mapped = whitened_directions(X)(X)
    assert mapped.dtype == dtype
    exact = whitened_directions(stretched())(stretched())
    np.testing.assert_allclose(mapped, exact, atol=1e-4)
    # Block by block is the same as at once.
    many = np.tile(X, (8, 1))
    np.testing.assert_allclose(whitened_directions(many)(many)[:600], mapped, atol=1e-5)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999), n_groups=st.integers(1, 5), n_classes=st.integers(2, 4)
)
def test_distances_by_their_definition(seed, n_groups, n_classes):
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(n_groups), rng.integers(n_groups, size=40)])
    codes = np.concatenate([np.arange(n_groups) % n_classes, np.arange(40) % n_classes])
    X = rng.standard_normal((len(groups), 3))
    found = distances_from_classes(X, groups, codes)
    for group in range(n_groups):
        outside = groups != group
        held = np.unique(codes[outside])
        if len(held) < 2:
            assert found[group] == -1.0
            continue
        means = [X[outside & (codes == code)].mean(axis=0) for code in held]
        means.append(X[~outside].mean(axis=0))
        expected = community_distances(np.array(means))[-1]
        assert found[group] == pytest.approx(expected)


def test_growing_finds_the_rest_of_a_group_and_drops_what_is_not_of_it():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 6)) * [4, 1, 1, 1, 1, 1]
    in_class = np.arange(500) < 400
    planted = np.arange(500) < 120
    X[planted, 1] += 9.0
    # A community: the planted rows of one background, a few others, a few strangers.
    community = planted & (X[:, 0] > 1.0)
    assert community.sum() < 60
    community[200:210] = community[450:460] = True
    np.testing.assert_array_equal(grow_group(X, in_class, community), planted)


def test_growing_leaves_alone_what_is_too_small():
    X = np.random.default_rng(0).standard_normal((50, 3))
    for n_group in (0, 5, 45, 50):
        group = np.arange(50) < n_group
        np.testing.assert_array_equal(
            grow_group(X, np.ones(50, dtype=bool), group), group
        )
