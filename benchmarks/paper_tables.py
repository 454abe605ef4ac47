"""The paper's supplementary tables, with our number beside the paper's.

    python benchmarks/paper_tables.py --scale cpu                 # digits, minutes
    python benchmarks/paper_tables.py --scale cpu --data cifar10  # 4 classes, 16 x 16
    python benchmarks/paper_tables.py --scale gpu                 # CIFAR-10, ResNet-18
    python benchmarks/paper_tables.py --report

One JSON line for each run goes to ``benchmarks/results``; runs that are there are
skipped, and pretraining goes on from its checkpoint, so the command can be stopped and
given again (``--minutes`` starts no run after that time). At the "cpu" scale compare
shapes, not levels: data, encoder and budget are far smaller than the paper's.

Every method starts from the same encoder, pretrained without labels on the poisoned
images, and makes the same number of SGD steps of the same size on the same augmented
images.
"control" is the attack success rate on a model trained in that way on clean data.
"""

import argparse
import copy
import csv
import functools
import json
import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _stamp import ROOT, describe, stamp
from paper_cells import all_rows, all_runs
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from skvibe import OffManifoldFilter, VIBEClassifier, attacks
from skvibe._device import resolve_device
from skvibe.encoders import (
    CropFlip,
    SelfSupervisedEncoder,
    SimCLRAugmentation,
    load_cifar10,
    make_encoder,
)
from skvibe.metrics import attack_success_rate

RESULTS = ROOT / "benchmarks" / "results"
TARGET = 0
_SMALL_CLASSES = ("airplane", "automobile", "frog", "horse")
_N_VICTIMS = 8


@dataclass(frozen=True)
class Scale:
    """Size of the experiment; the same for every run."""

    name: str
    data: str
    encoder: str
    ssl_epochs: int
    ssl_batch: int
    iterations: int
    e_step_period: int
    batch_size: int
    lr: float


SCALES = {
    ("cpu", "digits"): Scale("cpu", "digits", "small", 40, 256, 600, 20, 128, 1e-2),
    ("cpu", "cifar10"): Scale("cpu", "cifar10", "small", 30, 256, 900, 30, 128, 1e-2),
    # The paper's: 30,000 iterations, lr 1e-3, batch 256, E-step every 1,000.
    ("gpu", "cifar10"): Scale(
        "gpu", "cifar10", "resnet18", 1000, 512, 30_000, 1000, 256, 1e-3
    ),
}


@dataclass(frozen=True, eq=False)
class Images:
    """Clean images, and how they may be changed without changing what they show."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    source: str

    @property
    def channels(self):
        return 1 if self.X.ndim == 3 else 3

    @property
    def colour(self):
        return self.channels == 3


class NotApplicable(Exception):
    """The attack or encoder makes no sense on these images; the reason is recorded."""


# -- data and attacks ------------------------------------------------------------------


@functools.cache
def load_images(scale_name, data):
    """Clean images of a scale."""
    if data == "digits":
        digits = load_digits()
        X = np.minimum(digits.images * 16, 255).astype(np.uint8)
        X, X_test, y, y_test = train_test_split(
            X, digits.target, test_size=0.25, stratify=digits.target, random_state=0
        )
        return Images(X, y, X_test, y_test, "scikit-learn's digits, 8 x 8")
    home = os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data")
    if scale_name == "gpu":
        found = load_cifar10(home)
        size = "32 x 32"
    else:
        found = load_cifar10(home, classes=_SMALL_CLASSES, n_train=4000, n_test=1000)
        size = f"{', '.join(_SMALL_CLASSES)}, 16 x 16"
        found.X, found.X_test = _halve(found.X), _halve(found.X_test)
    source = f"CIFAR-10 ({found.source}), {size}"
    return Images(found.X, found.y, found.X_test, found.y_test, source)


def _halve(X):
    n, height, width, channels = X.shape
    blocks = X.reshape(n, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def make_attack(name, images, seed, bench):
    """The attack of a run; triggers are fitted to the size of the images."""
    small, tiny = images.X.shape[1] < 32, images.X.shape[1] < 16
    shared = {"target": TARGET, "random_state": seed}
    if name == "BadNets":
        return attacks.BadNets(rate=0.1, size=2 if tiny else 3, **shared)
    if name == "Blend":
        return attacks.Blend(rate=0.1, alpha=0.2 if small else 0.1, **shared)
    if name == "WaNet":
        return attacks.WaNet(rate=0.1, **shared)
    if name == "FTrojan" and images.colour:
        return attacks.FTrojan(rate=0.1, **shared)
    if name == "CTRL" and images.colour:
        return attacks.CTRL(**shared)
    if name in ("FTrojan", "CTRL"):
        raise NotApplicable("the trigger lies in the colours, the images are grey")
    if name in ("AdaptivePatch", "AdaptiveBlend"):
        return getattr(attacks, name)(**shared)
    if name == "SIG":
        wave = {"frequency": 3.0, "amplitude": 140 / 255} if tiny else {}
        return attacks.SIG(**wave, **shared)
    if name == "LC":
        # Digits have so much contrast that noise of 16/255 does not hide them.
        noise = {"size": 2, "eps": 64 / 255, "step": 6 / 255} if tiny else {}
        return attacks.LabelConsistent(
            surrogate=bench.attackers_model(), **noise, **shared
        )
    if name == "CLBA":
        return attacks.Narcissus(
            n_iter=300 if small else 1000, surrogate=bench.attackers_model(), **shared
        )
    if name == "AdaptiveTrigger":
        encoder = bench.encoder_of(images.X, "clean", "default", seed)
        return attacks.AdaptiveTrigger(
            rate=0.1, surrogate=_UnitPixels(encoder), **shared
        )
    if name == "WitchesBrew":
        victims = np.flatnonzero(images.y_test != TARGET)[:_N_VICTIMS]
        return attacks.WitchesBrew(
            victims=images.X_test[victims],
            n_restarts=1 if small else 8,
            surrogate=bench.attackers_model(),
            **shared,
        )
    raise ValueError(f"no attack named {name!r}")


class _UnitPixels(torch.nn.Module):
    """For attacks, which work on pixels in [0, 1]; our models were shown 0..255."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images * 255)


