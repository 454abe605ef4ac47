import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors

from skvibe import knn
from skvibe.knn import find_neighbors, neighbor_edges, transformer_edges


def brute_force(X, k, query=None):
    """Nearest rows in float64, ties to the lowest row number."""
    X = np.asarray(X, dtype=np.float64)
    points = X if query is None else np.asarray(query, dtype=np.float64)
    distances = ((points[:, None] - X[None]) ** 2).sum(axis=2).round(9)
    if query is None:
        np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def assert_same_sets(found, expected):
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@settings(max_examples=40)
@given(
    n=st.integers(2, 150),
    d=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 3, 1000]),
    k=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_exact_agrees_with_brute_force_ties_included(n, d, levels, k, seed):
    X = np.random.default_rng(seed).integers(levels, size=(n, d))
    k = min(k, n - 1)
    assert_same_sets(find_neighbors(X, k), brute_force(X, k))


@pytest.mark.parametrize("n", [700, 5000])
def test_group_search_agrees_with_brute_force(rng, n):
    X = rng.standard_normal((n, 8))
    expected = NearestNeighbors(n_neighbors=10).fit(X).kneighbors()[1]
    assert_same_sets(find_neighbors(X, 10), expected)


def test_query_rows(rng):
    X, query = rng.standard_normal((300, 5)), rng.standard_normal((40, 5))
    assert_same_sets(find_neighbors(X, 7, query=query), brute_force(X, 7, query))
    # A query row that is in X finds itself.
    assert (find_neighbors(X, 1, query=X)[:, 0] == np.arange(300)).all()


def test_more_ties_than_candidates(rng):
    X = np.repeat(rng.standard_normal((4, 3)), 100, axis=0)
    assert_same_sets(find_neighbors(X, 20), brute_force(X, 20))


def test_far_from_the_origin(rng):
    X = rng.standard_normal((400, 4))
    found = find_neighbors(X + 1e4, 10)
    same = np.sort(found, axis=1) == np.sort(brute_force(X, 10), axis=1)
    assert same.all(axis=1).mean() > 0.99


def test_one_far_row_does_not_spoil_the_others(rng):
    X = rng.standard_normal((400, 4))
    X[0] = 1e3
    assert_same_sets(find_neighbors(X, 10), brute_force(X, 10))


def test_huge_and_tiny_scales(rng):
    X = rng.standard_normal((200, 4))
    expected = find_neighbors(X, 10)
    for scale in (1e-200, 2.0**-60, 2.0**60, 1e150):
        assert_same_sets(find_neighbors(X * scale, 10), expected)


def test_cosine_is_euclidean_on_unit_rows(rng):
    X = rng.standard_normal((300, 5)) * rng.uniform(0.1, 10, (300, 1))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert_same_sets(find_neighbors(X, 9, metric="cosine"), brute_force(unit, 9))
    X[3] = 0.0
    assert find_neighbors(X, 9, metric="cosine").shape == (300, 9)


def test_other_metrics_go_to_scikit_learn(rng):
    X = rng.standard_normal((200, 4))
    expected = NearestNeighbors(n_neighbors=6, metric="manhattan").fit(X).kneighbors()
    assert_same_sets(find_neighbors(X, 6, metric="manhattan"), expected[1])


def test_chunks_and_threads_do_not_change_the_result(rng, monkeypatch):
    X = rng.standard_normal((900, 6))
    expected = find_neighbors(X, 10)
    monkeypatch.setattr(knn, "_CHUNK_ELEMENTS", 900 * 64)
    np.testing.assert_array_equal(find_neighbors(X, 10), expected)
    np.testing.assert_array_equal(find_neighbors(X, 10, n_jobs=2), expected)


@pytest.mark.parametrize("n_far", [1, 40])
@pytest.mark.parametrize("size", [1e4, 1e15, 1e30, 1e150, 1e300])
def test_rows_far_off_cost_the_others_no_precision(rng, n_far, size):
    X, far = rng.standard_normal((900, 12)), 1.0 + rng.random((n_far, 12))
    together = np.vstack([X, size * far])
    near = find_neighbors(X, 10)
    found = find_neighbors(together, 10)
    np.testing.assert_array_equal(found[:900], near)
    if n_far > 10:
        # All ordinary rows are in one place, seen from there, and farther than theirs.
        np.testing.assert_array_equal(found[900:], 900 + find_neighbors(far, 10))
    as_query = find_neighbors(together, 10, query=X + 1e-9)
    np.testing.assert_array_equal(as_query[:, 1:], near[:, :9])
    as_query = find_neighbors(together, 1, query=size * far)
    np.testing.assert_array_equal(as_query[:, 0], 900 + np.arange(n_far))


def test_input_is_not_changed(rng):
    X = rng.standard_normal((50, 4)).astype(np.float32)
    X.setflags(write=False)
    before = X.copy()
    find_neighbors(X, 5)
    find_neighbors(X, 5, metric="cosine")
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("k", [0, 10])
def test_impossible_number_of_neighbors(rng, k):
    with pytest.raises(ValueError, match="n_neighbors must be in"):
        find_neighbors(rng.standard_normal((10, 2)), k)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:(pynndescent|numba|llvmlite)")
def test_approximate_recall_and_determinism(rng):
    centres = rng.standard_normal((10, 16)) * 3
    X = centres[rng.integers(10, size=2000)] + rng.standard_normal((2000, 16))
    X[100:160] = X[100]  # duplicates push a row out of its own list
    exact = find_neighbors(X, 15)
    found = find_neighbors(X, 15, method="pynndescent", random_state=0)
    assert (found != np.arange(2000)[:, None]).all()
    plain = np.r_[0:100, 160:2000]
    recall = np.mean(
        [np.isin(a, b).mean() for a, b in zip(found[plain], exact[plain], strict=True)]
    )
    assert recall > 0.95
    again = find_neighbors(X, 15, method="pynndescent", random_state=0)
    np.testing.assert_array_equal(found, again)


def test_auto_is_exact_below_the_limit_and_approximate_above(rng, monkeypatch):
    X = rng.standard_normal((50, 3))
    called = []
    monkeypatch.setattr(knn, "_approximate", lambda *args: called.append(args))
    find_neighbors(X, 5)
    assert not called
    monkeypatch.setattr(knn, "EXACT_LIMIT", 49)
    find_neighbors(X, 5)
    assert len(called) == 1
    find_neighbors(X, 5, query=X)
    find_neighbors(X, 5, method="exact")
    assert len(called) == 1


def test_edges_are_the_union_once_each():
    neighbors = np.array([[1, 2], [0, 2], [3, -1], [2, 0]])
    edges = neighbor_edges(neighbors)
    np.testing.assert_array_equal(edges, [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]])


def test_transformer_gives_the_same_edges_and_is_not_fitted(rng):
    X = rng.standard_normal((200, 4))
    transformer = KNeighborsTransformer(n_neighbors=8)
    edges = transformer_edges(transformer, X)
    np.testing.assert_array_equal(edges, neighbor_edges(find_neighbors(X, 8)))
    assert not hasattr(transformer, "n_samples_fit_")


def test_transformer_that_returns_something_else(rng):
    class Dense:
        def fit_transform(self, X):
            return np.zeros((3, 3))

    with pytest.raises(ValueError, match="sparse matrix of shape"):
        transformer_edges(Dense(), rng.standard_normal((5, 2)))
