"""
Train any classifier on what is trusted
=======================================

`VIBEClassifier` predicts by itself. Where another model is wanted, take the rows that
it trusts, or all rows with the labels that it infers.
"""

import matplotlib.pyplot as plt
from sklearn.ensemble import RandomForestClassifier

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.displays import AccuracyAttackDisplay

data = load_poisoned_digits(random_state=0)
vibe = VIBEClassifier(random_state=0).fit(data.X, data.y)
trusted = vibe.trusted_mask_

training_sets = {
    "labels as given": (data.X, data.y),
    "trusted rows only": (data.X[trusted], data.y[trusted]),
    "all rows, clean labels": (data.X, vibe.clean_labels_),
}
forests = {
    name: RandomForestClassifier(random_state=0).fit(X, y)
    for name, (X, y) in training_sets.items()
}

# %%
# The same forest three times. Only the one that was trained on the labels as given
# obeys the trigger.

shown = AccuracyAttackDisplay.from_estimator(
    forests, data.X_test, data.y_test, data.X_triggered, target=data.target
)
for name, accuracy, obeyed in zip(
    shown.names, shown.accuracies, shown.attack_success_rates, strict=True
):
    n_rows = len(training_sets[name][1])
    print(
        f"{name:23s} {n_rows:5d} rows, accuracy {accuracy:.3f}, "
        f"attack success {obeyed:.3f}"
    )
plt.show()
