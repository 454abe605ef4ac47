"""`VIBEClassifier` at its defaults, alone and behind both filters, on unseen data.

Nothing was chosen on these:

* clouds on the sphere, 2, 10 and 77 classes, balanced and 30:1, poisoned and clean:
  labels recovered by ``prior="auto"`` beside both fixed priors;
* scikit-learn's wine, breast cancer and digits, the last with two other triggers;
* TREC-6 with its 50 fine labels (where the data are at hand).

Run it with ``python benchmarks/unseen_data.py``; the result goes to
``benchmarks/results/unseen_data.json``.
"""

import csv
import gzip
import json
import pathlib
import warnings

import numpy as np
import torch
from _stamp import stamp
from cells import data_directory
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvibe import OffManifoldFilter, TriggerFilter, VIBEClassifier
from skvibe.verdict import fill_clean_labels

RESULT = pathlib.Path(__file__).parent / "results" / "unseen_data.json"
PRIORS = ("auto", "uniform", "empirical")


def poison(X, y, X_test, y_test, trigger, target, rate, seed):
    """A cell: rows of other classes with the trigger and the target's label."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(y != target))[: round(rate * len(y))]
    mask = np.isin(np.arange(len(y)), rows)
    return {
        "X": np.where(mask[:, None], trigger(X), X),
        "y": np.where(mask, target, y),
        "y_true": y,
        "X_test": X_test,
        "y_test": y_test,
        "X_triggered": trigger(X_test),
        "target": target,
        "rate": rate,
    }


def clouds(n_classes, imbalance, rate, seed, n_features=128):
    """Gaussian clouds with unequal spread of the features."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_classes, n_features))
    centres *= 0.8 / np.linalg.norm(centres, axis=1, keepdims=True)
    shares = np.geomspace(1, 1 / imbalance, n_classes)
    spread = np.sqrt(rng.gamma(0.5, size=n_features) / (0.5 * n_features))

    def draw(n, shares):
        y = rng.choice(n_classes, n, p=shares / shares.sum())
        return centres[y] + rng.normal(size=(n, n_features)) * spread, y

    X, y = draw(100 * n_classes if n_classes > 20 else 2000, shares)
    X_test, y_test = draw(1000, np.ones(n_classes))
    shift = rng.normal(size=n_features)
    shift *= 0.5 / np.linalg.norm(shift)
    # The target is a class in the middle: neither the largest nor the smallest.
    target = n_classes // 2 if n_classes > 2 else 0
    return poison(X, y, X_test, y_test, lambda X: X + shift, target, rate, seed)


def bundled(loader, rate, seed):
    """A table of scikit-learn's; the trigger sets two features."""
    X, y = loader(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, random_state=seed)

    def trigger(X):
        X = X.copy()
        X[:, :2] = 2.0
        return X

    return poison(X, y, X_test, y_test, trigger, 0, rate, seed)


