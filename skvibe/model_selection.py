"""Scorers for a search on poisoned data.

Validation folds are poisoned too, so accuracy against the given labels rewards the
model that obeys the attacker.
"""

import numpy as np
from sklearn.metrics import accuracy_score, check_scoring

from skvibe._removed_rows import find_removed
from skvibe.trigger_filter import TriggerFilter


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


def relabelling_scorer(estimator, X, y):
    """Score a fitted `VIBEClassifier` by how well its relabelling is confirmed.

    The sum of ``relabelling_gain_``, which an independent classifier gives the labels
    that were changed in training, and of the share of the held-out labels that are
    predicted. The first is large where poisoned rows were relabelled and negative
    where clean ones had to go in their place; the second keeps a search from settings
    that change labels for nothing. Accuracy alone rewards the backdoor.

    It fails where the trigger stays trusted under every setting that relabels much.

    Parameters
    ----------
    estimator : VIBEClassifier, or Pipeline that ends in one
        Fitted.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        Held-out rows.
    y : array-like of shape (n_samples,)
        Their labels given, poisoned or not.

    Returns
    -------
    float
        The higher, the better.

    Raises
    ------
    TypeError
        If the last step has no ``relabelling_gain_``.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.model_selection import relabelling_scorer
    >>> data = load_poisoned_digits(random_state=0)
    >>> vibe = VIBEClassifier(random_state=0)
    >>> scores = cross_val_score(
    ...     vibe, data.X, data.y, scoring=relabelling_scorer, cv=3
    ... )
    >>> bool(scores.min() > 1)
    True
    """
    final, rows = _final_step(estimator, X)
    if not hasattr(final, "relabelling_gain_"):
        raise TypeError(
            "relabelling_scorer needs a VIBEClassifier as the last step, got "
            f"{type(final).__name__}. Use separation_scorer for other classifiers."
        )
    return final.relabelling_gain_ + accuracy_score(y, final.predict(rows))


def suspect_scorer(X, y, fallback=separation_scorer, random_state=0):
    """Make a scorer that estimates accuracy less attack success, without clean rows.

    A `TriggerFilter` is fitted once to all rows of the search, whatever the candidates
    are. Held-out rows that carry a displacement it found and the label given with it
    are suspects: predicting that label means obeying the trigger. The score is the
    share of the other held-out rows whose given label is predicted, less that share
    among the suspects.

    Where the filter finds no trigger there are no suspects, and ``fallback`` scores
    every candidate. It finds none in clean data, where each setting is about as good as
    another, and none of a trigger that moves rows in different directions, as in
    features of a strongly nonlinear encoder: there the choice is as good as the
    fallback's. Where it calls a natural group a trigger (in at most 5 % of searches on
    clean data) settings that predict that group wrongly are preferred.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        All rows of the search, the ones that ``search.fit`` is called with: feature
        vectors. Encode texts and images before the search, not in it.
    y : array-like of shape (n_samples,)
        Their labels given, poisoned or not.
    fallback : str or callable, default=separation_scorer
        What is applied, as in scikit-learn, where the filter finds nothing.
    random_state : int, RandomState instance or None, default=0
        Of the filter.

    Returns
    -------
    callable
        With the signature ``scorer(estimator, X, y)``, for any fitted classifier or
        Pipeline. Its values lie in [-1, 1] unless they are the fallback's.

    Raises
    ------
    ValueError
        If ``X`` is not a table of numbers.

    Warns
    -----
    UserWarning
        As `TriggerFilter` does: too few rows, too many suspects, more suspects than
        other rows in a class.

    See Also
    --------
    skvibe.TriggerFilter : Removes the suspects instead.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.model_selection import suspect_scorer
    >>> data = load_poisoned_digits(rate=0.05, random_state=0)
    >>> search = GridSearchCV(
    ...     VIBEClassifier(refit=False, random_state=0, max_iter=100),
    ...     {"nu": [0.5, 20.0]},
    ...     scoring=suspect_scorer(data.X, data.y),
    ...     cv=3,
    ... ).fit(data.X, data.y)
    >>> search.best_params_
    {'nu': 20.0}
    """
    if np.ndim(X) != 2:
        raise ValueError(
            "suspect_scorer needs feature vectors, one row each; encode texts and "
            f"images before the search. Got {np.ndim(X)} dimensions."
        )
    found = TriggerFilter(undecided="ignore", random_state=random_state).fit(X, y)
    n_suspects = found.n_removed_ - np.count_nonzero(find_removed(np.asarray(X)))

    def scorer(estimator, X, y):
        # Decided once for all candidates and folds: the two scales never meet.
        if not n_suspects:
            return check_scoring(estimator, scoring=fallback)(estimator, X, y)
        given = np.asarray(y)
        suspects = np.isin(given, found.suspect_classes_)
        suspects &= found.trigger_score(X) > 0.5
        kept = estimator.predict(X) == given
        return _mean(kept[~suspects]) - _mean(kept[suspects])

    return scorer


