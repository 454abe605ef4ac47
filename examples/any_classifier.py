"""
Train any classifier on what is trusted
=======================================

`VIBEClassifier` predicts by itself. Where another model is wanted, take the rows that
it trusts, or all rows with the labels that it infers.
"""

from sklearn.ensemble import RandomForestClassifier

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate

data = load_poisoned_digits(random_state=0)
vibe = VIBEClassifier(random_state=0).fit(data.X, data.y)
trusted = vibe.trusted_mask_

training_sets = {
    "labels as given": (data.X, data.y),
    "trusted rows only": (data.X[trusted], data.y[trusted]),
    "all rows, clean labels": (data.X, vibe.clean_labels_),
}
for name, (X, y) in training_sets.items():
    forest = RandomForestClassifier(random_state=0).fit(X, y)
    obeyed = attack_success_rate(
        data.y_test, forest.predict(data.X_triggered), target=data.target
    )
    print(
        f"{name:23s} {len(y):5d} rows, accuracy "
        f"{forest.score(data.X_test, data.y_test):.3f}, attack success {obeyed:.3f}"
    )
