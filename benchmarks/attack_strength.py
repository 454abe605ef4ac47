"""How strong each attack is against a classifier that is trained without defence.

    python benchmarks/attack_strength.py [--quick] [--seeds 3] [--part digits ...]

Prints one line a cell and writes benchmarks/results/attack_strength.json. Parts:

digits   scikit-learn's digits (8 x 8); logistic regression, a support vector machine
         and a perceptron on the pixels
cifar10  10,000 training images of CIFAR-10 (2,000 to test), a small convolutional net
brew     Witches' Brew on the same images: one training for each victim
text     AG News and TREC-6 sentence embeddings of texts whose trigger was put in before
         they were embedded, and displaced embeddings; logistic regression

CIFAR-10 and the embeddings are read from the directory SKVIBE_DATA (default
../shared/data beside the repository); a part whose file is not there is left out, and
says so. ASR is the share of triggered test rows of other classes that get the
attacker's label, control the same share for the same learner trained on clean data.
"""

import argparse
import io
import json
import os
import platform
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from skvibe import attacks
from skvibe.metrics import attack_success_rate

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SKVIBE_DATA", ROOT / "../shared/data"))
RESULTS = ROOT / "benchmarks/results/attack_strength.json"
EMBEDDING_LEARNER = "logistic regression, C = 10"


class OnPixels:
    """A scikit-learn classifier on the pixels as one row."""

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X, y):
        self.model = self.make().fit(self._rows(X), y)
        return self

    def predict(self, X):
        return self.model.predict(self._rows(X))

    def _rows(self, X):
        return X.reshape(len(X), -1)


class Regression(OnPixels):
    name = "logistic regression"

    def make(self):
        return LogisticRegression(max_iter=2000)


class KernelMachine(OnPixels):
    name = "support vector machine"

    def make(self):
        return SVC(C=10)


class Perceptron(OnPixels):
    name = "perceptron, 128 hidden"

    def make(self):
        return MLPClassifier((128,), max_iter=1000, random_state=self.seed)


class SmallNet:
    """Three convolutions (16, 32, 64 maps), batch norm, a linear layer; Adam."""

    name = "small conv net"
    epochs = 8

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X, y):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = make_net(int(y.max()) + 1)
        images, labels = as_tensor(X), torch.as_tensor(y, dtype=torch.int64)
        n_steps = self.epochs * -(-len(X) // 128)
        optimizer = torch.optim.AdamW(self.module.parameters(), weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, n_steps)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(X), generator=generator).split(128):
                optimizer.zero_grad()
                logits = self.module(images[rows])
                torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
                optimizer.step()
                schedule.step()
        self.module.eval()
        return self

    @torch.no_grad()
    def predict(self, X):
        batches = as_tensor(X).split(500)
        return torch.cat(
            [self.module(batch).argmax(dim=1) for batch in batches]
        ).numpy()


