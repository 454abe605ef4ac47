"""The paper's supplementary tables, with our number beside the paper's.

    python benchmarks/paper_tables.py --scale cpu                 # digits, minutes
    python benchmarks/paper_tables.py --scale cpu --data cifar10  # 4 classes, 16 x 16
    python benchmarks/paper_tables.py --scale gpu                 # CIFAR-10, ResNet-18
    python benchmarks/paper_tables.py --report

One JSON line for each run goes to ``benchmarks/results``; runs that are there at the
same scale are skipped, and pretraining goes on from its checkpoint, so the command can
be stopped and given again (``--minutes`` starts no run after that time). At the "cpu"
scale compare shapes, not levels: data, encoder and budget are far smaller than the
paper's. ``--scale smoke`` goes the way of "gpu" with random images and next to no
training, to see that every run works; it needs ``--results``.

Every method starts from the same encoder, pretrained without labels on the poisoned
images, and makes the same number of SGD steps of the same size on the same augmented
images.
"control" is the attack success rate on a model trained in that way on clean data.
"""

import argparse
import copy
import functools
import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _stamp import ROOT, stamp
from paper_cells import all_runs
from paper_images import TARGET, Enlarged, UnitPixels, load_images, make_attack
from paper_report import PAGE, read_lines, report
from paper_training import train_cross_entropy
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe._device import resolve_device
from skvibe.encoders import (
    CropFlip,
    SelfSupervisedEncoder,
    SimCLRAugmentation,
    make_encoder,
)
from skvibe.metrics import attack_success_rate

RESULTS = ROOT / "benchmarks" / "results"
_VGG_SIDE = 32


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
    width: int = 32  # of the encoder's first stage
    vgg_width: int = 8
    attack_iterations: int = 1000
    attack_restarts: int = 8


SCALES = {
    ("cpu", "digits"): Scale("cpu", "digits", "small", 40, 256, 600, 20, 128, 1e-2),
    ("cpu", "cifar10"): Scale("cpu", "cifar10", "small", 30, 256, 900, 30, 128, 1e-2),
    # The paper's: 30,000 iterations, lr 1e-3, batch 256, E-step every 1,000.
    ("gpu", "cifar10"): Scale(
        "gpu", "cifar10", "resnet18", 1000, 512, 30_000, 1000, 256, 1e-3, 64, 64
    ),
    ("smoke", "random"): Scale(
        "smoke", "random", "resnet18", 2, 64, 6, 2, 64, 1e-3, 4, 4, 2, 1
    ),
}


# -- methods ---------------------------------------------------------------------------


