"""Leiden communities of a graph, as many as asked for."""

import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.utils import check_random_state

from skvibe._checks import check_option
from skvibe._progress import Progress

MAX_RESOLUTION = 64.0
"""The search for more communities does not go beyond this resolution."""

# igraph draws from one generator for the whole process: one search at a time.
_IGRAPH_LOCK = threading.Lock()
_N_ITERATIONS = 2
_BISECTIONS = 4
# Above this surplus a lower resolution is tried before communities are merged.
_SURPLUS = 1.3
# Up to this number all pairs of communities are looked at.
_MOST_PAIRED = 2000


# Labels at a resolution.
_Run = Callable[[float], np.ndarray]


@dataclass(frozen=True)
class Communities:
    """What `find_communities` found.

    Attributes
    ----------
    labels : ndarray of int64 of shape (n_nodes,)
        Community of each node; 0 is the largest, equal sizes in the order of their
        first node.
    n_communities : int
        Number of communities.
    resolution : float
        Resolution of the Leiden run the communities come from.
    n_runs : int
        Leiden runs made.
    n_merged : int
        Communities of that run which were merged to reach the number asked for.
    """

    labels: np.ndarray
    n_communities: int
    resolution: float
    n_runs: int
    n_merged: int


def find_communities(
    edges: np.ndarray,
    n_nodes: int,
    n_communities: int,
    *,
    features: np.ndarray | None = None,
    backend: str = "igraph",
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> Communities:
    """Partition a graph into ``n_communities`` by modularity (Leiden).

    One run at resolution 1 gives the natural number of communities. If there are
    too many, those most tightly joined are merged, on the graph of the communities;
    if there are too few, the resolution is raised until there are enough, taken
    back by bisection while the surplus is large, and the rest is merged. A scan over
    resolutions needs many more runs and jumps over numbers: between 11 and 15
    communities there may be no resolution that gives 12.

    Parameters
    ----------
    edges : ndarray of int of shape (n_edges, 2)
        Undirected edges, each once.
    n_nodes : int
        Number of nodes.
    n_communities : int
        Number of communities wanted.
    features : ndarray of shape (n_nodes, n_features), default=None
        Positions of the nodes. Only used if communities must be merged between
        which there is no edge at all: those with the nearest means are.
    backend : {"igraph", "leidenalg"}, default="igraph"
        Which implementation of Leiden runs.
    random_state : int, RandomState instance or None, default=None
        Seed of the runs. Python's and numpy's global generators are left alone.
    verbose : int, default=0
        Above 0, print a line for each run once the search takes more than two seconds.

    Returns
    -------
    Communities
        With fewer communities than asked for if no resolution up to
        `MAX_RESOLUTION` gives enough (too few nodes, or a complete graph).

    Notes
    -----
    Two communities p and q are merged in the order of ``A_pq / (d_p d_q)`` (edge
    weight between them over the product of their degrees), which is the order in
    which lowering the resolution would make merging pay [2]_. Pairs without edges
    come last: by the distance of their means if ``features`` are given, else those
    of the smallest degrees first. A small group apart from all others so stays a
    community, which it would not if modularity were to be kept highest. Of more than
    2,000 communities (crumbs that an attacker may have strewn) many pairs are merged
    at once first, so that time and memory stay in proportion to the edges.

    References
    ----------
    .. [1] V. A. Traag, L. Waltman, N. J. van Eck. From Louvain to Leiden:
       guaranteeing well-connected communities. Scientific Reports 9, 2019.
       doi:10.1038/s41598-019-41695-z
    .. [2] T. Bonald, B. Charpentier, A. Galland, A. Hollocou. Hierarchical graph
       clustering using node pair sampling. MLG 2018. arXiv:1806.01664

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.communities import find_communities
    >>> edges = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4], [3, 5], [4, 5]])
    >>> find_communities(edges, 6, 2, random_state=0).labels
    array([0, 0, 0, 1, 1, 1])
    """
    check_option("leiden", backend, ("igraph", "leidenalg"))
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    run = _tell_runs(_leiden_runner(edges, n_nodes, backend, seed), verbose)
    labels, resolution, n_runs = _search_resolution(run, n_communities)
    found = int(labels.max()) + 1
    if found > n_communities:
        labels = _merge(labels, edges, n_communities, features)
    labels = _by_size(labels)
    reached = int(labels.max()) + 1
    return Communities(labels, reached, resolution, n_runs, found - reached)


def community_links(
    labels: np.ndarray, edges: np.ndarray, n_communities: int
) -> np.ndarray:
    """Edges between and within communities.

    Parameters
    ----------
    labels : ndarray of int of shape (n_nodes,)
        Community of each node.
    edges : ndarray of int of shape (n_edges, 2)
        Undirected edges, each once.
    n_communities : int
        Number of communities.

    Returns
    -------
    ndarray of float64 of shape (n_communities, n_communities)
        Symmetric; off the diagonal the number of edges between two communities, on
        it twice the number inside, so that rows sum to degrees.
    """
    ends = labels[edges]
    shape = (n_communities, n_communities)
    ones = np.ones(len(ends))
    counts = coo_matrix((ones, (ends[:, 0], ends[:, 1])), shape=shape).toarray()
    return counts + counts.T


def _search_resolution(run: _Run, target: int) -> tuple[np.ndarray, float, int]:
    """Labels with at least ``target`` communities (or the most), resolution, runs."""
    resolution, n_runs = 1.0, 1
    labels = run(resolution)
    low = 0.0
    while labels.max() + 1 < target and resolution < MAX_RESOLUTION:
        low, resolution = resolution, 2.0 * resolution
        labels = run(resolution)
        n_runs += 1
    if low == 0.0 or labels.max() + 1 < target:
        return labels, resolution, n_runs
    for _ in range(_BISECTIONS):
        if labels.max() + 1 <= _SURPLUS * target:
            break
        middle = np.sqrt(low * resolution)
        tried = run(middle)
        n_runs += 1
        if tried.max() + 1 >= target:
            labels, resolution = tried, middle
        else:
            low = middle
    return labels, float(resolution), n_runs


def _tell_runs(run: _Run, verbose: int) -> _Run:
    """The same function; it says what came out. How many runs there are is unknown."""
    progress = Progress("Leiden, runs", None, enabled=verbose > 0, every=2.0)
    numbers = itertools.count(1)

    def told(resolution: float) -> np.ndarray:
        labels = run(resolution)
        progress.update(
            next(numbers), resolution=resolution, communities=int(labels.max()) + 1
        )
        return labels

    return told


def _leiden_runner(edges: np.ndarray, n_nodes: int, backend: str, seed: int) -> _Run:
    """Function from a resolution to labels 0, 1, ...; the graph is built once."""
    import igraph

    # A list of tuples is what igraph reads fastest.
    pairs = list(zip(edges[:, 0].tolist(), edges[:, 1].tolist(), strict=True))
    graph = igraph.Graph(n=n_nodes, edges=pairs)

    def run_igraph(resolution: float) -> np.ndarray:
        with _IGRAPH_LOCK:
            igraph.set_random_number_generator(random.Random(seed))
            try:
                partition = graph.community_leiden(
                    objective_function="modularity",
                    resolution=resolution,
                    n_iterations=_N_ITERATIONS,
                )
            finally:
                # igraph's own default: Python's global generator.
                igraph.set_random_number_generator(random)
        return np.array(partition.membership, dtype=np.int64)

    def run_leidenalg(resolution: float) -> np.ndarray:
        import leidenalg

        partition = leidenalg.find_partition(
            graph,
            leidenalg.RBConfigurationVertexPartition,
            resolution_parameter=resolution,
            n_iterations=_N_ITERATIONS,
            seed=seed,
        )
        return np.array(partition.membership, dtype=np.int64)

    return run_igraph if backend == "igraph" else run_leidenalg


def _merge(
    labels: np.ndarray, edges: np.ndarray, target: int, features: np.ndarray | None
) -> np.ndarray:
    """Merge communities until ``target`` are left."""
    if labels.max() + 1 > max(_MOST_PAIRED, target):
        labels = _contract(labels, edges, max(_MOST_PAIRED, target))
    found = int(labels.max()) + 1
    links = community_links(labels, edges, found)
    degrees = np.maximum(links.sum(axis=1), 1.0)
    sizes = np.bincount(labels).astype(np.float64)
    means = None
    if features is not None:
        members = coo_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))))
        means = (members.tocsr() @ features) / sizes[:, None]
    alive = np.ones(found, dtype=bool)

    def score(p: int) -> np.ndarray:
        """How soon to merge p with each other community: linked pairs above 0."""
        gaps = (
            degrees * degrees[p]
            if means is None
            else np.linalg.norm(means - means[p], axis=1)
        )
        row = np.where(links[p] > 0, links[p] / (degrees * degrees[p]), -gaps)
        row[~alive] = -np.inf
        row[p] = -np.inf
        return row

    scores = np.array([score(p) for p in range(found)])
    groups = np.arange(found)
    # The best partner of each, kept up to date: the matrix is not read whole again.
    best = scores.argmax(axis=1)
    height = scores[groups, best]
    for _ in range(found - target):
        p = int(height.argmax())
        p, q = sorted((p, int(best[p])))
        if means is not None:
            total = sizes[p] + sizes[q]
            means[p] = (sizes[p] * means[p] + sizes[q] * means[q]) / total
        links[p] += links[q]
        links[:, p] += links[:, q]
        degrees[p] += degrees[q]
        sizes[p] += sizes[q]
        alive[q] = False
        groups[groups == q] = p
        scores[q] = scores[:, q] = -np.inf
        scores[p] = scores[:, p] = score(p)
        stale = np.flatnonzero((best == p) | (best == q))
        best[stale] = scores[stale].argmax(axis=1)
        best[p] = scores[p].argmax()
        column = scores[:, p]
        nearer = (column > height) | ((column == height) & (p < best))
        nearer[stale] = nearer[p] = False
        best[nearer] = p
        height = scores[np.arange(found), best]
    return groups[labels]