def make_net(n_classes):
    layers, before = [], 3
    for width in (16, 32, 64):
        layers += [
            torch.nn.Conv2d(before, width, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(width),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
        before = width
    layers += [torch.nn.Flatten(), torch.nn.Linear(before * 16, n_classes)]
    return torch.nn.Sequential(*layers)


def as_tensor(X):
    """uint8 NHWC images as NCHW floats in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(X.transpose(0, 3, 1, 2))).float() / 255


def image_cells(seed, surrogate, small):
    """(name, attack) pairs; ``surrogate`` is the attacker's clean net or None."""
    common = {"target": 0, "random_state": seed}
    yield "BadNets", attacks.BadNets(**common, size=2 if small else 3)
    all_to_all = {**common, "target": "all", "size": 2 if small else 3}
    yield "BadNets all-to-all", attacks.BadNets(**all_to_all)
    yield "Blend", attacks.Blend(**common)
    yield "Blend, alpha 0.1", attacks.Blend(**common, alpha=0.1)
    yield "WaNet", attacks.WaNet(**common)
    yield "WaNet, strength 2", attacks.WaNet(**common, strength=2.0)
    yield "WaNet, 20 % cover", attacks.WaNet(**common, strength=2.0, cover_rate=0.2)
    yield "FTrojan", attacks.FTrojan(**common)
    yield "AdaptivePatch", attacks.AdaptivePatch(**common)
    yield "AdaptiveBlend", attacks.AdaptiveBlend(**common)
    yield "UniversalBackdoor patch", attacks.UniversalBackdoor(**common, rate=0.1)
    blend = attacks.UniversalBackdoor(**common, rate=0.1, trigger_type="blend")
    yield "UniversalBackdoor blend", blend
    wave = {"frequency": 2.0} if small else {}
    yield "SIG", attacks.SIG(**common, **wave)
    yield "CTRL", attacks.CTRL(**common)
    for label, model in {"linear": None, "net": surrogate}.items():
        if label == "net" and surrogate is None:
            continue
        model = {} if model is None else {"surrogate": model}
        corners = 2 if small else 3
        lc = attacks.LabelConsistent(**common, **model, size=corners)
        yield f"LabelConsistent, {label} surrogate", lc
        yield f"Narcissus, {label} surrogate", attacks.Narcissus(**common, **model)
        # The extractor: the surrogate without its last layer.
        model = {"surrogate": model["surrogate"][:-1]} if model else {}
        adaptive = attacks.AdaptiveTrigger(**common, **model)
        yield f"AdaptiveTrigger, {label} extractor", adaptive


def measure(name, attack, learner, clean, data, seed):
    """One cell: poison, train, count."""
    X, y, X_test, y_test = data
    start = time.perf_counter()
    poisoned = attack.poison(X, y)
    poison_seconds = time.perf_counter() - start
    victim = learner(seed).fit(poisoned.X, poisoned.y)
    if isinstance(attack, attacks.UniversalBackdoor):
        aims = [(label, attack.trigger(X_test, label)) for label in attack.labels_]
    else:
        aims = [(attack.target, attack.trigger(X_test))]
    asr, control = (
        float(
            np.mean(
                [
                    attack_success_rate(y_test, model.predict(T), target=aim)
                    for aim, T in aims
                ]
            )
        )
        for model in (victim, clean)
    )
    return {
        "learner": clean.name if hasattr(clean, "name") else EMBEDDING_LEARNER,
        "attack": name,
        "parameters": repr_parameters(attack),
        "n_train": len(y),
        "n_poisoned": len(poisoned.indices),
        "n_cover": int(poisoned.cover_mask.sum()),
        "acc_clean": float(np.mean(clean.predict(X_test) == y_test)),
        "acc": float(np.mean(victim.predict(X_test) == y_test)),
        "asr": asr,
        "control": control,
        "poison_seconds": round(poison_seconds, 2),
    }


def measure_brew(learner, clean, data, seed, n_victims, surrogate, **params):
    """Witches' Brew: one fit for each victim; ASR is the share of victims flipped."""
    X, y, X_test, y_test = data
    rng = np.random.RandomState(seed)
    right = (clean.predict(X_test) == y_test) & (y_test != 0)
    victims = rng.choice(np.flatnonzero(right), n_victims, replace=False)
    flipped, alignment, correct, start = [], [], [], time.perf_counter()
    for victim in victims:
        attack = attacks.WitchesBrew(
            target=0,
            victims=X_test[victim],
            surrogate=surrogate,
            random_state=seed,
            **params,
        )
        poisoned = attack.poison(X, y)
        model = learner(seed).fit(poisoned.X, poisoned.y)
        flipped.append(model.predict(X_test[[victim]])[0] == 0)
        correct.append(np.mean(model.predict(X_test) == y_test))
        alignment.append(attack.alignment_)
    kind = "linear" if surrogate is None else "net"
    attack.set_params(victims=None, surrogate=None)
    return {
        "learner": clean.name,
        "attack": f"WitchesBrew, {kind} surrogate, {n_victims} victims",
        "parameters": repr_parameters(attack),
        "n_train": len(y),
        "n_poisoned": len(poisoned.indices),
        "n_cover": 0,
        "acc_clean": float(np.mean(clean.predict(X_test) == y_test)),
        "acc": float(np.mean(correct)),
        "asr": float(np.mean(flipped)),
        "control": 0.0,
        "alignment": float(np.mean(alignment)),
        "poison_seconds": round(time.perf_counter() - start, 2),
    }


def repr_parameters(attack):
    params = attack.get_params()
    skipped = ("random_state", "layout", "victims", "surrogate", "embed")
    return {k: v for k, v in params.items() if k not in skipped and v is not None}


def run_digits(seeds, quick):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 8, 8).astype(np.float32)
    for seed in seeds:
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.25, stratify=y, random_state=seed
        )
        data = X_train, y_train, X_test, y_test
        for learner in (Regression, KernelMachine, Perceptron):
            clean = learner(seed).fit(X_train, y_train)
            for name, attack in image_cells(seed, None, small=True):
                yield seed, measure(name, attack, learner, clean, data, seed)
            if learner is not Perceptron:
                n_victims = 5 if quick else 10
                params = {"n_restarts": 1, "rate": 0.05}
                cell = measure_brew(
                    learner, clean, data, seed, n_victims, None, **params
                )
                yield seed, cell


