"""The neighbour graph, the community search and the filter, against their peers.

    python benchmarks/bench_graph.py [--quick]

Every figure is a ratio of processor times of this one run, on one thread. Writes
benchmarks/results/graph.json (graph_quick.json with --quick) and, in a full run,
docs/figures/graph.png.

Features: unit vectors round K directions with noise so wide that neighbouring groups
touch, and 5 % of the rows round one direction more: the worst case for approximate
search. "Scan" is the published search for K + 1 communities: 50 resolutions from 0.1 to
3. With leidenalg every tenth of them is run and the time multiplied by ten.
"""

import argparse
import importlib.util
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _stamp import describe, stamp
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from skvibe.communities import _leiden_runner, find_communities
from skvibe.knn import find_neighbors, neighbor_edges
from skvibe.off_manifold import detect_off_manifold

ROOT = Path(__file__).resolve().parents[1]
N_NEIGHBORS = 50
RESOLUTIONS = np.linspace(0.1, 3.0, 50)
# (rows, dimensions) of the neighbour search; peers above the limit are left out.
KNN = [(10_000, 128), (20_000, 128), (50_000, 128), (50_000, 384), (100_000, 128)]
KNN_QUICK = [(5_000, 128), (10_000, 128), (10_000, 384)]
SLOW_PEERS_UP_TO = 50_000
# (rows, classes) of the community search.
SEARCH = [(10_000, 10), (10_000, 20), (10_000, 50), (10_000, 100), (50_000, 10)]
SEARCH_QUICK = [(5_000, 10), (5_000, 20)]
FILTER = [(10_000, 384), (20_000, 384), (50_000, 384)]
FILTER_QUICK = [(5_000, 384), (10_000, 384)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    run = stamp()
    import igraph  # noqa: F401  (not part of any measurement)

    path = ROOT / "benchmarks/results" / ("graph_quick.json" if quick else "graph.json")
    results = {"run": run, "knn": [], "search": [], "filter": []}
    for n, d in KNN_QUICK if quick else KNN:
        results["knn"].append(show(bench_neighbors(n, d)))
        write(path, results)
    for n, k in SEARCH_QUICK if quick else SEARCH:
        results["search"].append(show(bench_search(n, k)))
        write(path, results)
    for n, d in FILTER_QUICK if quick else FILTER:
        results["filter"].append(show(bench_filter(n, d)))
        write(path, results)
    print(describe(run))
    if not quick:
        draw(results, ROOT / "docs/figures/graph.png")


def make_features(n, d, n_classes, seed=0):
    """Unit vectors round ``n_classes`` directions, 5 % round one more; their groups."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes + 1, d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    groups = rng.integers(n_classes, size=n)
    groups[rng.random(n) < 0.05] = n_classes
    X = centres[groups] + 0.25 * rng.standard_normal((n, d))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X.astype(np.float32), groups


def timed(function):
    """Result and processor seconds."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def bench_neighbors(n, d):
    X, _ = make_features(n, d, 10)
    exact, own = timed(lambda: find_neighbors(X, N_NEIGHBORS, method="exact"))
    record = {"n": n, "d": d, "seconds": {"skvibe": own}, "recall": {"skvibe": 1.0}}
    peers = {}
    if importlib.util.find_spec("faiss"):
        peers["faiss flat"] = lambda: search_faiss(X)
    if n <= SLOW_PEERS_UP_TO:
        peers["scikit-learn brute"] = lambda: search_sklearn(X)
    # Its first build compiles; the second is measured.
    find_neighbors(X[:2000], N_NEIGHBORS, method="pynndescent", random_state=0)
    peers["pynndescent"] = lambda: find_neighbors(
        X, N_NEIGHBORS, method="pynndescent", random_state=0
    )
    for name, search in peers.items():
        found, seconds = timed(search)
        record["seconds"][name] = seconds
        record["recall"][name] = recall(found, exact)
    return record


def search_faiss(X):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(X.shape[1])
    index.add(X)
    return index.search(X, N_NEIGHBORS + 1)[1]


def search_sklearn(X):
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS, algorithm="brute")
    return search.fit(X).kneighbors(return_distance=False)


def recall(found, exact, n_rows=2000):
    rows = np.linspace(0, len(exact) - 1, min(n_rows, len(exact))).astype(int)
    return float(np.mean([np.isin(exact[i], found[i]).mean() for i in rows]))


