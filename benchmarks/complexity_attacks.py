"""What an attacker who wrote a share of the rows can make a fit cost.

The natural data are 4,000 rows of 64 features in 10 classes. In each attack a third of
the rows (`SHARE`) is replaced by rows made to be expensive: duplicates, equal
distances, hubs, chains, crumbs, one row of enormous size, and so on; some attacks set
the labels or the order of the rows too. Every fit runs in a process of its own. Its CPU
time and its peak memory above that before the fit are divided by those of the same fit
on the natural data in the same run.

Run it with ``python benchmarks/complexity_attacks.py``; the result goes to
``benchmarks/results/complexity_attacks.json``. ``--least`` makes it fail if an attack
costs more than the multiples that docs/reliability.md states.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
import traceback
import warnings

import numpy as np
from _stamp import ROOT, stamp

RESULT = ROOT / "benchmarks" / "results" / "complexity_attacks.json"
N, D, K = 4000, 64, 10
SHARE = 1 / 3
# What docs/reliability.md promises: multiples of time and of memory.
MOST_TIME, MOST_MEMORY = 10.0, 4.0


def natural(seed=0):
    """Overlapping classes, a tenth of the labels wrong."""
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=N)
    centres = 4 * rng.normal(size=(K, D)) / np.sqrt(D)
    X = centres[y] + rng.normal(size=(N, D)) / 4
    y[rng.random(N) < 0.1] = 0
    return X.astype(np.float32), y


# -- attacks: rows of the attacker among natural ones ---------------------------------


def rows_of_attacker(n, rng):
    """Name and rows of every attack through X; labels are the target's."""
    grid = rng.integers(0, 2, size=(n, D))
    line = np.linspace(0, 50, n)[:, None]
    angles = np.linspace(0, 40 * np.pi, n)
    spiral = np.c_[angles * np.cos(angles), angles * np.sin(angles)]
    yield "one row, repeated", np.tile(rng.normal(size=D), (n, 1))
    yield "pairs of equal rows", np.repeat(rng.normal(size=(n // 2 + 1, D)), 2, 0)[:n]
    yield "51 equal rows each", np.repeat(rng.normal(size=(n // 51 + 1, D)), 51, 0)[:n]
    yield "49 equal rows each", np.repeat(rng.normal(size=(n // 49 + 1, D)), 49, 0)[:n]
    yield "corners of a cube (ties)", grid
    yield "points of a small grid (ties)", np.c_[grid[:, :6], np.zeros((n, D - 6))]
    yield (
        "equal distances",
        np.eye(D)[np.arange(n) % D] * (1 + np.arange(n) // D)[:, None],
    )
    yield "sphere around a hub", hub(n, rng)
    yield "chain", line * np.eye(D)[0]
    yield "chain of equal steps", np.arange(n)[:, None] * np.eye(D)[0]
    yield "geometric chain", 1.01 ** np.arange(n)[:, None] * np.eye(D)[0]
    yield "spiral", np.c_[spiral, np.zeros((n, D - 2))]
    yield "crumbs far apart", crumbs(n, 8, rng)
    yield "clusters of n_neighbors + 1", crumbs(n, 51, rng)
    yield "zeros", np.zeros((n, D))
    yield "noise, a thousand times as large", 1e3 * rng.normal(size=(n, D))
    yield "noise, a millionth of the size", 1e-6 * rng.normal(size=(n, D))
    yield "denormals", np.full((n, D), 1e-42) * grid
    yield "opposite of the natural rows", -natural()[0][:n]


def hub(n, rng):
    rows = rng.normal(size=(n, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return 5 * rows * (np.arange(n) % 20 > 0)[:, None]


def crumbs(n, size, rng):
    centres = 100 * rng.normal(size=(n // size + 1, D))
    return np.repeat(centres, size, axis=0)[:n] + 0.01 * rng.normal(size=(n, D))


def attacks(seed=0):
    """Name, X and y of the natural data and of every attack."""
    X, y = natural()
    rng = np.random.default_rng(seed)
    n = int(SHARE * N)
    theirs = rng.permutation(N)[:n]
    yield "natural", X, y
    for name, rows in rows_of_attacker(n, rng):
        changed, labels = X.copy(), y.copy()
        changed[theirs] = rows
        labels[theirs] = 0
        yield name, changed, labels
    for factor in (1e6, 1e12, 1e30):
        changed = X.copy()
        changed[theirs[0]] *= factor
        yield f"one row, {factor:g} times as large", changed, y
    order = np.argsort(y, kind="stable")
    yield "rows sorted by label", X[order], y[order]
    order = np.argsort(np.linalg.norm(X, axis=1))
    yield "rows sorted by length", X[order], y[order]
    yield (
        "a third of the labels at random",
        X,
        _labels(y, theirs, rng.integers(K, size=n)),
    )
    yield "a third labelled with one class", X, _labels(y, theirs, 1)
    yield "classes of one row", X, np.where(np.arange(N) < K - 1, 1 + np.arange(N), 0)
    yield "30 new classes", X, _labels(y, theirs[:300], K + np.arange(300) // 10)
    yield "everything one row, repeated", np.tile(X[0], (N, 1)), y


def _labels(y, rows, values):
    changed = y.copy()
    changed[rows] = values
    return changed


# -- fits ------------------------------------------------------------------------------


def fits():
    """Name and function of every fit."""
    from skvibe import OffManifoldFilter, TriggerFilter, VIBEClassifier

    return {
        "OffManifoldFilter": OffManifoldFilter(random_state=0).fit,
        "OffManifoldFilter, leidenalg": OffManifoldFilter(
            leiden="leidenalg", random_state=0
        ).fit,
        "TriggerFilter": TriggerFilter(random_state=0).fit,
        "VIBEClassifier": VIBEClassifier(random_state=0, device="cpu").fit,
        "transport": transport,
    }


def transport(X, y):
    """The E-step's solver on log P with the ties and extremes that X has."""
    import torch

    from skvibe.transport import solve_transport

    means = np.stack([X[y == k].mean(axis=0) for k in np.unique(y)])
    with np.errstate(over="ignore"):
        log_p = torch.from_numpy(np.clip(X @ means.T, -1e4, 1e4).astype(np.float32))
    prior = torch.full((len(means),), 1 / len(means))
    solve_transport(log_p, prior, lam=25.0)


def measure(fit, X, y, seconds):
    """CPU seconds and MB of a fit in a fork, or the error it ended in."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        _child(fit, X, y, there, seconds)
    os.close(there)
    with os.fdopen(here) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return {"error": f"ended with status {status}, over {seconds:.0f} s"}
    return json.loads(text)


def _child(fit, X, y, pipe, seconds):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    result = {}
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                fit(X, y)
            except ValueError as error:
                result["refused"] = str(error)[:200]
        result["seconds"] = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["mb"] = (peak - before) / 1024
        result["warnings"] = sorted({str(w.message)[:100] for w in caught})
        os.write(pipe, json.dumps(result).encode())
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="part of the names of fits")
    parser.add_argument("--without", default="none", help="fits to leave out, likewise")
    parser.add_argument("--attack", default="", help="part of the names of attacks")
    parser.add_argument("--least", action="store_true", help="fail above the multiples")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    chosen = {
        name: fit
        for name, fit in fits().items()
        if args.only in name and args.without not in name
    }
    warm_up(chosen)
    results = {name: {} for name in chosen}
    for attack, X, y in attacks():
        if args.attack not in attack and attack != "natural":
            continue
        for name, fit in chosen.items():
            usual = results[name].get("natural")
            seconds = 600 if usual is None else 60 * usual["seconds"] + 30
            repeats = args.repeats if usual is None else 1
            runs = [measure(fit, X, y, seconds) for _ in range(repeats)]
            run = runs[0]
            if "error" not in run:
                run["seconds"] = statistics.median(r["seconds"] for r in runs)
                run["mb"] = max(r["mb"] for r in runs)
                usual = usual or run
                run["time_ratio"] = run["seconds"] / usual["seconds"]
                # Below some MB the allocator decides.
                run["memory_ratio"] = max(run["mb"], 20) / max(usual["mb"], 20)
            results[name][attack] = run
            print(f"{name:30} {attack:34} {describe(run)}", flush=True)
    worst = {name: summary(runs) for name, runs in results.items()}
    print(json.dumps(worst, indent=1))
    if args.only or args.attack:
        return
    document = {"run": stamp(), "rows": N, "features": D, "share": SHARE}
    document |= {"worst": worst, "fits": results}
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    if args.least and any(
        w["failed"] or w["time"][1] > MOST_TIME or w["memory"][1] > MOST_MEMORY
        for w in worst.values()
    ):
        sys.exit("an attack costs more than the multiples stated")


def warm_up(chosen):
    """Load and compile everything before the first fork."""
    X, y = natural()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fit in chosen.values():
            fit(X[:300], y[:300])


def describe(run):
    if "error" in run:
        return run["error"]
    text = (
        f"{run['seconds']:7.2f} s {run['time_ratio']:6.2f} x  "
        f"{run['mb']:7.0f} MB {run['memory_ratio']:5.2f} x"
    )
    return f"{text}  refused: {run['refused'][:60]}" if "refused" in run else text


def summary(runs):
    done = {name: run for name, run in runs.items() if "error" not in run}
    worst = {
        kind: max(
            ((n, r[f"{kind}_ratio"]) for n, r in done.items()), key=lambda p: p[1]
        )
        for kind in ("time", "memory")
    }
    return {**worst, "failed": [name for name, run in runs.items() if "error" in run]}


if __name__ == "__main__":
    main()
