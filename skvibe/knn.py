"""Nearest-neighbour graphs: exact by chunked matrix products, or approximate.

The exact search never holds an (n, n) matrix, decides ties by the lowest row number
and needs no compiled extra. In the features this package is for (overlapping
groups, hundreds of dimensions) no approximate index was found that beats it below
`EXACT_LIMIT` rows at a recall near one; see ``benchmarks/bench_graph.py``.
"""

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

from skvibe._progress import Progress

EXACT_LIMIT = 100_000
"""Rows up to which ``method="auto"`` searches exactly."""

# One chunk of scores: large enough for a fast matrix product, small enough for cache.
_CHUNK_ELEMENTS = 2**22
# Columns are searched in groups of this many; only the best groups are looked into.
_GROUP = 16
# Candidates kept beyond n_neighbors, so that most ties are decided among them.
_EXTRA = 8
# Rows that the centre of all is taken from.
_CENTRE_ROWS = 4096
# Rows this many spreads away are searched for neighbours of theirs by another scale.
_FAR = 1024.0
# Squares of longer vectors leave the range of float32.
_LARGEST_NORM = 1e18
# Differences of squared distances below this share of the squared norm are ties.
_TIE = 2.0**-40


def find_neighbors(
    X,
    n_neighbors,
    *,
    query=None,
    metric="euclidean",
    method="auto",
    random_state=None,
    n_jobs=None,
    verbose=0,
):
    """Nearest rows of ``X`` for each of its rows, or for each row of ``query``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        The rows to search in. Finite.
    n_neighbors : int
        Neighbours for each row, the row itself not counted. At most
        ``n_samples - 1``, or ``n_samples`` with ``query``.
    query : array-like of shape (n_queries, n_features), default=None
        Rows to find neighbours for. None: the rows of ``X``, each without itself.
    metric : str, default="euclidean"
        "euclidean" and "cosine" are searched by matrix products; any other metric
        of scikit-learn's `NearestNeighbors` is passed on to it.
    method : {"auto", "exact", "pynndescent"}, default="auto"
        "auto" is exact up to `EXACT_LIMIT` rows, then "pynndescent". Approximate
        search is never used for ``query``.
    random_state : int, RandomState instance or None, default=None
        Used by "pynndescent" only.
    n_jobs : int, default=None
        Threads over the chunks of rows (results do not depend on it).
    verbose : int, default=0
        Above 0, print how far the search is if it takes more than two seconds.

    Returns
    -------
    ndarray of int64 of shape (n_queries or n_samples, n_neighbors)
        Row numbers, nearest first. The exact search returns the true set for the
        features rounded to float32: among rows at the same distance those with the
        lowest numbers (order inside a row's list is true to float32 only). The
        approximate one may leave -1 where it found none.

    References
    ----------
    W. Dong, C. Moses, K. Li. Efficient k-nearest neighbor graph construction for
    generic similarity measures. WWW 2011. doi:10.1145/1963405.1963487

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.knn import find_neighbors
    >>> find_neighbors(np.array([[0.0], [1.0], [3.0], [7.0]]), 2)
    array([[1, 2],
           [0, 2],
           [1, 0],
           [2, 1]])
    """
    X = np.asarray(X)
    most = len(X) - (query is None)
    if not 1 <= n_neighbors <= most:
        raise ValueError(
            f"n_neighbors must be in [1, {most}] for {len(X)} rows, got {n_neighbors}."
        )
    if method == "auto":
        method = "exact" if len(X) <= EXACT_LIMIT else "pynndescent"
    if method == "pynndescent" and query is None:
        return _approximate(X, n_neighbors, metric, random_state, n_jobs, verbose)
    if metric not in ("euclidean", "cosine"):
        search = NearestNeighbors(n_neighbors=n_neighbors, metric=metric, n_jobs=n_jobs)
        return search.fit(X).kneighbors(query, return_distance=False)
    return _exact(X, query, n_neighbors, metric, n_jobs, verbose)


def neighbor_edges(neighbors):
    """Undirected edges of the union graph: i - j if one is a neighbour of the other.

    Parameters
    ----------
    neighbors : ndarray of int of shape (n_samples, n_neighbors)
        As `find_neighbors` returns it; negative entries are skipped.

    Returns
    -------
    ndarray of int64 of shape (n_edges, 2)
        Each edge once, lower row number first, sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.knn import neighbor_edges
    >>> neighbor_edges(np.array([[1], [0], [1]]))
    array([[0, 1],
           [1, 2]])
    """
    n, k = neighbors.shape
    rows = np.repeat(np.arange(n), k)
    columns = neighbors.ravel()
    found = columns >= 0
    return _unique_edges(rows[found], columns[found], n)


