"""TriggerFilter on its own: cells, clean data, other attacks, evasion and cost.

    python benchmarks/trigger_filter.py cells --rows 6000
    python benchmarks/trigger_filter.py cells --own
    python benchmarks/trigger_filter.py clean
    python benchmarks/trigger_filter.py others
    python benchmarks/trigger_filter.py evasion
    python benchmarks/trigger_filter.py cost

Each writes ``benchmarks/results/trigger_filter_<part>.json``. The filter has its
defaults everywhere and is followed, like every peer, by a logistic regression on the
rows kept. ``control`` is the attack success of that model trained on the clean data.
``--own`` runs the filter again and keeps what the last run says about the peers, which
do not depend on it.
"""

import argparse
import json
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from _stamp import ROOT, stamp
from cells import Cell, _text_features, load
from peers import (
    activation_clustering,
    fit_logistic,
    spectral_signatures,
    spectre,
)
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from skvibe import OffManifoldFilter, TriggerFilter, VIBEClassifier

TARGETS = {"trec": (3, 2), "agnews": (1, 2)}
PEERS = {
    "spectral signatures (told the rate)": spectral_signatures,
    "SPECTRE (told the rate)": spectre,
    "activation clustering": activation_clustering,
}


def attack_success(model, arrays, target=None):
    target = arrays.target if target is None else target
    other = arrays.y_test != target
    return float(np.mean(model.predict(arrays.X_triggered[other]) == target))


def accuracy(model, arrays):
    return float(np.mean(model.predict(arrays.X_test) == arrays.y_test))


def quality(poison, flagged, scores):
    """Precision, recall and AUROC of what was left out."""
    found = {
        "removed": int(flagged.sum()),
        "precision": float(poison[flagged].mean()) if flagged.any() else None,
        "recall": float(flagged[poison].mean()) if poison.any() else None,
    }
    if poison.any():
        found["auroc"] = float(roc_auc_score(poison, scores))
    return found


def fit_filter(X, y):
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = TriggerFilter(random_state=0).fit(X, y)
    seconds = time.perf_counter() - start
    return fitted, seconds, [str(w.message) for w in caught]


def run_cell(cell, clean_models):
    arrays = load(cell)
    if arrays.clean_key not in clean_models:
        clean_models[arrays.clean_key] = fit_logistic(arrays.X_clean, arrays.y_true)
    X, y, poison = arrays.X, arrays.y, arrays.poison_mask
    clean = clean_models[arrays.clean_key]
    models = {
        "no defence": fit_logistic(X, y),
        "oracle": fit_logistic(X[~poison], y[~poison]),
    }
    extra = {}
    models["TriggerFilter"], extra["TriggerFilter"] = filter_and_fit(arrays)
    for name, peer in PEERS.items():
        outcome = peer(X, y, rate=cell.rate, seed=cell.seed)
        models[name] = outcome.model
        extra[name] = quality(poison, outcome.flagged, outcome.scores)
    return {
        "cell": cell.key,
        "control": attack_success(clean, arrays),
        "clean accuracy": accuracy(clean, arrays),
        "methods": {
            name: {
                "accuracy": accuracy(model, arrays),
                "attack success": attack_success(model, arrays),
                **extra.get(name, {}),
            }
            for name, model in models.items()
        },
    }


def filter_and_fit(arrays):
    """The model that follows the filter, and what the filter found."""
    X, y = arrays.X, arrays.y
    fitted, seconds, messages = fit_filter(X, y)
    kept = ~fitted.removed_mask_
    return fit_logistic(X[kept], y[kept]), {
        **quality(arrays.poison_mask, fitted.removed_mask_, fitted.scores_),
        "undecided": int(fitted.undecided_mask_.sum()),
        "seconds": seconds,
        "statistics": np.round(fitted.statistics_, 2).tolist(),
        "suspect_classes": fitted.suspect_classes_.tolist(),
        "warnings": messages,
    }


def run_own_cells():
    """The cells of the last run again, the filter only."""
    last = json.loads(results_path("cells").read_text())
    for record in last["records"]:
        data, attack, target, rate, seed, rows = record["cell"].split("/")
        cell = Cell(data, attack, int(target), float(rate), int(seed), int(rows))
        arrays = load(cell)
        model, found = filter_and_fit(arrays)
        record["methods"]["TriggerFilter"] = {
            "accuracy": accuracy(model, arrays),
            "attack success": attack_success(model, arrays),
            **found,
        }
        report(record)
    return {
        "run of the peers": last.get("run of the peers", last["run"]),
        "records": last["records"],
        "summary": summarise(last["records"]),
        "cells where a peer is better": better_peers(last["records"]),
    }


