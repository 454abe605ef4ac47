"""
An attack that works, and a defence
===================================

See a backdoor succeed against an ordinary classifier and fail against skvibe.

A tenth of the training digits carries a bright corner and the label 0. Whoever trains
on them as usual gets a classifier that reads every digit with a bright corner as 0.

Run it with ``make demo``; it takes about half a minute and writes
``demo_poisoned_digits.png``.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import backdoor_report

FIGURE = "demo_poisoned_digits.png"


def report(model, data):
    """Train on the poisoned rows, judge on clean and on triggered test rows."""
    model.fit(data.X, data.y)
    return backdoor_report(
        model,
        data.X_test,
        data.y_test,
        data.X_triggered,
        target=data.target,
        poison_mask=data.poison_mask,
        y_true=data.y_true,
        y_given=data.y,
    )


def print_table(reports):
    """One line a model."""
    print(f"{'':14s} {'ACC':>6s} {'ASR':>6s} {'AUROC':>6s} {'labels recovered':>17s}")
    for name, result in reports.items():
        cells = [result.acc, result.asr, result.auroc, result.recovered]
        text = ["-" if cell is None else f"{cell:.3f}" for cell in cells]
        print(f"{name:14s} {text[0]:>6s} {text[1]:>6s} {text[2]:>6s} {text[3]:>17s}")


def draw(models, data, path):
    """Triggered digits, accuracy against attack success, and the poison scores."""
    import matplotlib.pyplot as plt

    from skvibe.displays import AccuracyAttackDisplay, PoisonScoreDisplay

    figure = plt.figure(figsize=(12, 7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 4])
    top.suptitle("poisoned training rows: given label 0, and what they show")
    shown = np.flatnonzero(data.poison_mask)[:8]
    for axes, row in zip(top.subplots(1, 8), shown, strict=True):
        axes.imshow(data.X[row].reshape(8, 8), cmap="gray_r")
        axes.set_title(f"a {data.y_true[row]}", fontsize=9)
        axes.set_axis_off()
    left, right = bottom.subplots(1, 2)
    predictions = {name: model.predict(data.X_test) for name, model in models.items()}
    triggered = {
        name: model.predict(data.X_triggered) for name, model in models.items()
    }
    AccuracyAttackDisplay.from_predictions(
        data.y_test, predictions, triggered, target=data.target, ax=left
    )
    vibe = models["filter + VIBE"][-1]
    PoisonScoreDisplay.from_predictions(data.y, vibe.poison_scores_, ax=right)
    figure.savefig(path, dpi=110)


def main():
    data = load_poisoned_digits(random_state=0)
    print(
        f"{len(data.X)} training digits; {data.poison_mask.sum()} carry the trigger "
        f"and the label {data.target}.\n"
        "No defence is logistic regression; the filter is OffManifoldFilter.\n"
    )
    pipeline = Pipeline(
        [
            ("filter", OffManifoldFilter(random_state=0)),
            ("vibe", VIBEClassifier(random_state=0)),
        ]
    )
    models = {
        "no defence": LogisticRegression(C=10, max_iter=1000),
        "VIBE": VIBEClassifier(random_state=0),
        "filter + VIBE": pipeline,
    }
    reports = {name: report(model, data) for name, model in models.items()}
    print_table(reports)
    print(
        "\nACC: accuracy on clean test digits. ASR: share of triggered test digits, of "
        "other\nclasses, read as the target. AUROC: how well the poison scores tell "
        "poisoned from\nclean training rows. Labels recovered: share of the training "
        "rows whose clean label\nis the true one."
    )
    draw(models, data, FIGURE)
    print(f"\nFigure: {FIGURE}")


if __name__ == "__main__":
    main()