def transformer_edges(transformer, X):
    """Undirected edges of the graph a `KNeighborsTransformer`-like object builds.

    Parameters
    ----------
    transformer : object with ``fit_transform(X)``
        Returns a sparse matrix of shape (n_samples, n_samples) whose stored entries
        are the neighbours. It is cloned, not fitted itself.
    X : ndarray of shape (n_samples, n_features)
        The rows.

    Returns
    -------
    ndarray of int64 of shape (n_edges, 2)
        Each edge once, lower row number first, sorted; no loops.
    """
    graph = clone(transformer, safe=False).fit_transform(X)
    if not hasattr(graph, "tocoo") or graph.shape != (len(X), len(X)):
        raise ValueError(
            "neighbors.fit_transform(X) must return a sparse matrix of shape "
            f"({len(X)}, {len(X)}), as KNeighborsTransformer does; got "
            f"{type(graph).__name__} of shape {getattr(graph, 'shape', None)}."
        )
    graph = graph.tocoo()
    rows, columns = graph.row.astype(np.int64), graph.col.astype(np.int64)
    apart = rows != columns
    return _unique_edges(rows[apart], columns[apart], len(X))


def _batches(n, size):
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _unique_edges(rows, columns, n):
    codes = np.minimum(rows, columns) * n + np.maximum(rows, columns)
    codes.sort()
    codes = codes[np.diff(codes, prepend=-1) > 0]
    return np.column_stack(np.divmod(codes, n))


def _approximate(X, n_neighbors, metric, random_state, n_jobs, verbose):
    # Imported here: loading it compiles for seconds.
    from pynndescent import NNDescent

    index = NNDescent(
        np.ascontiguousarray(X, dtype=np.float32),
        n_neighbors=min(n_neighbors + 1, len(X)),
        metric=metric,
        random_state=check_random_state(random_state).randint(2**31 - 1),
        # More threads make its result depend on their timing.
        n_jobs=1 if n_jobs is None else n_jobs,
        verbose=verbose > 0,
    )
    return _without_self(index.neighbor_graph[0].astype(np.int64), n_neighbors)


