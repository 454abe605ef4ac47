"""What the steps of a fitted pipeline say together about its training rows.

Each step judges by itself: a filter removes rows and may score them, the classifier
never sees the removed ones. Here their verdicts meet.
"""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


def merge_poison_scores(estimator):
    """Poison score of every training row, from all steps of a fitted pipeline.

    The largest of the classifier's ``poison_scores_`` (1 for rows that a filter
    removed) and the ``scores_`` of the filters that score rows. A trigger so strong
    that the classifier believes the label is the filter's to see; a weak one that the
    filter lets pass is the classifier's.

    Parameters
    ----------
    estimator : Pipeline, VIBEClassifier or search over one of them
        Fitted.

    Returns
    -------
    ndarray of shape (n_samples,)
        In [0, 1], higher is more suspect; aligned with the rows given to fit.

    Raises
    ------
    AttributeError
        If the last step has no ``poison_scores_``.

    See Also
    --------
    fill_clean_labels : Labels for every row, the removed ones included.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvibe import TriggerFilter, VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.verdict import merge_poison_scores
    >>> data = load_poisoned_digits(rate=0.05)
    >>> pipe = make_pipeline(
    ...     TriggerFilter(random_state=0), VIBEClassifier(max_iter=60, random_state=0)
    ... ).fit(data.X, data.y)
    >>> scores = merge_poison_scores(pipe)
    >>> bool(scores[data.poison_mask].mean() > 0.9)
    True
    """
    steps = _steps(estimator)
    scores = np.array(steps[-1].poison_scores_, dtype=np.float64)
    for step in steps[:-1]:
        of_step = getattr(step, "scores_", None)
        if of_step is not None and np.shape(of_step) == scores.shape:
            scores = np.maximum(scores, of_step)
    return scores


def fill_clean_labels(estimator, X):
    """Clean label of every training row; those of removed rows are predicted.

    The classifier infers a label from the features and the given label together, but
    of a removed row it has neither, and its ``clean_labels_`` repeats the one given.
    Most removed rows carry a wrong label. The finished pipeline, trained without them,
    does not obey the trigger: its prediction for the original row is the better answer.

    Parameters
    ----------
    estimator : Pipeline, VIBEClassifier or search over one of them
        Fitted.
    X : array-like of shape (n_samples, ...)
        The rows given to fit, none of them NaN.

    Returns
    -------
    ndarray of shape (n_samples,)
        ``clean_labels_`` where the classifier saw the row, the pipeline's prediction
        elsewhere.

    Raises
    ------
    ValueError
        If X has another number of rows than fit was given.

    See Also
    --------
    merge_poison_scores : How suspect each row is.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvibe import TriggerFilter, VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.verdict import fill_clean_labels
    >>> data = load_poisoned_digits(rate=0.05)
    >>> pipe = make_pipeline(
    ...     TriggerFilter(random_state=0), VIBEClassifier(max_iter=60, random_state=0)
    ... ).fit(data.X, data.y)
    >>> labels = fill_clean_labels(pipe, data.X)
    >>> bool(np.mean(labels == data.y_true) > 0.95)
    True
    """
    classifier = _steps(estimator)[-1]
    labels, removed = classifier.clean_labels_.copy(), ~classifier.train_mask_
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if n_rows != len(labels):
        raise ValueError(
            f"X has {n_rows} rows, the pipeline was fitted on {len(labels)}: give "
            "the rows it was fitted on, in the same order."
        )
    if removed.any():
        rows = np.flatnonzero(removed)
        chosen = X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]
        labels[rows] = estimator.predict(chosen)
    return labels


def _steps(estimator):
    """Fitted steps, the classifier last; steps may be pipelines themselves."""
    check_is_fitted(estimator)
    if hasattr(estimator, "best_estimator_"):
        return _steps(estimator.best_estimator_)
    if not isinstance(estimator, Pipeline):
        return [estimator]
    steps = []
    for _, step in estimator.steps:
        if isinstance(step, Pipeline):
            steps += _steps(step)
        elif step is not None and step != "passthrough":
            steps.append(step)
    return steps
