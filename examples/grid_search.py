"""
Grid search on poisoned data
============================

Accuracy chooses the backdoor; the scorers of `skvibe.model_selection` do not.
All searches see only the poisoned training rows; the attack success of their choice is
measured afterwards.
"""

from sklearn.model_selection import GridSearchCV

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate
from skvibe.model_selection import relabelling_scorer, separation_scorer

data = load_poisoned_digits(random_state=0)
grid = {"lam": [1, 25], "kappa": [5, 20], "nu": [2, 10, 40]}
vibe = VIBEClassifier(refit=False, random_state=0)

scorers = {
    "accuracy": "accuracy",
    "separation": separation_scorer,
    "relabelling": relabelling_scorer,
}
for name, scoring in scorers.items():
    search = GridSearchCV(vibe, grid, scoring=scoring, cv=3).fit(data.X, data.y)
    obeyed = attack_success_rate(
        data.y_test, search.predict(data.X_triggered), target=data.target
    )
    correct = (search.predict(data.X_test) == data.y_test).mean()
    print(
        f"chosen by {name}: {search.best_params_}, attack success {obeyed:.3f}, "
        f"clean accuracy {correct:.3f}"
    )