# -- methods ---------------------------------------------------------------------------


class Bench:
    """What the runs of one scale and seed share: encoders, the clean model."""

    def __init__(self, scale, seed, work, device):
        self.scale, self.seed, self.work, self.device = scale, seed, work, device
        self.images = load_images(scale.name, scale.data)
        work.mkdir(parents=True, exist_ok=True)

    def augmentation(self):
        return CropFlip(self.images.channels, flip=self.images.colour)

    def pretrain(self, X, label, encoder, seed):
        """SimCLR on the images as the victim has them, resumed from its checkpoint."""
        scale = self.scale
        name = scale.encoder if encoder == "default" else encoder
        module = make_encoder(name, random_state=seed, in_channels=self.images.channels)
        views = SimCLRAugmentation(
            self.images.channels,
            flip=self.images.colour,
            min_area=0.2 if self.images.colour else 0.4,
        )
        file = f"{scale.name}-{scale.data}-{name}-{label}-{seed}.pt"
        return SelfSupervisedEncoder(
            module,
            augment=views,
            max_epochs=scale.ssl_epochs,
            batch_size=scale.ssl_batch,
            checkpoint=self.work / file,
            checkpoint_period=max(1, scale.ssl_epochs // 50),
            device=self.device,
            random_state=seed,
            verbose=1 if scale.name == "gpu" else 0,
        ).fit(X)

    def encoder_of(self, X, label, encoder, seed):
        return self.pretrain(X, label, encoder, seed).encoder_

    @functools.cached_property
    def clean_model(self):
        """Trained as the undefended one is, on clean data from a clean start."""
        images = self.images
        encoder = self.encoder_of(images.X, "clean", "default", self.seed)
        return self.cross_entropy(encoder, images.X, images.y)

    def attackers_model(self):
        return _UnitPixels(copy.deepcopy(self.clean_model))

    def cross_entropy(self, encoder, X, y):
        """The undefended model: an ordinary linear head, everything trained."""
        scale, device = self.scale, resolve_device(self.device)
        rows = torch.from_numpy(X).to(device)
        given = torch.from_numpy(y).to(device)
        augment = self.augmentation()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            encoder = copy.deepcopy(encoder).train()
            size = encoder.n_features_out
            head = torch.nn.Linear(size, len(np.unique(self.images.y))).to(device)
            model = torch.nn.Sequential(encoder, head)
            optimizer = torch.optim.SGD(
                model.parameters(), scale.lr, momentum=0.9, weight_decay=5e-4
            )
            for batch in _endless(len(rows), scale.batch_size, scale.iterations):
                batch = batch.to(device)
                loss = torch.nn.functional.cross_entropy(
                    model(augment(rows[batch].float())), given[batch]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model.eval()

    def vibe(self, encoder, X, y, change, *, paper=True):
        """End to end, by the paper's recipe or with this library's additions."""
        scale = self.scale
        params = {
            "e_step_period": scale.e_step_period,
            "lr": scale.lr,
            "kappa": 10.0,
            "nu": 10.0,
            "lam": 25.0,
            "prior_temperature": 0.02,
        }
        if change and change[0] in ("e_step_period", "lr"):
            value = params[change[0]] * change[1]
            params[change[0]] = int(value) if change[0] == "e_step_period" else value
        elif change and change[0] != "delta":
            params[change[0]] = change[1]
        return VIBEClassifier(
            encoder,
            train_encoder=True,
            augment=self.augmentation(),
            prior="learned" if paper else "auto",
            refit=not paper,
            max_iter=scale.iterations,
            batch_size=scale.batch_size,
            tol=0.0,
            device=self.device,
            random_state=self.seed,
            verbose=1 if scale.name == "gpu" else 0,
            **params,
        ).fit(X, y)


def _endless(n_rows, batch_size, iterations):
    done = 0
    while True:
        for batch in torch.randperm(n_rows).split(batch_size):
            if len(batch) < 2:
                continue
            yield batch
            done += 1
            if done == iterations:
                return


def predict_labels(model, X):
    """Labels of a torch model, batch by batch."""
    device = next(model.parameters()).device
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(X[start : start + 1024]).to(device)).argmax(1).cpu()
            for start in range(0, len(X), 1024)
        ]
    return torch.cat(parts).numpy()