class Bench:
    """What the runs of one scale and seed share: encoders, the clean model."""

    def __init__(self, scale, seed, work, device):
        self.scale, self.seed, self.work, self.device = scale, seed, work, device
        self.images = load_images(scale.name, scale.data)
        work.mkdir(parents=True, exist_ok=True)

    def augmentation(self):
        """Random views for supervised training."""
        return CropFlip(self.images.channels, flip=self.images.colour)

    def pretrain(self, X, label, encoder):
        """SimCLR on the images as the victim has them, resumed from its checkpoint."""
        scale, seed = self.scale, self.seed
        name = scale.encoder if encoder == "default" else encoder
        views = SimCLRAugmentation(
            self.images.channels,
            flip=self.images.colour,
            min_area=0.2 if self.images.colour else 0.4,
        )
        return SelfSupervisedEncoder(
            self.make_module(name),
            augment=views,
            max_epochs=scale.ssl_epochs,
            batch_size=scale.ssl_batch,
            checkpoint=self._file(name, label),
            checkpoint_every=max(1, scale.ssl_epochs // 50),
            device=self.device,
            random_state=seed,
            verbose=1 if scale.name == "gpu" else 0,
        ).fit(X)

    def _file(self, kind, label):
        """Where a state is kept."""
        scale = self.scale
        name = f"{scale.name}-{scale.data}-{kind}-{label}-{self.seed}.pt"
        return self.work / name

    def make_module(self, name):
        """An untrained encoder that takes images of this size."""
        scale, images = self.scale, self.images
        width = scale.vgg_width if name == "vgg11" else scale.width
        params = {"in_channels": images.channels, "width": width}
        module = make_encoder(name, random_state=self.seed, **params)
        if name == "vgg11" and images.side < _VGG_SIDE:
            return Enlarged(module, images.channels, _VGG_SIDE // images.side)
        return module

    def encoder_of(self, X, label, encoder):
        """The pretrained module."""
        return self.pretrain(X, label, encoder).encoder_

    @functools.cached_property
    def clean_model(self):
        """Trained as the undefended one is, on clean data from a clean start."""
        images = self.images
        encoder = self.encoder_of(images.X, "clean", "default")
        return self.cross_entropy(encoder, images.X, images.y, "clean")

    def attackers_model(self):
        """What the attacker has: a model trained on clean images."""
        return UnitPixels(copy.deepcopy(self.clean_model))

    def cross_entropy(self, encoder, X, y, label):
        """The undefended model."""
        return train_cross_entropy(
            encoder,
            X,
            y,
            self.scale,
            seed=self.seed,
            augment=self.augmentation(),
            device=resolve_device(self.device),
            checkpoint=self._file("undefended", label),
        )

    def vibe(self, encoder, X, y, run):
        """End to end, by the paper's recipe or with this library's own steps."""
        paper, change = run.method == "vibe", run.change
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
        if paper:
            params |= {"first_e_step": "clean", "prior": "learned", "refit": False}
        return VIBEClassifier(
            encoder,
            train_encoder=True,
            augment=self.augmentation(),
            max_iter=scale.iterations,
            batch_size=scale.batch_size,
            tol=0.0,
            checkpoint=self._file("vibe", run.key.replace("/", "-")),
            checkpoint_every=max(100, scale.iterations // 25),
            device=self.device,
            random_state=self.seed,
            verbose=1 if scale.name == "gpu" else 0,
            **params,
        ).fit(X, y)


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
    attack = make_attack(run.attack, images, bench.seed, bench)
    poisoned = attack.poison(images.X, images.y)
    ssl = bench.pretrain(poisoned.X, run.attack, run.encoder)
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
        label = f"{run.attack}-{run.encoder}"
        model = bench.cross_entropy(ssl.encoder_, poisoned.X, poisoned.y, label)
        return functools.partial(predict_labels, model), {}
    if run.method == "logreg":
        features = normalize(ssl.transform(poisoned.X))
        model = LogisticRegression(C=10, max_iter=1000).fit(features, poisoned.y)
        return lambda X: model.predict(normalize(ssl.transform(X))), {}
    removed = np.zeros(len(poisoned.y), dtype=bool)
    facts = {}
    if run.filtered:
        delta = run.change[1] if run.change and run.change[0] == "delta" else 0.275
        # Against the classes: of an encoder trained this briefly, communities are
        # backgrounds and colours, and tell nothing about one another.
        detector = OffManifoldFilter(
            threshold=delta, distance="classes", random_state=bench.seed
        )
        detector.fit(ssl.transform(poisoned.X), poisoned.y)
        removed = detector.removed_mask_
        facts = {
            "n_removed": int(removed.sum()),
            "n_removed_poison": int(removed[poisoned.mask].sum()),
            "decision": detector.decision_,
            "largest_distance": float(np.max(detector.community_distances_)),
        }
    keep = ~removed
    vibe = bench.vibe(
        ssl.encoder_,
        poisoned.X[keep],
        poisoned.y[keep],
        run,
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
    file = args.results / f"paper_tables_{args.scale}_{args.data}.jsonl"
    done = {
        (line["run"], line["seed"])
        for line in read_lines(file)
        if Scale(**line["scale"]) == scale and not line.get("earlier")
    }
    bench = Bench(scale, args.seed, args.work, args.device)
    deadline = time.monotonic() + 60 * args.minutes
    for run in all_runs():
        if (run.key, args.seed) in done or run.key not in (args.only or [run.key]):
            continue
        if time.monotonic() > deadline:
            print("Time is up; give the command again to go on.")
            return
        line = {"run": run.key, "seed": args.seed, **carry_out(run, bench)}
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
    names = ("ACC", "ASR", "control", "AUROC", "n_removed", "n_removed_poison")
    figures = [f"{name} {line[name]:.3g}" for name in names if name in line]
    seconds = f"{line['ssl_seconds']:.0f} + {line['seconds']:.0f} s"
    return f"{line['run']}: {', '.join(figures)} ({seconds})"


def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("cpu", "gpu", "smoke"), default="cpu")
    parser.add_argument("--data", choices=("digits", "cifar10", "random"))
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
    parser.add_argument(
        "--results", type=Path, help="folder of the JSON lines, benchmarks/results"
    )
    parser.add_argument(
        "--report", action="store_true", help="write docs/paper_tables.md"
    )
    args = parser.parse_args(argv)
    if args.data is None:
        args.data = {"cpu": "digits", "gpu": "cifar10", "smoke": "random"}[args.scale]
    if (args.scale, args.data) not in SCALES:
        parser.error(f"--scale {args.scale} has no --data {args.data}")
    if args.list:
        print("\n".join(run.key for run in all_runs()))
        return
    if args.report:
        page = report(SCALES, args.results or RESULTS)
        if args.results is None:
            PAGE.write_text(page)
        else:
            print(page)
        return
    if args.results is None:
        if args.scale == "smoke":
            parser.error("--scale smoke measures nothing: say where with --results")
        args.results = RESULTS
    if args.scale != "gpu":
        torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    args.results.mkdir(parents=True, exist_ok=True)
    run_all(args)


if __name__ == "__main__":
    main()
