"""`VIBEClassifier` at its defaults, without any filter, where it is meant to hold.

* digits, corner trigger, 10 %: raw pixels and a Nystroem map, both posteriors;
* AG News embeddings, word and sentence trigger, 10 %, all 20,000 rows;
* TREC-6 embeddings (unbalanced classes), word trigger, target HUM, 2 to 10 %;
* the same data without poison: what the defence costs.

Run it with ``python benchmarks/classifier_alone.py``; the result goes to
``benchmarks/results/classifier_alone.json``.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from _stamp import stamp
from cells import Cell, load
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import backdoor_report

RESULT = pathlib.Path(__file__).parent / "results" / "classifier_alone.json"


def judge(name, data, model):
    """One line of the result."""
    model.fit(data["X"], data["y"])
    poisoned = data["mask"].any()
    report = backdoor_report(
        model,
        data["X_test"],
        data["y_test"],
        data["X_triggered"],
        target=data["target"],
        poison_mask=data["mask"] if poisoned else None,
        y_true=data["y_true"],
    )
    line = {"cell": name, "acc": report.acc, "asr": report.asr}
    if isinstance(model, VIBEClassifier):
        changed = np.mean(model.clean_labels_ != data["y"])
        line |= {"recovered": report.recovered, "labels_changed": float(changed)}
        if poisoned:
            line["auroc"] = report.auroc
    return line


def digits(seed, kernel):
    """Poisoned digits, as pixels or through a Nystroem map of the poisoned rows."""
    data = load_poisoned_digits(random_state=seed)
    parts = [data.X, data.X_test, data.X_triggered]
    if kernel:
        mapping = Nystroem(gamma=0.2, n_components=200, random_state=seed).fit(data.X)
        parts = [mapping.transform(part) for part in parts]
    return {
        "X": parts[0],
        "X_test": parts[1],
        "X_triggered": parts[2],
        "y": data.y,
        "y_true": data.y_true,
        "y_test": data.y_test,
        "mask": data.poison_mask,
        "target": data.target,
    }


def embeddings(name, attack, target, rate, seed):
    """One cell of the defence table."""
    data = load(Cell(name, attack, target, rate, seed))
    keys = ("X", "y", "X_test", "y_test", "X_triggered", "y_true", "target")
    return {key: getattr(data, key) for key in keys} | {"mask": data.poison_mask}


def cells(seeds):
    for seed in range(seeds):
        for kernel in (False, True):
            name = f"digits {'nystroem' if kernel else 'pixels'} 10 %"
            for posterior in ("full", "approximate"):
                params = {"corrupted_posterior": posterior}
                yield f"{name} {posterior}", digits(seed, kernel), params
        for attack in ("word", "sent"):
            data = embeddings("agnews", attack, 0, 0.1, seed)
            yield f"agnews {attack} 10 %", data, {}
        for rate in (0.02, 0.05, 0.1):
            data = embeddings("trec", "word", 3, rate, seed)
            yield f"trec word HUM {rate:.0%}", data, {}
        for data in ("agnews", "trec"):
            yield f"{data} clean", embeddings(data, "none", 0, 0.0, seed), {}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for name, data, params in cells(args.seeds):
        undefended = LogisticRegression(C=10, max_iter=1000)
        line = judge(name, data, VIBEClassifier(random_state=0, **params))
        line |= {
            f"undefended_{key}": value
            for key, value in judge(name, data, undefended).items()
            if key != "cell"
        }
        lines.append(line)
        print({k: v if isinstance(v, str) else round(v, 3) for k, v in line.items()})
    RESULT.write_text(json.dumps({"run": stamp(), "cells": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