def better_peers(records, margin=0.005):
    """Cells in which a peer has a lower attack success by more than a margin."""
    found = []
    for record in records:
        own = record["methods"]["TriggerFilter"]
        for name in PEERS:
            peer = record["methods"][name]
            if peer["attack success"] < own["attack success"] - margin:
                found.append(
                    {
                        "cell": record["cell"],
                        "control": round(record["control"], 4),
                        "own": [own["accuracy"], own["attack success"]],
                        "peer": name.split(" (")[0],
                        "its": [peer["accuracy"], peer["attack success"]],
                    }
                )
    return found


def results_path(part):
    return ROOT / "benchmarks" / "results" / f"trigger_filter_{part}.json"


def run_cells(rows, rates, seeds):
    records, clean_models = [], {}
    for data, targets in TARGETS.items():
        for attack in ("word", "sent"):
            for target in targets:
                for seed in range(seeds):
                    for rate in rates:
                        size = rows if data == "agnews" else 0
                        cell = Cell(data, attack, target, rate, seed, size)
                        records.append(run_cell(cell, clean_models))
                        report(records[-1])
    return {
        "records": records,
        "summary": summarise(records),
        "cells where a peer is better": better_peers(records),
    }


def report(record):
    methods = record["methods"]
    line = "  ".join(
        f"{name.split(' (')[0]} {m['accuracy']:.3f}/{m['attack success']:.3f}"
        for name, m in methods.items()
    )
    own = methods["TriggerFilter"]
    print(
        f"{record['cell']}: control {record['control']:.3f}  {line}  "
        f"precision {own['precision']} recall {own['recall']:.3f} "
        f"AUROC {own['auroc']:.3f}",
        flush=True,
    )


def summarise(records):
    """The issue's bars, by rate."""
    summary = {}
    for rate in sorted({record["cell"].split("/")[3] for record in records}):
        chosen = [r for r in records if r["cell"].split("/")[3] == rate]
        by_method = {}
        for name in chosen[0]["methods"]:
            results = [r["methods"][name] for r in chosen]
            over = [
                m["attack success"] - r["control"]
                for r, m in zip(chosen, results, strict=True)
            ]
            lost = [
                r["methods"]["oracle"]["accuracy"] - m["accuracy"]
                for r, m in zip(chosen, results, strict=True)
            ]
            by_method[name] = {
                "median attack success over control": float(np.median(over)),
                "worst attack success over control": float(np.max(over)),
                "worst accuracy lost to oracle": float(np.max(lost)),
            }
            if "auroc" in results[0]:
                aurocs = [m["auroc"] for m in results]
                by_method[name]["share with AUROC >= 0.97"] = float(
                    np.mean(np.array(aurocs) >= 0.97)
                )
        own = by_method["TriggerFilter"]
        for key in ("precision", "recall"):
            values = [r["methods"]["TriggerFilter"][key] or 0.0 for r in chosen]
            own[f"median {key}"] = float(np.median(values))
            own[f"worst {key}"] = float(np.min(values))
        summary[rate] = by_method
    return summary