def bench_search(n, n_classes):
    X, groups = make_features(n, 128, n_classes)
    neighbors = find_neighbors(X, N_NEIGHBORS)
    edges, edge_seconds = timed(lambda: neighbor_edges(neighbors))
    target = n_classes + 1
    build, build_seconds = timed(lambda: _leiden_runner(edges, n, "igraph", 0))
    found, seconds = timed(
        lambda: find_communities(edges, n, target, features=X, random_state=0)
    )
    record = {
        "n": n,
        "n_classes": n_classes,
        "n_edges": len(edges),
        "seconds": {
            "edges": edge_seconds,
            "build": build_seconds,
            "search": max(seconds - build_seconds, 0.0),
        },
        "n_communities": found.n_communities,
        "n_runs": found.n_runs,
        "n_merged": found.n_merged,
        "modularity": modularity(edges, n, found.labels),
        "ari": adjusted_rand_score(groups, found.labels),
    }
    _, record["seconds"]["one run"] = timed(lambda: build(1.0))
    partitions, record["seconds"]["igraph scan"] = timed(
        lambda: [build(r) for r in RESOLUTIONS]
    )
    hits = [p for p in partitions if p.max() + 1 == target]
    record["scan_hits"] = len(hits)
    record["scan_best_modularity"] = max(
        (modularity(edges, n, p) for p in hits), default=None
    )
    record["scan_best_ari"] = max(
        (adjusted_rand_score(groups, p) for p in hits), default=None
    )
    other = _leiden_runner(edges, n, "leidenalg", 0)
    other(1.0)
    _, seconds = timed(lambda: [other(r) for r in RESOLUTIONS[5::10]])
    record["seconds"]["leidenalg scan (from 5 of 50)"] = 10 * seconds
    return record


def modularity(edges, n, labels):
    inside = np.mean(labels[edges[:, 0]] == labels[edges[:, 1]])
    degrees = np.bincount(labels[edges].ravel(), minlength=labels.max() + 1)
    return float(inside - np.sum((degrees / degrees.sum()) ** 2))


def bench_filter(n, d):
    X, groups = make_features(n, d, 10)
    y = np.where(groups == 10, 0, groups)
    result, seconds = timed(lambda: detect_off_manifold(X, 10, y=y, random_state=0))
    neighbors, search = timed(lambda: find_neighbors(X, N_NEIGHBORS, method="exact"))
    edges, edge_seconds = timed(lambda: neighbor_edges(neighbors))
    build, build_seconds = timed(lambda: _leiden_runner(edges, n, "igraph", 0))
    _, one = timed(lambda: build(1.0))
    parts = {"neighbours": search, "graph": edge_seconds + build_seconds, "Leiden": one}
    again = detect_off_manifold(X, 10, y=y, random_state=0) if n <= 10_000 else result
    return {
        "n": n,
        "d": d,
        "seconds": {"filter": seconds, **parts},
        "ratio_to_parts": seconds / sum(parts.values()),
        "decision": result.decision,
        "same_communities": bool((again.communities == result.communities).all()),
    }


def show(record):
    print(json.dumps(record, default=float), flush=True)
    return record


def write(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, default=float) + "\n")


def draw(results, path):
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained"
    )
    names = {"skvibe": "skvibe (exact)"}
    styles = {"skvibe": "o-", "faiss flat": "s--", "pynndescent": "^:"}
    for name in ("skvibe", "faiss flat", "scikit-learn brute", "pynndescent"):
        rows = [r for r in results["knn"] if r["d"] == 128 and name in r["seconds"]]
        if rows:
            left.loglog(
                [r["n"] for r in rows],
                [r["seconds"][name] for r in rows],
                styles.get(name, "d--"),
                label=names.get(name, name),
            )
    left.set_title("50 nearest neighbours, 128 features")
    rows = [r for r in results["search"] if r["n"] == 10_000]
    for name, style in [
        ("search", "o-"),
        ("igraph scan", "s--"),
        ("leidenalg scan (from 5 of 50)", "d--"),
    ]:
        middle.loglog(
            [r["n_classes"] + 1 for r in rows],
            [r["seconds"][name] for r in rows],
            style,
            label={"search": "skvibe"}.get(name, name),
        )
    middle.set_title("Search for K + 1 communities, 10,000 rows")
    rows = results["filter"]
    for name, style in [
        ("filter", "o-"),
        ("neighbours", "s--"),
        ("graph", "d--"),
        ("Leiden", "^:"),
    ]:
        right.loglog(
            [r["n"] for r in rows],
            [r["seconds"][name] for r in rows],
            style,
            label={"filter": "whole filter"}.get(name, name),
        )
    right.set_title("Filter, 384 features, 10 classes")
    for axes, label in [(left, "rows"), (middle, "communities"), (right, "rows")]:
        axes.set_xlabel(label)
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    left.set_ylabel("processor seconds, one thread")
    middle.set_ylim(top=2e3)  # room for the legend
    middle.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
