"""Fewer E-steps where rows are many: what they cost in accuracy.

    python benchmarks/e_step_period.py

50,000 rows are drawn between poisoned AG News embeddings: three quarters of one row and
a quarter of another of the same class, poisoned like it or not, scaled to unit length.
A default fit, whose E-steps are an epoch apart, stands beside one with an E-step every
20 iterations as with few rows, and one with an E-step every two epochs. Test rows are
those of the data set. Writes benchmarks/results/e_step_period.json.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _stamp import ROOT, describe, stamp
from cells import Cell, load
from sklearn.metrics import roc_auc_score

from skvibe import VIBEClassifier

RESULT = ROOT / "benchmarks" / "results" / "e_step_period.json"
# Attack, target, rate, seeds: more of them where the backdoor now and then passes.
CELLS = [
    ("word", 0, 0.02, 2),
    ("sent", 1, 0.02, 2),
    ("word", 1, 0.1, 2),
    ("sent", 0, 0.005, 7),
]
PERIODS = (20, "auto", 98)


def rows_between(arrays, n_rows, rng):
    """Features, labels and poison mask of rows drawn between those of a cell."""
    group = 2 * arrays.y_true + arrays.poison_mask
    first = rng.integers(len(group), size=n_rows)
    second = np.empty_like(first)
    for code in np.unique(group):
        here = group[first] == code
        second[here] = rng.choice(np.flatnonzero(group == code), here.sum())
    X = 0.75 * arrays.X[first] + 0.25 * arrays.X[second]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X.astype(np.float32), arrays.y[first], arrays.poison_mask[first]


def measure(arrays, X, y, poisoned, period, seed):
    """One fit: what it costs and how well it defends."""
    start = time.process_time()
    vibe = VIBEClassifier(e_step_period=period, random_state=seed).fit(X, y)
    spent = time.process_time() - start
    others = arrays.y_test != arrays.target
    obeyed = vibe.predict(arrays.X_triggered[others]) == arrays.target
    return {
        "period": period,
        "fit_s": spent,
        "e_steps": len(vibe.lower_bounds_),
        "iterations": vibe.n_iter_,
        "ACC": float((vibe.predict(arrays.X_test) == arrays.y_test).mean()),
        "ASR": float(obeyed.mean()),
        "AUROC": float(roc_auc_score(poisoned, vibe.poison_scores_)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fits = []
    for attack, target, rate, n_seeds in CELLS:
        for seed in range(n_seeds):
            arrays = load(Cell("agnews", attack, target, rate, seed))
            rng = np.random.default_rng(seed)
            X, y, poisoned = rows_between(arrays, options.rows, rng)
            for period in PERIODS:
                fit = {"attack": attack, "target": target, "rate": rate, "seed": seed}
                fit |= measure(arrays, X, y, poisoned, period, seed)
                print(json.dumps(fit), flush=True)
                fits.append(fit)
    means = {
        str(period): {
            name: statistics.mean(fit[name] for fit in fits if fit["period"] == period)
            for name in ("ACC", "ASR", "AUROC", "e_steps", "iterations", "fit_s")
        }
        for period in PERIODS
    }
    result = {"run": stamp(), "rows": options.rows, "means": means, "fits": fits}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(means, indent=1), describe(result["run"]), sep="\n")


if __name__ == "__main__":
    main()