def on_manifold_scorer(scoring="accuracy"):
    """Make a scorer that leaves out the rows that a pipeline's filters reject.

    Held-out rows off the manifold of the training rows are judged by the fitted
    filters (``is_off_manifold``) and do not count. The rows that remain may still be
    poisoned: with ``scoring="accuracy"`` a trigger that is not off the manifold is
    rewarded as ever. Meant for scorers that need no labels, and for data whose poison
    the filter is known to find.

    Parameters
    ----------
    scoring : str or callable, default="accuracy"
        What is applied to the rows that remain, as in scikit-learn.

    Returns
    -------
    callable
        With the signature ``scorer(estimator, X, y)``. It raises `TypeError` for a
        pipeline without such a filter and `ValueError` if no row remains.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvibe import OffManifoldFilter, VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.model_selection import on_manifold_scorer, separation_scorer
    >>> data = load_poisoned_digits(random_state=0)
    >>> pipe = make_pipeline(
    ...     OffManifoldFilter(random_state=0), VIBEClassifier(random_state=0)
    ... )
    >>> scoring = on_manifold_scorer(separation_scorer)
    >>> scores = cross_val_score(pipe, data.X, data.y, scoring=scoring, cv=3)
    >>> scores.shape
    (3,)
    """

    def scorer(estimator, X, y=None):
        kept = np.flatnonzero(~_off_manifold(estimator, X))
        if not len(kept):
            raise ValueError(
                "The pipeline's filters reject every held-out row; raise their "
                "threshold."
            )
        rows = X.iloc[kept] if hasattr(X, "iloc") else np.asarray(X)[kept]
        labels = None if y is None else np.asarray(y)[kept]
        return check_scoring(estimator, scoring=scoring)(estimator, rows, labels)

    return scorer


def trusted_scorer(X, y, scoring="accuracy"):
    """Make a scorer that looks at rows known to be clean, and at nothing else.

    The best criterion there is, for who has such rows: some hundred that were checked
    by hand are enough to tell settings apart. Held-out rows are ignored. A clean set
    without triggered rows measures accuracy only, not whether a trigger is obeyed.

    Parameters
    ----------
    X : array-like of shape (n_trusted, n_features) or (n_trusted, ...)
        Clean rows, none of them in the training data.
    y : array-like of shape (n_trusted,)
        Their true labels.
    scoring : str or callable, default="accuracy"
        What is applied to them, as in scikit-learn.

    Returns
    -------
    callable
        With the signature ``scorer(estimator, X, y)``.

    Raises
    ------
    ValueError
        If ``X`` and ``y`` differ in length.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.model_selection import trusted_scorer
    >>> data = load_poisoned_digits(random_state=0)
    >>> search = GridSearchCV(
    ...     VIBEClassifier(random_state=0),
    ...     {"lam": [1, 25]},
    ...     scoring=trusted_scorer(data.X_test[:100], data.y_test[:100]),
    ...     cv=3,
    ... ).fit(data.X, data.y)
    >>> bool(search.best_score_ > 0.9)
    True
    """
    if len(X) != len(y):
        raise ValueError(
            f"X and y must have the same length, got {len(X)} and {len(y)}."
        )

    def scorer(estimator, _X=None, _y=None):
        return check_scoring(estimator, scoring=scoring)(estimator, X, y)

    return scorer


def _mean(values):
    """Mean as a float; 0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def _off_manifold(estimator, X):
    """Mask of the rows that a step of a fitted pipeline calls off-manifold."""
    steps = [step for _, step in getattr(estimator, "steps", [])[:-1]]
    if not any(hasattr(step, "is_off_manifold") for step in steps):
        raise TypeError(
            "on_manifold_scorer needs a Pipeline with an OffManifoldFilter, got "
            f"{type(estimator).__name__}."
        )
    off = np.zeros(len(X), dtype=bool)
    for step in steps:
        if hasattr(step, "is_off_manifold"):
            off |= step.is_off_manifold(X)
        if hasattr(step, "transform"):
            X = step.transform(X)
    return off


def _final_step(estimator, X):
    """Last step of a fitted pipeline, and ``X`` as that step sees it."""
    if not hasattr(estimator, "named_steps"):
        return estimator, X
    for _, step in estimator.steps[:-1]:
        # Samplers and "passthrough" have no transform and do nothing here.
        if hasattr(step, "transform"):
            X = step.transform(X)
    return estimator.steps[-1][1], X