# -- runs ------------------------------------------------------------------------------


def carry_out(run, bench):
    """Figures of one run."""
    images, start = bench.images, time.perf_counter()
    if run.encoder == "vgg11" and images.X.shape[1] < 32:
        raise NotApplicable("VGG-11 needs images of 32 pixels")
    attack = make_attack(run.attack, images, bench.seed, bench)
    poisoned = attack.poison(images.X, images.y)
    ssl = bench.pretrain(poisoned.X, run.attack, run.encoder, bench.seed)
    pretrained = time.perf_counter()
    predict, facts = _train(run, bench, poisoned, ssl)
    facts["ACC"] = float(np.mean(predict(images.X_test) == images.y_test))
    facts["ASR"], facts["control"] = _attack_success(run, bench, attack, predict)
    facts["n_train"], facts["n_poison"] = len(poisoned.y), len(poisoned.indices)
    facts["ssl_seconds"] = round(pretrained - start, 1)
    facts["ssl_images_per_second"] = round(ssl.images_per_second_, 1)
    facts["seconds"] = round(time.perf_counter() - pretrained, 1)
    return facts


def _train(run, bench, poisoned, ssl):
    """Train by the run's method; returns how it predicts and what else is known."""
    if run.method == "none":
        model = bench.cross_entropy(ssl.encoder_, poisoned.X, poisoned.y)
        return functools.partial(predict_labels, model), {}
    if run.method == "logreg":
        features = normalize(ssl.transform(poisoned.X))
        model = LogisticRegression(C=10, max_iter=1000).fit(features, poisoned.y)
        return lambda X: model.predict(normalize(ssl.transform(X))), {}
    removed = np.zeros(len(poisoned.y), dtype=bool)
    facts = {}
    if run.filtered:
        delta = run.change[1] if run.change and run.change[0] == "delta" else 0.275
        detector = OffManifoldFilter(threshold=delta, random_state=bench.seed)
        detector.fit(ssl.transform(poisoned.X), poisoned.y)
        removed = detector.removed_mask_
        facts = {
            "n_removed": int(removed.sum()),
            "n_removed_poison": int(removed[poisoned.mask].sum()),
            "largest_distance": float(np.max(detector.community_distances_)),
        }
    keep = ~removed
    vibe = bench.vibe(
        ssl.encoder_,
        poisoned.X[keep],
        poisoned.y[keep],
        run.change,
        paper=run.method == "vibe",
    )
    scores = np.ones(len(keep))
    scores[keep] = vibe.poison_scores_
    facts["AUROC"] = float(roc_auc_score(poisoned.mask, scores))
    facts["TPR"] = float(np.mean(scores[poisoned.mask] > 0.5))
    facts["FPR"] = float(np.mean(scores[~poisoned.mask] > 0.5))
    truth = poisoned.y_true[keep]
    facts["recovered"] = float(np.mean(vibe.clean_labels_ == truth))
    return vibe.predict, facts


def _attack_success(run, bench, attack, predict):
    images = bench.images
    clean = functools.partial(predict_labels, bench.clean_model)
    if run.attack == "WitchesBrew":
        return tuple(
            float(np.mean(model(attack.victims) == TARGET))
            for model in (predict, clean)
        )
    triggered = attack.trigger(images.X_test)
    return tuple(
        attack_success_rate(images.y_test, model(triggered), target=TARGET)
        for model in (predict, clean)
    )


