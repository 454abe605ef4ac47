"""Scorers for a search on poisoned data: none of them looks at a given label.

Validation folds are poisoned too, so accuracy against the given labels rewards the
model that obeys the attacker.
"""

import numpy as np


def separation(X, predicted, n_classes=None):
    """Mean cosine distance between the means of the predicted groups.

    A model that sorts rows by what they are makes groups whose means point in
    different directions; one that obeys a trigger mixes several classes into the
    attacker's target, which pulls its mean towards theirs. No label is used.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Feature vectors; their length does not matter.
    predicted : array-like of shape (n_samples,)
        Predicted class of each row.
    n_classes : int, default=None
        Number of classes that could have been predicted. A pair with a class that
        never was counts as 0, so that a model cannot win by leaving classes out.
        None: the classes that were predicted.

    Returns
    -------
    float
        Mean over pairs of classes of 1 - cosine, in [0, 2]; the higher, the better.

    Examples
    --------
    >>> from skvibe.model_selection import separation
    >>> separation([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [0, 0, 1])
    1.0
    """
    X = np.asarray(X, dtype=np.float64)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    groups, codes = np.unique(predicted, return_inverse=True)
    if len(groups) < 2:
        return 0.0
    means = np.zeros((len(groups), X.shape[1]))
    np.add.at(means, codes, X)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines = means @ means.T
    n_groups = len(groups)
    n_pairs = n_groups * (n_groups - 1)
    distances = n_pairs - (cosines.sum() - np.trace(cosines))
    n_classes = max(n_classes or 0, n_groups)
    return float(distances / (n_classes * (n_classes - 1)))


def separation_scorer(estimator, X, y=None):
    """Score a fitted classifier by the `separation` of the groups it predicts.

    Pass it as ``scoring=separation_scorer`` to `GridSearchCV`, `cross_val_score` and
    the like. ``y`` is accepted and ignored.

    Parameters
    ----------
    estimator : classifier or Pipeline
        Fitted. A final step with ``transform`` (such as `VIBEClassifier`) supplies
        the feature space; otherwise ``X`` as the final step sees it is used.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        Held-out rows.
    y : ignored
        Present because scorers are called with it.

    Returns
    -------
    float
        The higher, the better.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.model_selection import separation_scorer
    >>> data = load_poisoned_digits(random_state=0)
    >>> search = GridSearchCV(
    ...     VIBEClassifier(random_state=0, max_iter=100),
    ...     {"kappa": [5.0, 20.0]},
    ...     scoring=separation_scorer,
    ...     cv=3,
    ... ).fit(data.X, data.y)
    >>> sorted(search.best_params_)
    ['kappa']
    """
    final, rows = _final_step(estimator, X)
    predicted = final.predict(rows)
    features = final.transform(rows) if hasattr(final, "transform") else rows
    return separation(features, predicted, n_classes=len(final.classes_))


def _final_step(estimator, X):
    """Last step of a fitted pipeline, and ``X`` as that step sees it."""
    if not hasattr(estimator, "named_steps"):
        return estimator, X
    for _, step in estimator.steps[:-1]:
        # Samplers and "passthrough" have no transform and do nothing here.
        if hasattr(step, "transform"):
            X = step.transform(X)
    return estimator.steps[-1][1], X