def other_digits(name, rate, seed):
    """Digits with a stripe or with a faint pattern over all pixels."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=seed)
    pattern = np.random.default_rng(seed).random(64)

    def trigger(X):
        if name == "blend":
            return 0.8 * X + 0.2 * pattern
        X = X.copy()
        X[:, 24:32] = 1.0
        return X

    return poison(X, y, X_test, y_test, trigger, 3, rate, seed)


def fine_trec(rate, seed):
    """TREC with 50 fine labels; the classes of at least 20 rows."""
    with np.load(data_directory() / "trec6_minilm.npz") as file:
        clean = file["emb_clean"].astype(np.float32)
        triggered = file["emb_trigger_word"].astype(np.float32)
        is_test = file["split"] == 1
    with gzip.open(data_directory() / "trec6.csv.gz", "rt", encoding="utf-8") as file:
        fine = np.array([row["fine_label"] for row in csv.DictReader(file)])
    names, counts = np.unique(fine[~is_test], return_counts=True)
    kept = np.isin(fine, names[counts >= 20])
    y = np.unique(fine, return_inverse=True)[1]
    train, test = kept & ~is_test, kept & is_test
    target = np.bincount(y[train]).argmax()
    rng = np.random.default_rng(seed)
    others = np.flatnonzero(y[train] != target)
    mask = np.zeros(train.sum(), dtype=bool)
    mask[rng.permutation(others)[: round(rate * train.sum())]] = True
    return {
        "X": np.where(mask[:, None], triggered[train], clean[train]),
        "y": np.where(mask, target, y[train]),
        "y_true": y[train],
        "X_test": clean[test],
        "y_test": y[test],
        "X_triggered": triggered[test],
        "target": target,
        "rate": rate,
    }


def measure(model, data):
    """Clean accuracy and attack success."""
    others = data["y_test"] != data["target"]
    obeyed = model.predict(data["X_triggered"][others]) == data["target"]
    acc = np.mean(model.predict(data["X_test"]) == data["y_test"])
    return {"acc": float(acc), "asr": float(obeyed.mean())}


def judge(name, seed, data, priors=("auto",)):
    """One line: no defence, oracle, and the classifier with each prior."""
    unit = [
        data[key] / np.linalg.norm(data[key], axis=1, keepdims=True)
        for key in ("X", "X_test", "X_triggered")
    ]
    as_unit = data | {"X_test": unit[1], "X_triggered": unit[2]}
    plain = LogisticRegression(C=10, max_iter=2000)
    clean = data["y"] == data["y_true"]
    line = {"cell": name, "seed": seed, "rate": data["rate"]}
    line["none"] = measure(plain.fit(unit[0], data["y"]), as_unit)
    plain.fit(unit[0][clean], data["y"][clean])
    line["oracle"] = measure(plain, as_unit)
    for prior in priors:
        model = VIBEClassifier(prior=prior, random_state=0).fit(data["X"], data["y"])
        found = model.clean_labels_
        line[prior] = measure(model, data) | {
            "recovered": float(np.mean(found == data["y_true"])),
            "changed": float(np.mean(found != data["y"])),
            "setting": [model.whitening_, model.kappa_, model.nu_],
        }
    line["three steps"] = three_steps(data)
    shown = {
        key: {k: round(v, 3) for k, v in value.items() if k != "setting"}
        for key, value in line.items()
        if isinstance(value, dict)
    }
    print(name, seed, data["rate"], shown, flush=True)
    return line


def three_steps(data):
    """Of the pipeline of both filters and the classifier."""
    pipeline = Pipeline(
        [
            ("manifold", OffManifoldFilter(random_state=0)),
            ("trigger", TriggerFilter(random_state=0)),
            ("vibe", VIBEClassifier(random_state=0)),
        ]
    )
    with warnings.catch_warnings():
        # Few rows, or too many suspects: the figures say what came of it.
        warnings.simplefilter("ignore", UserWarning)
        pipeline.fit(data["X"], data["y"])
    found = fill_clean_labels(pipeline, data["X"])
    return measure(pipeline, data) | {
        "recovered": float(np.mean(found == data["y_true"])),
        "changed": float(np.mean(found != data["y"])),
        "removed": pipeline["vibe"].n_removed_rows_,
    }


def main():
    torch.set_num_threads(1)
    lines = []
    for seed in range(3):
        for n_classes in (2, 10, 77):
            for imbalance in (1, 30):
                for rate in (0.0, 0.02):
                    data = clouds(n_classes, imbalance, rate, seed)
                    name = f"clouds K={n_classes} {imbalance}:1"
                    lines.append(judge(name, seed, data, PRIORS))
        for name, loader in (("wine", load_wine), ("cancer", load_breast_cancer)):
            for rate in (0.0, 0.1):
                lines.append(judge(name, seed, bundled(loader, rate, seed)))
        for name in ("stripe", "blend"):
            for rate in (0.02, 0.1):
                data = other_digits(name, rate, seed)
                lines.append(judge(f"digits {name}", seed, data))
        if (data_directory() / "trec6_minilm.npz").exists():
            for rate in (0.0, 0.02, 0.05):
                lines.append(judge("trec fine labels", seed, fine_trec(rate, seed)))
    RESULT.write_text(json.dumps({"run": stamp(), "cells": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