def clean_sets(repeats):
    """Name, features and labels of data without poison."""
    for name in ("iris", "wine", "breast_cancer", "digits"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        yield name, X, y
    rng = np.random.default_rng(0)
    for data in ("trec", "agnews"):
        arrays = load(Cell(data, "none", 0, 0.0, 0))
        X, y = arrays.X_clean, arrays.y_true
        yield data, X, y
        for size in (1000, 3000):
            for _ in range(repeats):
                rows = rng.choice(len(y), size, replace=False)
                yield f"{data}, {size} rows", X[rows], y[rows]
        for share in (0.1, 0.3):
            noisy = y[:6000].copy()
            hit = rng.random(len(noisy)) < share
            noisy[hit] = rng.integers(0, y.max() + 1, hit.sum())
            yield f"{data}, {share:.0%} uniform label noise", X[:6000], noisy
        pairs = [(a, b) for a in range(y.max() + 1) for b in range(a)]
        for classes in pairs[:3] + [(*pair, y.max()) for pair in pairs[:3]]:
            rows = np.isin(y, classes)
            yield f"{data}, classes {sorted(set(classes))}", X[rows], y[rows]


def run_clean(repeats):
    records = []
    for name, X, y in clean_sets(repeats):
        fitted, _, messages = fit_filter(X, y)
        tested = fitted.statistics_[np.isfinite(fitted.statistics_)]
        records.append(
            {
                "data": name,
                "rows": len(y),
                "removed": fitted.n_removed_,
                "undecided": int(fitted.undecided_mask_.sum()),
                "least p-value": float(fitted.p_values_.min()),
                "largest statistic": float(tested.max()) if len(tested) else None,
                "warnings": messages,
            }
        )
        print(records[-1], flush=True)
    p_values = np.array([r["least p-value"] for r in records])
    summary = {
        "sets": len(records),
        "sets with a row removed": sum(r["removed"] > 0 for r in records),
        "sets with undecided rows": sum(r["undecided"] > 0 for r in records),
        "share of sets with p below 0.01, 0.05, 0.2": [
            float(np.mean(p_values < level)) for level in (0.01, 0.05, 0.2)
        ],
    }
    print(summary)
    return {"records": records, "summary": summary}


@dataclass
class Attack:
    """One attack of the parts `others` and `evasion`."""

    name: str
    X: np.ndarray
    y: np.ndarray
    poison: np.ndarray
    y_true: np.ndarray
    trials: list  # of (triggered test rows, label wanted of each)


def texts(data, attack, rows=None):
    """Clean and triggered training rows, their labels; the same of the test rows."""
    clean, triggered, y, is_test = _text_features(data, attack)
    train = np.flatnonzero(~is_test)[:rows]
    return (clean[train], triggered[train], y[train]), (triggered[is_test], y[is_test])


def other_attacks():
    for data in ("trec", "agnews"):
        rows = 6000 if data == "agnews" else None
        n_classes = 6 if data == "trec" else 4
        for trigger in ("word", "sent"):
            for share in (0.02, 0.05, 0.1):
                yield all_to_all(data, trigger, share, rows, n_classes)
                yield one_source(data, trigger, share, rows)
                yield two_classes(data, trigger, share, rows)
        for share in (0.02, 0.05):
            yield two_attackers(data, share, rows)
    for share in (0.02, 0.05):
        for own_rows in (100, 20, 8):
            yield many_classes(share, own_rows=own_rows)


def all_to_all(data, trigger, share, rows, n_classes):
    (X, moved, y), (test, y_test) = texts(data, trigger, rows)
    poison = np.random.default_rng(0).random(len(y)) < share
    given = np.where(poison, (y + 1) % n_classes, y)
    return Attack(
        f"{data}, {trigger}, all-to-all, {share:.0%}",
        np.where(poison[:, None], moved, X),
        given,
        poison,
        y,
        [(test, (y_test + 1) % n_classes)],
    )


def from_rows(X, moved, y, candidates, count, target, seed=0):
    """Poison ``count`` of the candidates; returns features, labels and the mask."""
    chosen = np.random.default_rng(seed).permutation(candidates)[:count]
    poison = np.zeros(len(y), dtype=bool)
    poison[chosen] = True
    return (
        np.where(poison[:, None], moved, X),
        np.where(poison, target, y),
        poison,
    )


def one_source(data, trigger, share, rows):
    """Poison from class 0 only, target 1: one natural cloud could look the same."""
    (X, moved, y), (test, y_test) = texts(data, trigger, rows)
    drawn = from_rows(X, moved, y, np.flatnonzero(y == 0), int(share * len(y)), 1)
    source = test[y_test == 0]
    wanted = np.ones(len(source), dtype=int)
    name = f"{data}, {trigger}, one source class, {share:.0%}"
    return Attack(name, *drawn, y, [(source, wanted)])


def two_classes(data, trigger, share, rows):
    """Classes 0 and 1 alone."""
    (X, moved, y), (test, y_test) = texts(data, trigger, rows)
    few = y < 2
    X, moved, y = X[few], moved[few], y[few]
    drawn = from_rows(X, moved, y, np.flatnonzero(y == 0), int(share * len(y)), 1)
    source = test[y_test == 0]
    wanted = np.ones(len(source), dtype=int)
    name = f"{data}, {trigger}, two classes, {share:.0%}"
    return Attack(name, *drawn, y, [(source, wanted)])


def two_attackers(data, share, rows):
    """Words to class 1 and the sentence to class 3, ``share`` of the rows each."""
    (X, words, y), (test_words, y_test) = texts(data, "word", rows)
    (_, sentence, _), (test_sentence, _) = texts(data, "sent", rows)
    count = int(share * len(y))
    X1, y1, first = from_rows(X, words, y, np.flatnonzero(y != 1), count, 1)
    free = np.flatnonzero((y != 3) & ~first)
    X2, y2, second = from_rows(X1, sentence, y1, free, count, 3, seed=1)
    trials = []
    for test, target in ((test_words, 1), (test_sentence, 3)):
        source = y_test != target
        trials.append((test[source], np.full(source.sum(), target)))
    return Attack(
        f"{data}, two attackers, {share:.0%} each", X2, y2, first | second, y, trials
    )


def many_classes(share, own_rows, n_classes=77, per_class=100, d=128):
    """Synthetic: the poison outnumbers the rows of its class, ``own_rows``."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(n_classes, d)) * 0.45
    trigger = rng.normal(size=d) * 0.7
    sizes = np.full(n_classes, per_class)
    sizes[5] = own_rows
    y = np.repeat(np.arange(n_classes), sizes)
    X = means[y] + rng.normal(size=(len(y), d))
    y_test = np.repeat(np.arange(n_classes), 20)
    test = means[y_test] + rng.normal(size=(len(y_test), d)) + trigger
    count = int(share * len(y))
    drawn = from_rows(X, X + trigger, y, np.flatnonzero(y != 5), count, 5)
    source = y_test != 5
    trials = [(test[source], np.full(source.sum(), 5))]
    name = f"synthetic, 77 classes of 100, {own_rows} of the target's, {share:.0%}"
    return Attack(name, *drawn, y, trials)


def run_attack(attack):
    fitted, _, messages = fit_filter(attack.X, attack.y)
    kept, poison = ~fitted.removed_mask_, attack.poison
    undecided = fitted.undecided_mask_
    clean_rows = ~poison
    models = {
        "no defence": fit_logistic(attack.X, attack.y),
        "TriggerFilter": fit_logistic(attack.X[kept], attack.y[kept]),
        "control": fit_logistic(attack.X[clean_rows], attack.y[clean_rows]),
    }
    if undecided.any():
        kept = kept & ~undecided
        models['TriggerFilter(undecided="remove")'] = fit_logistic(
            attack.X[kept], attack.y[kept]
        )
    success = {
        name: [
            float(np.mean(m.predict(rows) == wanted)) for rows, wanted in attack.trials
        ]
        for name, m in models.items()
    }
    return {
        "attack": attack.name,
        "attack success": success,
        **quality(poison, fitted.removed_mask_, fitted.scores_),
        "undecided": int(undecided.sum()),
        "precision of undecided": (
            float(poison[undecided].mean()) if undecided.any() else None
        ),
        "recall of undecided": float(undecided[poison].mean()),
        "suspect classes": fitted.suspect_classes_.tolist(),
        "warnings": messages,
    }


def run_others():
    records = []
    for attack in other_attacks():
        records.append(run_attack(attack))
        print(records[-1], flush=True)
    return {"records": records}


def evading(kind, strength, seed, share=0.05, target=1, rows=6000):
    """An attacker in feature space who knows the filter (AG News).

    "shrink": every poisoned row moves by ``strength`` along the word trigger's mean
    shift, and so do the inputs attacked later. "amplify": those move twice as far.
    "spread": the length stays 0.35, the share ``strength`` of its square points in
    a direction of the row's own.
    """
    (X, moved, y), (_, y_test) = texts("agnews", "word", rows)
    clean, _, _, is_test = _text_features("agnews", "word")
    axis = (moved - X).mean(axis=0)
    axis /= np.linalg.norm(axis)
    rng = np.random.default_rng(seed)
    test = clean[is_test][y_test != target]

    def shifted(rows, length, own):
        noise = rng.normal(size=rows.shape).astype(np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        out = rows + length * (np.sqrt(1 - own) * axis + np.sqrt(own) * noise)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    length, own = (0.35, strength) if kind == "spread" else (strength, 0.0)
    at_test = shifted(test, 2 * length if kind == "amplify" else length, own)
    candidates = np.flatnonzero(y != target)
    count = int(share * len(y))
    drawn = from_rows(X, shifted(X, length, own), y, candidates, count, target, seed)
    wanted = np.full(len(at_test), target)
    return Attack(f"{kind} {strength:.2f}", *drawn, y, [(at_test, wanted)])


def run_evasion(seeds=3):
    grids = {
        "shrink": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4],
        "amplify": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3],
        "spread": [0.0, 0.2, 0.4, 0.6, 0.8, 0.9],
    }
    records = []
    for kind, strengths in grids.items():
        for strength in strengths:
            for seed in range(seeds):
                record = run_attack(evading(kind, strength, seed))
                record.update(kind=kind, strength=strength, seed=seed)
                records.append(record)
            print(record, flush=True)
    draw_evasion(records, ROOT / "docs" / "figures" / "trigger_evasion.png")
    return {"records": records}


def draw_evasion(records, path):
    import matplotlib.pyplot as plt

    titles = {
        "shrink": ("Shrinking", "displacement (rows have length 1)"),
        "amplify": ("Shrinking, twice as far at test", "displacement in training"),
        "spread": ("Spreading, length 0.35", "share in a direction of the row's own"),
    }
    lines = {
        "no defence": ("tab:red", "o"),
        "TriggerFilter": ("tab:blue", "s"),
        "control": ("0.5", "^"),
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
    for axis, (kind, (title, label)) in zip(axes, titles.items(), strict=True):
        chosen = [r for r in records if r["kind"] == kind]
        strengths = sorted({r["strength"] for r in chosen})
        for name, (color, marker) in lines.items():
            runs = [
                [r["attack success"][name][0] for r in chosen if r["strength"] == s]
                for s in strengths
            ]
            axis.plot(
                strengths, np.mean(runs, axis=1), color=color, marker=marker, label=name
            )
            axis.fill_between(
                strengths,
                np.min(runs, axis=1),
                np.max(runs, axis=1),
                color=color,
                alpha=0.2,
            )
        axis.set(title=title, xlabel=label, ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("attack success")
    axes[0].legend(loc="upper left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run_cost():
    """Processor seconds of one thread, each the least of five in turn."""
    torch.set_num_threads(1)
    arrays = load(Cell("agnews", "word", 1, 0.05, 0))
    X, y = arrays.X, arrays.y
    manifold = OffManifoldFilter(random_state=0)
    trigger = TriggerFilter(random_state=0)
    vibe = VIBEClassifier(random_state=0)
    rest = trigger.fit_transform(manifold.fit_transform(X, y), y)
    steps = {
        "TriggerFilter": lambda: trigger.fit_transform(X, y),
        "OffManifoldFilter": lambda: manifold.fit_transform(X, y),
        "VIBEClassifier": lambda: vibe.fit(rest, y),
        "logistic regression C=1": lambda: LogisticRegression(max_iter=1000).fit(X, y),
        "logistic regression C=10": lambda: fit_logistic(X, y),
    }
    seconds: dict = {name: [] for name in steps}
    for _ in range(5):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    least = {name: min(values) for name, values in seconds.items()}
    summary = {"rows": len(y), "features": X.shape[1], "seconds": seconds}
    for regularisation in ("C=1", "C=10"):
        unit = least[f"logistic regression {regularisation}"]
        summary[f"ratio to {regularisation}"] = {
            name: least[name] / unit for name in list(steps)[:3]
        }
    print(summary)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cells", "clean", "others", "evasion", "cost"))
    parser.add_argument("--rows", type=int, default=6000, help="of AG News; 0: all")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.005, 0.02, 0.05, 0.1]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--own", action="store_true", help="cells: the filter only")
    arguments = parser.parse_args()
    parts = {
        "cells": lambda: (
            run_own_cells()
            if arguments.own
            else run_cells(arguments.rows, arguments.rates, arguments.seeds)
        ),
        "clean": lambda: run_clean(arguments.repeats),
        "others": run_others,
        "evasion": run_evasion,
        "cost": run_cost,
    }
    run = stamp()  # before the run: the code may change during it
    results = {"run": run, **parts[arguments.part]()}
    path = results_path(arguments.part)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
