"""
Grid search on poisoned data
============================

Accuracy chooses the backdoor; the scorers of `skvibe.model_selection` do not.
All searches see only the poisoned training rows; the attack success of their choice is
measured afterwards.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.displays import AccuracyAttackDisplay
from skvibe.model_selection import relabelling_scorer, separation_scorer

data = load_poisoned_digits(random_state=0)
grid = {"lam": [1, 25], "kappa": [5, 20], "nu": [2, 10, 40]}
vibe = VIBEClassifier(refit=False, random_state=0)

scorers = {
    "accuracy": "accuracy",
    "separation": separation_scorer,
    "relabelling": relabelling_scorer,
}
chosen = {}
for name, scoring in scorers.items():
    search = GridSearchCV(vibe, grid, scoring=scoring, cv=3).fit(data.X, data.y)
    chosen[name] = search
    print(f"chosen by {name}: {search.best_params_}")

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
