"""What each scorer chooses from a grid of 36 settings, on poisoned data.

    python benchmarks/selection.py            # all cells, resumable
    python benchmarks/selection.py --only trec/word
    python benchmarks/selection.py --print    # the summary again

For each cell a quarter of the training rows is held out, every setting of lam, kappa,
nu and corrupted_posterior is fitted to the rest, and each scorer picks one. Truth is
clean test accuracy minus attack success (accuracy alone without an attack).
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
import torch
from _stamp import stamp
from cells import Cell, load
from scipy.stats import spearmanr
from sklearn.model_selection import train_test_split

from skvibe import VIBEClassifier
from skvibe.model_selection import (
    relabelling_scorer,
    separation_scorer,
    suspect_scorer,
)

RESULT = pathlib.Path(__file__).parent / "results" / "selection.jsonl"
GRID = [
    {"lam": lam, "kappa": kappa, "nu": nu, "corrupted_posterior": posterior}
    for posterior, lam, kappa, nu in itertools.product(
        ("full", "approximate"), (1.0, 25.0), (5.0, 10.0, 20.0), (2.0, 5.0, 10.0)
    )
]
# Each is made of all poisoned training rows; most do not look at them.
SCORERS = {
    "accuracy on given labels": lambda X, y: lambda model, X, y: model.score(X, y),
    "separation_scorer": lambda X, y: separation_scorer,
    "relabelling_scorer": lambda X, y: relabelling_scorer,
    "suspect_scorer": suspect_scorer,
}
CELLS = [
    Cell("digits", "badnets", 0, 0.10, 0),
    Cell("digits", "badnets", 8, 0.05, 1),
    Cell("agnews", "word", 0, 0.02, 0, 5000),
    Cell("agnews", "word", 0, 0.05, 1, 5000),
    Cell("agnews", "sent", 1, 0.05, 0, 5000),
    Cell("agnews", "sent", 0, 0.10, 2, 5000),
    Cell("agnews", "none", 0, 0.0, 0, 5000),
    Cell("trec", "word", 3, 0.02, 1),
    Cell("trec", "word", 3, 0.05, 0),
    Cell("trec", "word", 1, 0.10, 2),
    Cell("trec", "sent", 3, 0.05, 0),
    Cell("trec", "none", 3, 0.0, 0),
    Cell("cifar", "badnets", 0, 0.10, 0),
    Cell("cifar", "blend", 1, 0.05, 0),
    Cell("cifar", "none", 0, 0.0, 0),
]


def judge(cell):
    """Truth and scores of every setting, and truth of the defaults."""
    data = load(cell)
    X, held_X, y, held_y = train_test_split(
        data.X, data.y, test_size=0.25, stratify=data.y, random_state=0
    )
    truth, acc, asr = [], [], []
    scores: dict = {name: [] for name in SCORERS}
    scorers = {name: make(data.X, data.y) for name, make in SCORERS.items()}
    not_target = data.y_test != data.target
    for params in [*GRID, {}]:
        # Fewer iterations than by default: 37 fits a cell.
        model = VIBEClassifier(random_state=0, max_iter=300, **params).fit(X, y)
        obeyed = model.predict(data.X_triggered[not_target]) == data.target
        acc.append(float(model.score(data.X_test, data.y_test)))
        asr.append(float(obeyed.mean()))
        truth.append(acc[-1] - (asr[-1] if cell.rate else 0))
        for name, scorer in scorers.items():
            scores[name].append(float(scorer(model, held_X, held_y)))
    return {"cell": cell.key, "truth": truth, "acc": acc, "asr": asr, "scores": scores}


def summary(lines):
    """Print what each scorer picked, and how often that was good."""
    print(f"{'scorer':26s} Spearman  regret  within .05  under median  by .01")
    for name in SCORERS:
        rows = [pick(line, name) for line in lines if name in line["scores"]]
        if not rows:
            continue
        rho, regret, curable, under = map(np.array, zip(*rows, strict=True))
        good = curable & (regret <= 0.05)
        print(
            f"{name:26s} {np.nanmean(rho):8.2f} {regret.mean():7.3f} "
            f"{good.sum():5d} of {curable.sum():2d} "
            f"{(under > 1e-9).sum():6d} of {len(rows)} {(under > 0.01).sum():7d}"
        )
    regret = np.array([max(line["truth"][:-1]) - line["truth"][-1] for line in lines])
    print(
        f"defaults, no search: mean regret {regret.mean():.3f}, within .05 in "
        f"{np.count_nonzero(regret <= 0.05)} of {len(lines)}"
    )


def pick(line, name):
    """Rank correlation, regret, whether a cure exists, how far under the median."""
    truth = np.array(line["truth"][: len(GRID)])
    score = np.array(line["scores"][name][: len(GRID)])
    chosen = truth[score.argmax()]
    return (
        spearmanr(truth, score).statistic,
        truth.max() - chosen,
        min(line["asr"][: len(GRID)]) <= 0.2,
        np.median(truth) - chosen,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--only", default="", help="start of the names of the cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = {}
    if RESULT.exists():
        lines = {
            line["cell"]: line
            for line in map(json.loads, RESULT.read_text().splitlines())
        }
    for cell in [] if options.only_print else CELLS:
        # A cell measured before a scorer was added is measured again.
        done = cell.key in lines and SCORERS.keys() <= lines[cell.key]["scores"].keys()
        if done or not cell.key.startswith(options.only):
            continue
        lines[cell.key] = judge(cell) | {"run": stamp()}
        RESULT.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
        print(cell.key, flush=True)
    summary(lines.values())
    complete = [
        line for line in lines.values() if line["scores"].keys() >= set(SCORERS)
    ]
    if 0 < len(complete) < len(lines):
        print(f"\nthe {len(complete)} cells that have all scorers:")
        summary(complete)


if __name__ == "__main__":
    main()