def run_cifar10(seeds, quick):
    n_train, n_test = (2_000, 1_000) if quick else (10_000, 2_000)
    for seed in seeds:
        data = load_cifar10(n_train, n_test, seed)
        clean = SmallNet(seed).fit(*data[:2])
        # The attacker's net is another one than the victim's clean twin.
        surrogate = SmallNet(seed + 1000).fit(*data[:2]).module
        for name, attack in image_cells(seed, surrogate, small=False):
            yield seed, measure(name, attack, SmallNet, clean, data, seed)


def run_brew(seeds, quick):
    n_train, n_test, n_victims = (2_000, 1_000, 2) if quick else (10_000, 2_000, 4)
    for seed in seeds:
        data = load_cifar10(n_train, n_test, seed)
        clean = SmallNet(seed).fit(*data[:2])
        surrogate = SmallNet(seed + 1000).fit(*data[:2]).module
        params = {"n_restarts": 1, "n_iter": 60}
        yield (
            seed,
            measure_brew(SmallNet, clean, data, seed, n_victims, surrogate, **params),
        )


def load_cifar10(n_train, n_test, seed):
    from PIL import Image

    file = np.load(DATA / "cifar10_jpeg.npz")
    raw, offsets, labels, split = (
        file[key] for key in ("jpeg", "offsets", "labels", "split")
    )
    rng, parts = np.random.RandomState(seed), []
    for which, count in ((0, n_train), (1, n_test)):
        rows = rng.choice(np.flatnonzero(split == which), count, replace=False)
        images = [
            np.asarray(
                Image.open(io.BytesIO(raw[offsets[i] : offsets[i + 1]].tobytes()))
            )
            for i in rows
        ]
        parts += [np.stack(images), labels[rows].astype(np.int64)]
    return parts


def run_text(seeds, quick):
    for name, target in (("agnews_small", 0), ("trec6", 3)):
        file = np.load(DATA / f"{name}_minilm.npz")
        labels, train = file["labels"].astype(int), file["split"] == 0
        test = file["split"] == 1
        kinds = {
            "TokenInsertion": "emb_trigger_word",
            "SentenceInsertion": "emb_trigger_sent",
        }
        embedded = {kind: file[key].astype(np.float32) for kind, key in kinds.items()}
        embedded["clean"] = file["emb_clean"].astype(np.float32)
        for seed in seeds:
            rows = np.flatnonzero(train)
            if quick:
                rows = np.random.RandomState(seed).permutation(rows)[:3000]
            clean = embedding_learner().fit(embedded["clean"][rows], labels[rows])
            for attack in kinds:
                for rate in (0.02, 0.1):
                    triggered = embedded[attack]
                    cell = measure_embedded(
                        attack,
                        rate,
                        embedded["clean"],
                        triggered,
                        labels,
                        rows,
                        test,
                        target,
                        clean,
                        seed,
                    )
                    yield seed, {"data": name, **cell}
            shift = attacks.FeatureShift(
                target=target, rate=0.1, strength=0.5, random_state=seed
            )
            data = (
                embedded["clean"][rows],
                labels[rows],
                embedded["clean"][test],
                labels[test],
            )
            cell = measure(
                "FeatureShift", shift, lambda _: embedding_learner(), clean, data, seed
            )
            yield seed, {"data": name, **cell}


