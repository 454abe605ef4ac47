import random
import threading

import numpy as np
import pytest

from skvibe import communities
from skvibe.communities import community_links, find_communities
from skvibe.knn import find_neighbors, neighbor_edges


def make_graph(n_groups, n=1200, seed=0, spread=8.0, d=12):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_groups, d))
    centres *= spread / np.linalg.norm(centres, axis=1, keepdims=True)
    groups = rng.integers(n_groups, size=n)
    X = centres[groups] + rng.standard_normal((n, d))
    return neighbor_edges(find_neighbors(X, 20)), groups


@pytest.fixture(scope="module")
def graph():
    return make_graph(8)


@pytest.mark.parametrize("backend", ["igraph", "leidenalg"])
@pytest.mark.parametrize("wanted", [2, 3, 5, 7, 8, 9, 12, 20, 40])
def test_exactly_as_many_as_asked_for(graph, wanted, backend):
    edges, groups = graph
    found = find_communities(edges, len(groups), wanted, backend=backend)
    assert found.n_communities == wanted
    assert set(found.labels) == set(range(wanted))
    sizes = np.bincount(found.labels)
    assert (np.diff(sizes) <= 0).all()
    assert found.n_runs <= 11


@pytest.mark.parametrize("backend", ["igraph", "leidenalg"])
def test_natural_groups_in_one_run(graph, backend):
    edges, groups = graph
    found = find_communities(edges, len(groups), 8, backend=backend, random_state=0)
    assert found.n_runs == 1
    table = np.zeros((8, 8))
    np.add.at(table, (found.labels, groups), 1)
    assert table.max(axis=1).sum() > 0.99 * len(groups)


def test_merging_keeps_a_small_group_apart():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 6))
    X[:60] += 30.0
    edges = neighbor_edges(find_neighbors(X, 20))
    found = find_communities(edges, 1500, 2, random_state=0)
    assert found.n_merged > 0
    np.testing.assert_array_equal(np.flatnonzero(found.labels == 1), np.arange(60))


def test_merging_loses_little_modularity_against_a_scan():
    import igraph

    edges, groups = make_graph(11, spread=3.0)
    graph = igraph.Graph(n=len(groups), edges=edges.tolist())
    for wanted in (6, 9):
        found = find_communities(edges, len(groups), wanted, random_state=0)
        scan = [
            find_one(graph, resolution)
            for resolution in np.linspace(0.1, 3.0, 50)  # the reference's scan
        ]
        best = max(
            (graph.modularity(m) for m in scan if max(m) + 1 == wanted), default=0.0
        )
        assert graph.modularity(found.labels.tolist()) > best - 0.01


def find_one(graph, resolution):
    return graph.community_leiden(
        objective_function="modularity", resolution=resolution
    ).membership