def _without_self(neighbors, n_neighbors):
    """Drop each row's own number, or its last neighbour where that is missing."""
    own = neighbors == np.arange(len(neighbors))[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    return np.take_along_axis(neighbors, order, axis=1)[:, :n_neighbors]


def _exact(X, query, n_neighbors, metric, n_jobs, verbose):
    parts = [X] if query is None else [X, np.asarray(query)]
    parts = [np.array(part, dtype=np.float64) for part in parts]
    if metric == "cosine":
        for part in parts:
            # By the largest entry first, so that the squares cannot overflow.
            part /= _nonzero(np.abs(part).max(axis=1, keepdims=True))
            part /= _nonzero(np.linalg.norm(part, axis=1, keepdims=True))
    scaled, far = _scale_by_most(parts)
    own = np.arange(len(X)) if query is None else None
    progress = Progress("neighbours", len(scaled[-1]), enabled=verbose > 0, every=2.0)
    found = _search(scaled[0], scaled[-1], own, n_neighbors, n_jobs, progress)
    if far[-1].any():
        # Rows far off, or even moved nearer to the others: once more, by their scale.
        scaled = _scale_by_largest(parts)
        own = None if own is None else own[far[-1]]
        found[far[-1]] = _search(
            scaled[0], scaled[-1][far[-1]], own, n_neighbors, n_jobs
        )
    return found


def _search(base, points, own, n_neighbors, n_jobs, progress=None):
    norms = np.einsum("ij,ij->i", base, base, dtype=np.float64)
    # The product with this gives x.y - |y|^2 / 2: the larger, the nearer.
    columns = np.column_stack([base, (-0.5 * norms).astype(np.float32)]).T
    norms = np.sqrt(norms)
    step = max(1, min(len(points), _CHUNK_ELEMENTS // len(base)))
    chunks = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(_search_chunk)(
            base,
            columns,
            norms,
            points[rows],
            None if own is None else own[rows],
            n_neighbors,
        )
        for rows in _batches(len(points), step)
    )
    found, n_found = [], 0
    for chunk in chunks:
        found.append(chunk)
        n_found += len(chunk)
        if progress is not None:
            progress.update(n_found)
    return np.concatenate(found)


def _scale_by_most(parts):
    """Features as float32, by the centre and spread of most rows, and who is far off.

    Neither changes who is near whom. A few rows far off all others, such as one of
    unnormalised numbers, cost the others nothing of their precision; where they are
    too far for float32 they are moved nearer, and stay farther than all others.
    """
    X = parts[0]
    centre = np.median(X[:: -(-len(X) // _CENTRE_ROWS)], axis=0)
    with np.errstate(over="ignore"):
        spreads = np.abs(X - centre).max(axis=1)
        apart = spreads[(spreads > 0) & np.isfinite(spreads)]
        scale, centre = _powers_of_two(np.median(apart) if len(apart) else 0.0, centre)
        parts = [(part - centre) / scale for part in parts]
    limit = _LARGEST_NORM / np.sqrt(X.shape[1])
    far = [(np.abs(part) > min(_FAR, limit)).any(axis=1) for part in parts]
    return [part.clip(-limit, limit).astype(np.float32) for part in parts], far


def _scale_by_largest(parts):
    """Features as float32, by the largest number there is."""
    largest = max(np.abs(part).max() for part in parts)
    parts = [part / 2.0 ** np.ceil(np.log2(largest)) for part in parts]
    centre = parts[0].mean(axis=0)
    spread = max(np.abs(part - centre).max() for part in parts)
    scale, centre = _powers_of_two(spread, centre)
    return [((part - centre) / scale).astype(np.float32) for part in parts]


def _powers_of_two(spread, centre):
    """Scale and centre rounded, so that small integers and their ties survive."""
    scale = 2.0 ** np.ceil(np.log2(spread)) if spread > 0 else 1.0
    return scale, np.rint(centre / scale * 64.0) * (scale / 64.0)


def _nonzero(norms):
    return np.where(norms > 0, norms, 1.0)


def _search_chunk(base, columns, norms, points, own, n_neighbors):
    scores = np.column_stack([points, np.ones(len(points), np.float32)]) @ columns
    if own is not None:
        scores[np.arange(len(points)), own] = -np.inf
    wanted = min(n_neighbors + _EXTRA, len(base) - (own is not None))
    best, values = _largest(scores, wanted)
    if wanted == n_neighbors:
        return best
    # float32 products are true to about this much; closer scores may be ties.
    reach = norms[best].max(axis=1)
    own_norm = np.sqrt(np.einsum("ij,ij->i", points, points, dtype=np.float64))
    noise = 4 * np.finfo(np.float32).eps * np.sqrt(base.shape[1] + 1)
    noise = noise * (own_norm + reach) * reach
    last = values[:, n_neighbors - 1]
    unsure = np.flatnonzero(last - values[:, n_neighbors] <= noise)
    if len(unsure):
        grid = _TIE * np.maximum(own_norm + reach, np.finfo(np.float32).tiny) ** 2
        narrow = (last - values[:, -1] > noise)[unsure]
        near = unsure[narrow]
        best[near, :n_neighbors] = _decide_among(
            base, points[near], best[near], grid[near], n_neighbors
        )
        for batch in _batches(np.count_nonzero(~narrow), 256):
            wide = unsure[~narrow][batch]
            best[wide, :n_neighbors] = _decide_among_all(
                base,
                points[wide],
                grid[wide],
                n_neighbors,
                None if own is None else own[wide],
            )
    return best[:, :n_neighbors]


def _largest(scores, k):
    """Columns of the ``k`` largest values of each row, and the values, descending."""
    n = scores.shape[1]
    groups = n // _GROUP
    if groups < 4 * k:
        chosen = np.argpartition(scores, n - k, axis=1)[:, n - k :]
    else:
        # The k largest values lie in the k groups with the largest maxima (group g
        # is the columns g, g + groups, ...), or in the few columns left over.
        body = groups * _GROUP
        maxima = scores[:, :body].reshape(len(scores), _GROUP, groups).max(axis=1)
        top = np.argpartition(maxima, groups - k, axis=1)[:, groups - k :]
        pool = (top[:, None, :] + groups * np.arange(_GROUP)[:, None]).reshape(
            len(scores), -1
        )
        rest = np.broadcast_to(np.arange(body, n), (len(scores), n - body))
        pool = np.concatenate([pool, rest], axis=1)
        values = np.take_along_axis(scores, pool, axis=1)
        inner = np.argpartition(values, pool.shape[1] - k, axis=1)[:, -k:]
        chosen = np.take_along_axis(pool, inner, axis=1)
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(
        values, order, axis=1
    )


def _decide_among(base, points, candidates, grid, n_neighbors):
    """Nearest candidates in float64, ties to the lowest row number."""
    distances = np.empty(candidates.shape)
    for batch in _batches(len(points), 256):
        gaps = base[candidates[batch]].astype(np.float64)
        gaps -= points[batch, None, :]
        distances[batch] = np.einsum("ijk,ijk->ij", gaps, gaps)
    distances = np.rint(distances / grid[:, None])
    order = np.lexsort((candidates, distances), axis=1)[:, :n_neighbors]
    return np.take_along_axis(candidates, order, axis=1)


def _decide_among_all(base, points, grid, n_neighbors, own):
    """The same over every row, for the rare row with very many ties."""
    points = points.astype(np.float64)
    distances = np.empty((len(points), len(base)))
    for batch in _batches(len(base), 4096):
        block = base[batch].astype(np.float64)
        half = 0.5 * np.einsum("ij,ij->i", block, block)
        distances[:, batch] = half - points @ block.T
    distances += 0.5 * np.einsum("ij,ij->i", points, points)[:, None]
    distances = np.rint(2.0 * distances / grid[:, None])
    if own is not None:
        distances[np.arange(len(points)), own] = np.inf
    last = np.partition(distances, n_neighbors - 1, axis=1)[:, n_neighbors - 1]
    below = distances < last[:, None]
    level = distances == last[:, None]
    room = n_neighbors - below.sum(axis=1, keepdims=True)
    below |= level & (np.cumsum(level, axis=1) <= room)
    chosen = np.nonzero(below)[1].reshape(len(points), n_neighbors)
    order = np.argsort(
        np.take_along_axis(distances, chosen, axis=1), axis=1, kind="stable"
    )
    return np.take_along_axis(chosen, order, axis=1)
