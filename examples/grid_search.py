"""
Grid search on poisoned data
============================

Accuracy chooses the backdoor; the scorers of `skvibe.model_selection` do not.
The search sees only the poisoned training rows; the attack success of each choice is
measured afterwards.
"""

import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.displays import AccuracyAttackDisplay
from skvibe.model_selection import (
    relabelling_scorer,
    separation_scorer,
    suspect_scorer,
)

data = load_poisoned_digits(rate=0.05, random_state=0)
grid = {"lam": [1, 25], "kappa": [5, 20], "nu": [2, 10, 40]}
vibe = VIBEClassifier(refit=False, random_state=0)

# %%
# One search, judged by four scorers. ``suspect_scorer`` is made of all training rows;
# with one scorer only, ``scoring=suspect_scorer(data.X, data.y)`` is enough.

scorers = {
    "accuracy": "accuracy",
    "suspects": suspect_scorer(data.X, data.y),
    "separation": separation_scorer,
    "relabelling": relabelling_scorer,
}
search = GridSearchCV(vibe, grid, scoring=scorers, refit=False, cv=3)
results = search.fit(data.X, data.y).cv_results_
chosen = {}
for name in scorers:
    best = results["params"][results[f"mean_test_{name}"].argmax()]
    chosen[name] = clone(vibe).set_params(**best).fit(data.X, data.y)
    print(f"chosen by {name}: {best}")

# %%
# What each choice is worth: accuracy on clean test digits, and how often the trigger is
# obeyed.

shown = AccuracyAttackDisplay.from_estimator(
    chosen, data.X_test, data.y_test, data.X_triggered, target=data.target
)
for name, accuracy, obeyed in zip(
    shown.names, shown.accuracies, shown.attack_success_rates, strict=True
):
    print(f"{name:12s} accuracy {accuracy:.3f}, attack success {obeyed:.3f}")
plt.show()