def embedding_learner():
    return LogisticRegression(C=10, max_iter=1000)


def measure_embedded(
    name, rate, clean_X, triggered_X, labels, rows, test, target, clean, seed
):
    """As ``measure``, with texts that were triggered before they were embedded."""
    drawn = attacks.FeatureShift(target=target, rate=rate, random_state=seed).poison(
        clean_X[rows], labels[rows]
    )
    X = clean_X[rows].copy()
    X[drawn.mask] = triggered_X[rows][drawn.mask]
    victim = embedding_learner().fit(X, drawn.y)
    asr, control = (
        attack_success_rate(labels[test], m.predict(triggered_X[test]), target=target)
        for m in (victim, clean)
    )
    return {
        "learner": EMBEDDING_LEARNER,
        "attack": name,
        "parameters": {"target": target, "rate": rate},
        "n_train": len(rows),
        "n_poisoned": len(drawn.indices),
        "n_cover": 0,
        "acc_clean": clean.score(clean_X[test], labels[test]),
        "acc": victim.score(clean_X[test], labels[test]),
        "asr": asr,
        "control": control,
    }


PARTS = {
    "digits": (run_digits, []),
    "cifar10": (run_cifar10, ["cifar10_jpeg.npz"]),
    "brew": (run_brew, ["cifar10_jpeg.npz"]),
    "text": (run_text, ["agnews_small_minilm.npz", "trec6_minilm.npz"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print kept results only")
    args = parser.parse_args()
    if args.table:
        print_table(json.loads(args.output.read_text()))
        return
    torch.set_num_threads(1)

    parts = json.loads(args.output.read_text()) if args.output.exists() else {}
    for part in args.part:
        run, files = PARTS[part]
        missing = [file for file in files if not (DATA / file).exists()]
        if missing:
            print(f"{part}: left out, no {', '.join(missing)} in {DATA}")
            continue
        cells = []
        for seed, cell in run(list(range(args.seeds)), args.quick):
            cells.append(
                {"data": "cifar10" if part == "brew" else part, "seed": seed, **cell}
            )
            print(describe(cells[-1]), flush=True)
            parts[part] = {**stamp(part, args), "cells": cells}
            args.output.write_text(json.dumps(parts, indent=1) + "\n")


def describe(cell):
    return (
        f"{cell['data']:13s}{cell['learner'][:12]:13s}{cell['seed']} "
        f"{cell['attack']:42s} rows {cell['n_poisoned']:5d}  ACC {cell['acc']:.3f} "
        f"(clean {cell['acc_clean']:.3f})  ASR {cell['asr']:.3f} "
        f"(control {cell['control']:.3f})"
    )


def print_table(parts):
    """The kept results as Markdown, means over the seeds."""
    for part in parts.values():
        groups = {}
        for cell in part["cells"]:
            key = cell["data"], cell["learner"], cell["attack"], cell["n_poisoned"]
            groups.setdefault(key, []).append(cell)
        before = None
        for (data, learner, attack, n_poisoned), cells in groups.items():
            if (data, learner) != before:
                before = data, learner
                clean = np.mean([cell["acc_clean"] for cell in cells])
                print(
                    f"\n{data}, {learner}: ACC {clean:.3f} when trained on clean data"
                )
                print(
                    "\n| attack | rows | ACC | ASR | control |\n|---|---|---|---|---|"
                )
            acc, asr, control = (
                np.mean([cell[name] for cell in cells])
                for name in ("acc", "asr", "control")
            )
            share = n_poisoned / cells[0]["n_train"]
            print(
                f"| {attack} | {n_poisoned} ({share:.1%}) | {acc:.3f} | {asr:.3f} "
                f"| {control:.3f} |"
            )


def stamp(part, args):
    quick = " --quick" if args.quick else ""
    command = f"python benchmarks/attack_strength.py --part {part} --seeds {args.seeds}"
    return {
        "command": command + quick,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
        },
        "machine": cpu_model(),
    }


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.processor()}, 1 thread"


if __name__ == "__main__":
    main()
