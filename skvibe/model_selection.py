"""Scorers for a search on poisoned data: none of them looks at a given label.

Validation folds are poisoned too, so accuracy against the given labels rewards the
model that obeys the attacker.
"""

import numpy as np


def separation(X, predicted):
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

    Returns
    -------
    float
        Mean over pairs of groups of 1 - cosine, in [0, 2]; the higher, the better.
        0 where fewer than two groups are predicted.

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
    off_diagonal = cosines.sum() - np.trace(cosines)
    return float(1 - off_diagonal / (n_groups * (n_groups - 1)))


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
    final, rows = estimator, X
    if hasattr(estimator, "named_steps"):
        final = estimator[-1]
        if len(estimator) > 1:
            rows = estimator[:-1].transform(X)
    predicted = final.predict(rows)
    features = final.transform(rows) if hasattr(final, "transform") else rows
    return separation(features, predicted)
