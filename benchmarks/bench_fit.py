"""What a fit costs, as ratios of processor times within one run.

* an epoch of the M-step against a bare torch loop doing the same arithmetic on the
  same batches (50,000 x 384, batch 1,024);
* the share of the E-steps in a default fit at that size, and what of their time goes
  into the products of features with prototypes and into the transport problem;
* an E-step with the full corrupted posterior against the approximate one, at 100
  classes, over all rows and over those whose label may change, as from the third
  E-step on;
* a whole default fit on AG News against scikit-learn's LogisticRegression on the same
  features (20,000 x 384), where that data is at hand.

Run it with ``python benchmarks/bench_fit.py``; the result goes to
``benchmarks/results/fit.json``.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import statistics
import time
import warnings

import numpy as np
import torch
from _stamp import stamp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from skvibe import VIBEClassifier
from skvibe._fitting import run_em
from skvibe.em import VIBENet
from skvibe.posteriors import unit_rows

PARTS = ("products", "transport")
SECONDS = collections.Counter()
RESULT = pathlib.Path(__file__).parent / "results" / "fit.json"


def sphere(n_rows, n_features, n_classes, seed=0):
    """Unit vectors around prototypes, a tenth of the labels set to class 0."""
    rng = np.random.default_rng(seed)
    prototypes = rng.normal(size=(n_classes, n_features))
    y = rng.integers(n_classes, size=n_rows)
    X = prototypes[y] + 1.5 * rng.normal(size=(n_rows, n_features))
    y[rng.random(n_rows) < 0.1] = 0
    return X.astype(np.float32), y


def bare_epoch(X, given, labels, mu, eta, kappa, nu, batch_size, seed):
    """Processor seconds of one epoch of the same M-step, written by hand in torch."""
    mu = mu.clone().requires_grad_()
    log_prior = torch.zeros(len(mu))
    optimizer = torch.optim.SGD([mu], lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for rows in torch.randperm(len(X), generator=generator).split(batch_size):
        v, y, l = X[rows], given[rows], labels[rows]
        optimizer.zero_grad()
        prototypes, corrupted = unit_rows(mu), unit_rows(eta)
        cosines = v @ prototypes.T
        log_clean = torch.log_softmax(kappa * cosines + log_prior, dim=1)
        norm = (2 + 2 * cosines.gather(1, l[:, None])).clamp_min(1e-12).sqrt()
        logits = ((prototypes @ corrupted.T)[l] + v @ corrupted.T) * (nu / norm)
        log_corrupted = torch.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]
        loss = -(log_clean.gather(1, l[:, None])[:, 0] + log_corrupted).mean()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


class TimedNet(VIBENet):
    """Notes the seconds of E-steps, and of their products and transport problems."""

    in_e_step = False

    def e_step(self):
        self.in_e_step = True
        with noted("E-steps"):
            super().e_step()
        self.in_e_step = False

    def _cosine_blocks(self, *args):
        blocks = super()._cosine_blocks(*args)
        while True:
            with noted("products", self.in_e_step):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def _solve(self, *args):
        with noted("transport", self.in_e_step):
            return super()._solve(*args)


@contextlib.contextmanager
def noted(part, counts=True):
    start = time.process_time()
    yield
    if counts:
        SECONDS[part] += time.process_time() - start


def epoch_ratio(repeats, n_rows=50_000, n_features=384, n_classes=10):
    """M-step of the classifier over the bare loop, epochs interleaved."""
    import skvibe._fitting as fitting

    X, y = sphere(n_rows, n_features, n_classes)
    features, given = unit_rows(torch.from_numpy(X)), torch.from_numpy(y)
    batches = -(-n_rows // 1024)
    classes = np.arange(n_classes)
    means = fitting.class_means(features, given, n_classes)
    shares = np.full(n_classes, 1 / n_classes)

    def seconds(n_epochs, seed):
        settings = VIBEClassifier(
            max_iter=n_epochs * batches, e_step_period=10**6, random_state=0
        )
        settings.classes_ = classes
        settings.kappa_ = settings.nu_ = 20.0
        SECONDS.clear()
        start = time.process_time()
        run_em(settings, features, features, given, shares, seed)
        return time.process_time() - start - SECONDS["E-steps"]

    fitting.VIBENet = TimedNet
    ours, bare = [], []
    for repeat in range(repeats + 1):
        # The difference leaves out what is done once a fit.
        epoch = (seconds(4, repeat) - seconds(1, repeat)) / 3
        theirs = [
            bare_epoch(features, given, given, means, means, 20.0, 20.0, 1024, repeat)
            for _ in range(3)
        ]
        if repeat:  # the first round warms up
            ours.append(epoch)
            bare.append(statistics.median(theirs))
    fitting.VIBENet = VIBENet
    return {
        "n_rows": n_rows,
        "n_features": n_features,
        "skvibe_s": statistics.median(ours),
        "bare_torch_s": statistics.median(bare),
        "ratio": statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
    }


def e_step_share(repeats, n_rows=50_000, n_features=384, n_classes=10):
    """Share of a default fit that its E-steps take."""
    import skvibe._fitting as fitting

    X, y = sphere(n_rows, n_features, n_classes)
    fitting.VIBENet = TimedNet
    totals, shares, parts = [], [], []
    for _ in range(repeats):
        SECONDS.clear()
        start = time.process_time()
        with warnings.catch_warnings():
            # A tenth of the labels is wrong at random: they never quite settle.
            warnings.simplefilter("ignore", ConvergenceWarning)
            vibe = VIBEClassifier(random_state=0).fit(X, y)
        totals.append(time.process_time() - start)
        shares.append(SECONDS["E-steps"] / totals[-1])
        parts.append([SECONDS[part] / SECONDS["E-steps"] for part in PARTS])
    fitting.VIBENet = VIBENet
    return {
        "fit_s": statistics.median(totals),
        "e_steps": len(vibe.lower_bounds_),
        "e_step_share": statistics.median(shares),
        "e_step_shares": shares,
        "shares_of_e_steps": dict(zip(PARTS, np.median(parts, axis=0), strict=True)),
    }


def posteriors(repeats, n_rows=20_000, n_features=384, n_classes=100):
    """E-steps with the full corrupted posterior over those with the approximate."""
    X, y = sphere(n_rows, n_features, n_classes)
    features, given = unit_rows(torch.from_numpy(X)), torch.from_numpy(y)
    nets, shares = {}, np.full(n_classes, 1 / n_classes)
    for kind in ("full", "approximate"):
        settings = VIBEClassifier(
            max_iter=100, e_step_period=20, corrupted_posterior=kind, random_state=0
        )
        settings.classes_ = np.arange(n_classes)
        settings.kappa_ = settings.nu_ = 20.0
        nets[kind] = run_em(settings, features, features, given, shares, 0)
    rounds = [
        [e_step_seconds(nets[kind]) for kind in ("full", "approximate")]
        for _ in range(repeats + 1)
    ]
    # The first round warms up.
    full, approximate = np.array(rounds[1:]).swapaxes(0, 1)
    ratios = np.median(full / approximate, axis=0)
    return {
        "n_rows": n_rows,
        "n_classes": n_classes,
        "log_p_ratio": ratios[0],
        "e_step_ratio": ratios[1],
        "later_e_step_ratio": ratios[2],
        "later_over_whole": np.median(full[:, 2] / full[:, 1]),
    }


def e_step_seconds(net):
    """Of log-probabilities alone, an E-step over all rows, one over those in doubt."""
    start, labels = net.em_.potentials, net.em_.labels
    began = time.process_time()
    log_p = net.log_joint(True)
    between = time.process_time()
    net._solve(log_p)
    ended = time.process_time()
    if net._solve_unsettled() is None:
        raise RuntimeError("The potentials moved too far.")
    later = time.process_time() - ended
    net.em_.potentials, net.em_.labels = start, labels
    return between - began, ended - began, later


def whole_fit(repeats):
    """Default fit over logistic regression on poisoned AG News embeddings."""
    from cells import Cell, load

    cell = load(Cell("agnews", "word", 0, 0.1, 0))
    vibe, logistic = [], []
    for repeat in range(repeats):
        start = time.process_time()
        LogisticRegression(C=10, max_iter=1000).fit(cell.X, cell.y)
        logistic.append(time.process_time() - start)
        start = time.process_time()
        VIBEClassifier(random_state=repeat).fit(cell.X, cell.y)
        vibe.append(time.process_time() - start)
    return {
        "n_rows": len(cell.X),
        "vibe_s": statistics.median(vibe),
        "logistic_regression_s": statistics.median(logistic),
        "ratio": statistics.median(a / b for a, b in zip(vibe, logistic, strict=True)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"run": stamp(), "epoch": epoch_ratio(args.repeats)}
    print("epoch", result["epoch"])
    result["e_steps"] = e_step_share(min(args.repeats, 3))
    print("e-steps", result["e_steps"])
    result["posteriors"] = posteriors(args.repeats)
    print("posteriors", result["posteriors"])
    result["whole_fit"] = whole_fit(args.repeats)
    print("whole fit", result["whole_fit"])
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
