"""Rows to review: how many of them have a wrong label, by score.

    python benchmarks/review_rows.py [--rows 8000]

AG News embeddings without any attack (``agnews_small_minilm.npz`` in SKVIBE_DATA,
default ../shared/data), 3 % of the labels changed at random. Writes
benchmarks/results/review_rows.json.
"""

import argparse
import itertools
import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from _stamp import ROOT, describe, stamp

import skvibe

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def load(n_rows, rate=0.03):
    """Rows, labels of which some are changed, and which."""
    folder = Path(os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data"))
    arrays = np.load(folder / "agnews_small_minilm.npz")
    train = np.flatnonzero(arrays["split"] == 0)[:n_rows]
    X = arrays["emb_clean"][train].astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = arrays["labels"][train].astype(int)
    rng = np.random.default_rng(0)
    changed = rng.random(len(y)) < rate
    n_classes = y.max() + 1
    moved = rng.integers(1, n_classes, changed.sum())
    y[changed] = (y[changed] + moved) % n_classes
    return X, y, changed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    torch.set_num_threads(1)
    X, y, changed = load(parser.parse_args().rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = skvibe.audit(X, y)
    left = found.removed_by == ""
    lines = []
    for low, high in itertools.pairwise(EDGES):
        rows = left & (found.poison_scores >= low)
        rows &= found.poison_scores < (high if high < 1 else 1.01)
        lines.append(
            {
                "from": low,
                "to": high,
                "rows": int(rows.sum()),
                "changed": int(changed[rows].sum()),
            }
        )
    kept = left & ~found.is_suspect
    result = {
        "run": stamp(),
        "rows": len(y),
        "changed": int(changed.sum()),
        "changed and kept": int(changed[kept].sum()),
        "removed by filters": int((~left).sum()),
        "lines": lines,
    }
    for line in lines:
        print(line)
    print(describe(result["run"]))
    target = ROOT / "benchmarks" / "results" / "review_rows.json"
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