def _contract(labels: np.ndarray, edges: np.ndarray, target: int) -> np.ndarray:
    """Bring very many communities down to ``target`` without looking at all pairs.

    In every round those most tightly joined are merged with their best partner, many
    at once. Communities without any edge outside are merged last, the smallest first.
    """
    found = int(labels.max()) + 1
    while found > target:
        ends = labels[edges]
        degrees = np.maximum(np.bincount(ends.ravel(), minlength=found), 1.0)
        ends = ends[ends[:, 0] != ends[:, 1]]
        if len(ends) == 0:
            smallest = np.bincount(labels).argsort(kind="stable")[: found - target + 1]
            pairs = np.column_stack([smallest[:-1], smallest[1:]])
        else:
            pairs = _best_partners(ends, degrees, found)[: found - target]
        joined = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(found, found))
        found, groups = connected_components(joined, directed=False)
        labels = groups[labels].astype(np.int64)
    return labels


def _best_partners(ends: np.ndarray, degrees: np.ndarray, found: int) -> np.ndarray:
    """Each linked community with the one it is joined to most tightly, tightest first.

    Both ends of an edge name communities; ties go to the lowest numbers.
    """
    shape = (found, found)
    half = coo_matrix((np.ones(len(ends)), ends.T), shape=shape).tocsr()
    links = (half + half.T).tocoo()
    tightness = links.data / (degrees[links.row] * degrees[links.col])
    order = np.lexsort((links.col, -tightness, links.row))
    first = order[np.diff(links.row[order], prepend=-1) > 0]
    first = first[np.argsort(-tightness[first], kind="stable")]
    return np.column_stack([links.row[first], links.col[first]])


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber: largest community 0, equal sizes in the order of their first node."""
    _, first, inverse, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]