def run_all(args):
    """Carry out what is not in the results yet."""
    scale = SCALES[args.scale, args.data]
    file = RESULTS / f"paper_tables_{args.scale}_{args.data}.jsonl"
    done = {(line["run"], line["seed"]) for line in read_lines(file)}
    bench = Bench(scale, args.seed, args.work, args.device)
    deadline = time.monotonic() + 60 * args.minutes
    for run in all_runs():
        if (run.key, args.seed) in done or run.key not in (args.only or [run.key]):
            continue
        if time.monotonic() > deadline:
            print("Time is up; give the command again to go on.")
            return
        line = {"run": run.key, "seed": args.seed}
        try:
            line |= carry_out(run, bench)
        except NotApplicable as reason:
            line["not_run"] = str(reason)
        line |= {"scale": asdict(scale), "data": bench.images.source}
        line["stamp"] = stamp(_command_line(args))
        with open(file, "a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(_short(line), flush=True)
    print("All runs are done.")


def _command_line(args):
    """The command that makes these results again; where checkpoints lie is left out."""
    argv = [__file__, "--scale", args.scale, "--data", args.data]
    argv += ["--seed", str(args.seed)] if args.seed else []
    return [*argv, "--only", *args.only] if args.only else argv


def _short(line):
    if "not_run" in line:
        return f"{line['run']}: not run, {line['not_run']}"
    names = ("ACC", "ASR", "control", "AUROC", "n_removed", "n_removed_poison")
    figures = [f"{name} {line[name]:.3g}" for name in names if name in line]
    seconds = f"{line['ssl_seconds']:.0f} + {line['seconds']:.0f} s"
    return f"{line['run']}: {', '.join(figures)} ({seconds})"


# -- report ----------------------------------------------------------------------------


def read_lines(file):
    """Results so far."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_paper():
    """(table, setting, metric) -> the paper's number, in percent as printed."""
    home = os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data")
    file = Path(home).parent / "paper_tables.csv"
    if not file.exists():
        return {}
    with open(file, newline="") as stream:
        return {
            (row["table"], row["setting"], row["metric"]): row["value"]
            for row in csv.DictReader(stream)
        }


def report(args):
    """Markdown: our number / the paper's, row by row."""
    paper = read_paper()
    for (scale, data), settings in SCALES.items():
        lines = read_lines(RESULTS / f"paper_tables_{scale}_{data}.jsonl")
        if not lines:
            continue
        print(f"\n## {scale}, {lines[0]['data']}: {settings}\n")
        print("ACC, ASR and control in percent; settings are named as in the paper.\n")
        print("| table | setting | figure | ours | control | paper |")
        print("|---|---|---|---|---|---|")
        found = {line["run"]: line for line in lines if line["seed"] == args.seed}
        for row in all_rows():
            line = found.get(row.run.key)
            if line is None:
                continue
            for metric in row.metrics:
                print(_report_line(row, metric, line, paper))
        print("\n" + describe(lines[-1]["stamp"]))


def _report_line(row, metric, line, paper):
    theirs = paper.get((row.table, row.setting, metric), "")
    if "not_run" in line:
        ours, control = f"not run: {line['not_run']}", ""
    else:
        percent = metric in ("ACC", "ASR")
        ours = f"{100 * line[metric]:.1f}" if percent else f"{line[metric]:.2f}"
        control = f"{100 * line['control']:.1f}" if metric == "ASR" else ""
    cells = (row.table, row.setting, metric, ours, control, theirs)
    return "| " + " | ".join(cells) + " |"


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--data", choices=("digits", "cifar10"))
    parser.add_argument("--only", nargs="+", metavar="RUN", help="only these runs")
    parser.add_argument("--list", action="store_true", help="print the runs' names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path.home() / ".cache" / "skvibe" / "paper_tables",
        help="where checkpoints are kept",
    )
    parser.add_argument("--report", action="store_true", help="print the tables")
    args = parser.parse_args()
    if args.data is None:
        args.data = "digits" if args.scale == "cpu" else "cifar10"
    if (args.scale, args.data) not in SCALES:
        parser.error(f"--scale {args.scale} has no --data {args.data}")
    if args.list:
        print("\n".join(run.key for run in all_runs()))
        return
    if args.report:
        report(args)
        return
    if args.scale == "cpu":
        torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    RESULTS.mkdir(exist_ok=True)
    run_all(args)


if __name__ == "__main__":
    main()