@pytest.mark.parametrize("backend", ["igraph", "leidenalg"])
def test_same_seed_same_communities(backend):
    edges, groups = make_graph(11, spread=2.0)
    runs = [
        find_communities(edges, len(groups), 9, backend=backend, random_state=3).labels
        for _ in range(3)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_global_generators_are_left_alone(graph):
    edges, groups = graph
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    for backend in ("igraph", "leidenalg"):
        find_communities(edges, len(groups), 9, backend=backend, random_state=0)
    assert random.getstate() == python_state
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_igraph_draws_from_python_again_afterwards(graph):
    import igraph

    edges, groups = graph
    find_communities(edges, len(groups), 9, random_state=0)
    random.seed(1)
    before = random.getstate()
    igraph.Graph.Erdos_Renyi(50, 0.5)
    assert random.getstate() != before


def test_threads_do_not_disturb_each_other():
    edges, groups = make_graph(11, spread=2.0)
    alone = [
        find_communities(edges, len(groups), 9, random_state=s).labels for s in range(4)
    ]
    together = [None] * 4

    def search(seed):
        found = find_communities(edges, len(groups), 9, random_state=seed)
        together[seed] = found.labels

    threads = [threading.Thread(target=search, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fewer_than_asked_for_is_said():
    # Three nodes cannot make five communities.
    found = find_communities(np.array([[0, 1], [1, 2]]), 3, 5, random_state=0)
    assert found.n_communities == 3
    assert found.n_merged == 0


def test_unlinked_parts_are_merged_smallest_or_nearest_first():
    pairs = np.arange(10).reshape(5, 2)
    clique = np.array([[i, j] for i in range(10, 22) for j in range(i + 1, 22)])
    edges = np.vstack([pairs, clique])
    found = find_communities(edges, 22, 2, random_state=0)
    np.testing.assert_array_equal(found.labels, np.repeat([1, 0], [10, 12]))
    # The first pair far from all others.
    features = np.repeat([9.0, 0.0], [2, 20])[:, None]
    found = find_communities(edges, 22, 2, features=features, random_state=0)
    np.testing.assert_array_equal(found.labels, np.repeat([1, 0], [2, 20]))


def test_nodes_without_edges_are_communities():
    found = find_communities(np.array([[0, 1]]), 4, 3, random_state=0)
    assert found.n_communities == 3
    assert found.labels[0] == found.labels[1]


def merge_by_the_book(labels, edges, target, features):
    """The merging rule, every pair looked at in every step."""
    groups = labels.copy()
    # A community without edges counts as one of degree 1.
    own = np.maximum(community_links(labels, edges, labels.max() + 1).sum(axis=1), 1.0)
    while len(np.unique(groups)) > target:
        names = np.unique(groups)
        links = community_links(np.searchsorted(names, groups), edges, len(names))
        degrees = np.array([own[np.unique(labels[groups == n])].sum() for n in names])
        gaps = np.outer(degrees, degrees)
        if features is not None:
            means = np.array([features[groups == name].mean(axis=0) for name in names])
            gaps = np.linalg.norm(means[:, None] - means, axis=2)
        score = np.where(links > 0, links / np.outer(degrees, degrees), -gaps)
        np.fill_diagonal(score, -np.inf)
        p, q = sorted(divmod(int(score.argmax()), len(names)))
        groups[groups == names[q]] = names[p]
    return groups


@pytest.mark.parametrize("n_edges", [0, 12, 150])  # without, with few, with many
@pytest.mark.parametrize("seed", range(3))
def test_merging_goes_by_the_book(seed, n_edges):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(30), rng.integers(30, size=90)]
    edges = np.unique(np.sort(rng.integers(120, size=(n_edges, 2)), axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    for features in (None, rng.standard_normal((120, 3))):
        for target in (1, 4, 17, 29, 30):
            merged = communities._merge(labels, edges, target, features)
            expected = merge_by_the_book(labels, edges, target, features)
            np.testing.assert_array_equal(merged, expected)


def cliques(n_cliques, size):
    """Edges of cliques without any edge between them."""
    pairs = np.array([[i, j] for i in range(size) for j in range(i + 1, size)])
    return (pairs + size * np.arange(n_cliques)[:, None, None]).reshape(-1, 2)


def test_very_many_communities_are_merged_without_all_their_pairs(monkeypatch):
    monkeypatch.setattr(communities, "_MOST_PAIRED", 12)
    # 300 crumbs apart from each other, and a group of 40.
    big = 900 + cliques(1, 40)
    found = find_communities(np.vstack([cliques(300, 3), big]), 940, 4, random_state=0)
    assert found.n_communities == 4
    assert len(np.unique(found.labels[900:])) == 1
    # A chain: neighbours are merged, so every community is a stretch of it.
    chain = np.column_stack([np.arange(999), np.arange(1, 1000)])
    found = find_communities(chain, 1000, 3, random_state=0)
    assert found.n_communities == 3
    assert np.count_nonzero(np.diff(found.labels)) == 2
    assert np.bincount(found.labels).min() > 100


def test_contracting_stops_at_the_number_asked_for():
    edges = np.vstack([cliques(100, 3), [[0, 3], [6, 9]]])
    labels = np.repeat(np.arange(100), 3)
    for target in (99, 98, 97, 40, 1):
        contracted = communities._contract(labels, edges, target)
        assert set(contracted) == set(range(target))
        # The linked ones first.
        assert contracted[0] == contracted[3] or contracted[6] == contracted[9]
    np.testing.assert_array_equal(communities._contract(labels, edges, 100), labels)


def test_contracting_takes_the_tightest_pair_first():
    # Three linked pairs; the second has two edges between its ends.
    edges = np.vstack([cliques(6, 3), [[0, 3], [6, 9], [7, 10], [12, 15]]])
    labels = np.repeat(np.arange(6), 3)
    contracted = communities._contract(labels, edges, 5)
    np.testing.assert_array_equal(contracted[::3], [0, 1, 2, 2, 3, 4])


def test_links_count_edges_and_degrees():
    edges = np.array([[0, 1], [1, 2], [2, 3]])
    links = community_links(np.array([0, 0, 1, 1]), edges, 2)
    np.testing.assert_array_equal(links, [[2, 1], [1, 2]])


# -- against their definitions, written out --------------------------------------------


def search(counts_at, target):
    """What the search asks for, and its answer, if a run gives so many communities."""
    asked = []

    def run(resolution):
        asked.append(float(resolution))
        return np.arange(counts_at(resolution))

    labels, resolution, n_runs = communities._search_resolution(run, target)
    assert n_runs == len(asked)
    # The answer is what was found at the resolution that is named.
    assert len(labels) == counts_at(resolution)
    assert isinstance(resolution, float)
    return asked, resolution


def test_one_run_where_it_gives_enough():
    for target in (1, 7, 10):
        assert search(lambda r: 10, target) == ([1.0], 1.0)


def test_resolution_is_doubled_until_there_are_enough():
    # 10 r communities: 40 at 4 are no more than 1.3 times 31.
    assert search(lambda r: int(10 * r), 31) == ([1.0, 2.0, 4.0], 4.0)
    assert search(lambda r: int(10 * r), 40) == ([1.0, 2.0, 4.0], 4.0)


def test_a_large_surplus_is_halved_on_the_logarithmic_scale():
    # 20 at 2 are fewer than 26, 40 at 4 more than 33.8; 28 at the square root of 8.
    asked, resolution = search(lambda r: int(10 * r), 26)
    np.testing.assert_allclose(asked, [1, 2, 4, 8**0.5])
    assert resolution == asked[-1]
    # 26 at 2 are exactly 1.3 times 20: enough.
    assert search(lambda r: 26 if r > 1 else 9, 20) == ([1.0, 2.0], 2.0)
    assert len(search(lambda r: 27 if r > 1 else 9, 20)[0]) == 6


@pytest.mark.parametrize(("jump", "exponents"), [(1.9, (0.5, 0.75, 0.875, 0.9375))])
def test_at_most_four_bisections_and_the_best_is_kept(jump, exponents):
    # 9 below the jump, 90 above it: the surplus stays.
    asked, resolution = search(lambda r: 90 if r >= jump else 9, 10)
    # From 1 to 2 the exponents of 2 close in on the jump at 0.926.
    np.testing.assert_allclose(asked, [1, 2, *(2.0**e for e in exponents)])
    assert resolution == pytest.approx(2**0.9375)
    asked, resolution = search(lambda r: 90 if r >= 1.1 else 9, 10)
    # At 0.1375: above it the resolution goes down, below it the lower end goes up.
    np.testing.assert_allclose(asked[2:], 2.0 ** np.array([0.5, 0.25, 0.125, 0.1875]))
    assert resolution == pytest.approx(2**0.1875)


def test_the_search_ends_at_the_largest_resolution():
    asked, resolution = search(lambda r: 3, 5)
    assert asked == [2.0**k for k in range(7)]
    assert resolution == communities.MAX_RESOLUTION == 64.0
    # Enough at the last one alone: it is taken back as any other.
    asked, _ = search(lambda r: 100 if r >= 64 else 3, 5)
    assert asked[:7] == [2.0**k for k in range(7)]
    assert len(asked) == 11


@pytest.mark.parametrize("seed", range(4))
def test_communities_are_numbered_by_size_and_first_node(seed):
    labels = np.random.default_rng(seed).integers(3, 9, size=30)
    found = communities._by_size(labels)
    names = sorted(
        set(labels.tolist()),
        key=lambda name: (-(labels == name).sum(), np.argmax(labels == name)),
    )
    np.testing.assert_array_equal(found, [names.index(label) for label in labels])


def partners_by_the_book(ends, degrees, found):
    """Each linked community with the tightest other, tightest first."""
    best = []
    for p in range(found):
        scores = {}
        for q in range(found):
            links = sum({p, q} == {int(i), int(j)} for i, j in ends)
            if links:
                scores[q] = links / (degrees[p] * degrees[q])
        if scores:
            top = max(scores.values())
            best.append((top, p, min(q for q in scores if scores[q] == top)))
    return [pair[1:] for pair in sorted(best, key=lambda pair: -pair[0])]


@pytest.mark.parametrize("seed", range(6))
def test_best_partners_by_looking_at_every_pair(seed):
    rng = np.random.default_rng(seed)
    # Degrees are powers of two, so that equal scores are equal in floating point.
    ends = rng.integers(9, size=(25, 2))
    ends = ends[(ends[:, 0] != ends[:, 1]) & (ends != 4).all(axis=1)]
    degrees = 2.0 ** rng.integers(3, size=9)
    pairs = communities._best_partners(ends, degrees, 9)
    assert [tuple(pair) for pair in pairs] == partners_by_the_book(ends, degrees, 9)


def test_communities_apart_are_contracted_smallest_first():
    # Five cliques of 3 to 7 nodes without an edge between them.
    labels = np.repeat([3, 0, 4, 1, 2], [3, 4, 5, 6, 7])
    edges = np.array([[i, i + 1] for i in range(24) if labels[i] == labels[i + 1]])
    for target, expected in [(4, [0, 0, 1, 2, 3]), (3, [0, 0, 0, 1, 2])]:
        merged = communities._contract(labels, edges, target)
        assert len(set(merged)) == target
        firsts = merged[np.array([0, 3, 7, 12, 18])]
        assert [firsts.tolist().index(g) for g in firsts] == [
            expected.index(g) for g in expected
        ]


def test_most_pairs_are_looked_at_up_to_a_number(monkeypatch):
    contracted = []
    contract = communities._contract

    def spy(labels, edges, target):
        contracted.append(target)
        return contract(labels, edges, target)

    monkeypatch.setattr(communities, "_contract", spy)
    monkeypatch.setattr(communities, "_MOST_PAIRED", 5)
    labels = np.repeat(np.arange(8), 3)
    edges = cliques(8, 3)
    for found, target, expected in [(8, 2, [5]), (8, 7, [7]), (5, 2, []), (8, 8, [])]:
        contracted.clear()
        some = labels < found
        merged = communities._merge(
            labels[some], edges[labels[edges[:, 0]] < found], target, None
        )
        assert contracted == expected
        assert len(set(merged)) == target


def test_numbers_of_what_was_found(graph):
    edges, groups = graph
    found = find_communities(edges, len(groups), 5, random_state=0)
    assert (found.n_communities, found.n_merged, found.n_runs) == (5, 3, 1)
    assert found.resolution == 1.0
    more = find_communities(edges, len(groups), 12, random_state=0)
    assert more.resolution > 1.0
    assert more.n_runs > 1


def test_verbose_tells_every_run(capsys, monkeypatch):
    run = communities._tell_runs(lambda r: np.arange(int(10 * r)), 0)
    run(1.0)
    assert capsys.readouterr().out == ""
    told = []
    monkeypatch.setattr(
        communities.Progress, "update", lambda self, n, **v: told.append((n, v))
    )
    run = communities._tell_runs(lambda r: np.arange(int(10 * r)), 1)
    assert len(run(1.0)) == 10
    assert len(run(2.0)) == 20
    assert told == [
        (1, {"resolution": 1.0, "communities": 10}),
        (2, {"resolution": 2.0, "communities": 20}),
    ]


def test_unknown_backend():
    with pytest.raises(ValueError, match="leiden must be one of"):
        find_communities(np.array([[0, 1]]), 2, 2, backend="louvain")
