"""How well a classifier stood up to a backdoor attack."""

from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, column_or_1d

from skvibe._checks import check_real


def attack_success_rate(y_true, y_pred, *, target, labels=None):
    """Share of triggered rows that are classified as the attacker wants.

    Rows whose true label is already the attacker's are left out: for them a correct
    answer and a successful attack are the same thing.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of the rows.
    y_pred : array-like of shape (n_samples,)
        Predictions for the same rows *with the trigger*.
    target : label, "all" or array-like of shape (n_samples,)
        The attacker's class; or one class for each row; or "all" for the all-to-all
        attack, which wants the class after the true one (the last one is followed by
        the first).
    labels : array-like of shape (n_classes,), default=None
        All classes in order, read only if ``target="all"``. Default: the sorted labels
        of `y_true`.

    Returns
    -------
    float in [0, 1]
        Attack success rate (ASR). It means nothing without its *control*, the same
        share for a classifier trained on clean data.

    Raises
    ------
    ValueError
        If the lengths differ, or if no row has a true label other than the target.

    References
    ----------
    .. [1] T. Gu, B. Dolan-Gavitt and S. Garg, "BadNets: Identifying Vulnerabilities in
       the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.

    Examples
    --------
    >>> from skvibe.metrics import attack_success_rate
    >>> attack_success_rate([0, 1, 1, 2], [0, 0, 1, 0], target=0)
    0.666...
    >>> attack_success_rate([0, 1, 2], [1, 2, 0], target="all")
    1.0
    """
    y_true, y_pred = column_or_1d(y_true), column_or_1d(y_pred)
    check_consistent_length(y_true, y_pred)
    wanted = wanted_labels(y_true, target, labels=labels)
    counted = y_true != wanted
    if not counted.any():
        raise ValueError(
            "No row of y_true has a label other than target, so there is nothing to "
            "attack. Give the triggered rows of the other classes."
        )
    return float(np.mean(y_pred[counted] == wanted[counted]))


def wanted_labels(y_true, target, *, labels=None):
    """The label the attacker wants for each row.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    target : label, "all" or array-like of shape (n_samples,)
        See :func:`attack_success_rate`.
    labels : array-like of shape (n_classes,), default=None
        All classes in order, read only if ``target="all"``. Default: the sorted labels
        of `y_true`.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels wanted.

    Raises
    ------
    ValueError
        If `target` has the wrong length, or `y_true` holds a label not in `labels`.

    Examples
    --------
    >>> from skvibe.metrics import wanted_labels
    >>> wanted_labels(["a", "b", "c"], "all").tolist()
    ['b', 'c', 'a']
    """
    y_true = column_or_1d(y_true)
    if isinstance(target, str) and target == "all":
        classes = np.unique(y_true) if labels is None else column_or_1d(labels)
        place = {label: i for i, label in enumerate(classes.tolist())}
        unknown = sorted(set(y_true.tolist()) - set(place), key=str)
        if unknown:
            raise ValueError(
                f"y_true holds {unknown[0]!r}, which is not in labels: "
                "give all classes."
            )
        following = [place[label] + 1 for label in y_true.tolist()]
        return classes[np.asarray(following, dtype=np.intp) % len(classes)]
    if np.ndim(target) == 0:
        return np.full(len(y_true), target)
    target = column_or_1d(target)
    if len(target) != len(y_true):
        raise ValueError(
            f"target has {len(target)} entries for {len(y_true)} rows: give one label, "
            "'all', or one label for each row."
        )
    return target


@dataclass(frozen=True)
class BackdoorReport:
    """What :func:`backdoor_report` found; ``print`` it, or take ``to_frame()``.

    A figure whose ingredients were not given is None.

    Parameters
    ----------
    acc : float
        Accuracy on the clean test rows.
    asr : float
        Share of triggered rows, of classes other than the target's, that are classified
        as the attacker wants.
    n_attacked : int
        How many rows that share is of.
    control_acc, control_asr : float or None
        The same two shares for the control.
    auroc : float or None
        Area under the ROC curve of the poison scores: 0.5 is chance, 1 perfect.
    tpr, fpr : float or None
        Share of the poisoned and of the clean training rows with a score above the
        threshold.
    n_poisoned, n_clean : int or None
        How many rows these shares are of.
    threshold : float
        The threshold.
    recovered : float or None
        Share of all training rows whose recovered label is the true one.
    recovered_poisoned : float or None
        The same share of the rows whose given label is wrong (of the poisoned rows if
        no given labels are known).

    Examples
    --------
    >>> from skvibe.metrics import BackdoorReport
    >>> print(BackdoorReport(acc=0.95, asr=0.012, n_attacked=400))
    Accuracy on clean rows       0.950
    Attack success               0.012  of 400 triggered rows of other classes
    """

    acc: float
    asr: float
    n_attacked: int
    control_acc: float | None = None
    control_asr: float | None = None
    auroc: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    n_poisoned: int | None = None
    n_clean: int | None = None
    threshold: float = 0.5
    recovered: float | None = None
    recovered_poisoned: float | None = None

    def to_frame(self, name="estimator"):
        """The figures as a pandas DataFrame of one row.

        Parameters
        ----------
        name : str, default="estimator"
            The row's index, so that several reports can be put together with
            ``pandas.concat``.

        Returns
        -------
        pandas.DataFrame of shape (1, n_figures)
            One column a figure; figures not known are NaN.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas: install it (pip install pandas), or read the "
                "attributes of the report, or print it."
            ) from error
        figures = {k: np.nan if v is None else v for k, v in asdict(self).items()}
        return pd.DataFrame([figures], index=[name])

    def __str__(self):
        lines = [
            ("Accuracy on clean rows", self.acc, ""),
            (
                "Attack success",
                self.asr,
                f"of {self.n_attacked} triggered rows of other classes",
            ),
            ("  control: accuracy", self.control_acc, "trained on clean data"),
            ("  control: attack success", self.control_asr, "trained on clean data"),
            ("Poison scores, AUROC", self.auroc, "0.5 is chance, 1 perfect"),
            (
                "  poison found",
                self.tpr,
                f"of {self.n_poisoned} poisoned rows score above {self.threshold:g}",
            ),
            (
                "  false alarms",
                self.fpr,
                f"of {self.n_clean} clean rows score above {self.threshold:g}",
            ),
            ("True labels recovered", self.recovered, "of all training rows"),
            ("  where they were wrong", self.recovered_poisoned, "of mislabelled rows"),
        ]
        return "\n".join(
            f"{title:27s} {figure:6.3f}  {comment}".rstrip()
            for title, figure, comment in lines
            if figure is not None
        )


def backdoor_report(
    estimator,
    X_test,
    y_test,
    X_triggered,
    *,
    target,
    y_source=None,
    control=None,
    poison_mask=None,
    scores=None,
    threshold=0.5,
    y_true=None,
    y_given=None,
    clean_labels=None,
):
    """Measure how a fitted classifier stood up to a backdoor attack.

    Parameters
    ----------
    estimator : classifier
        Fitted on the poisoned training set: a classifier, a Pipeline that ends in one,
        or a search over either.
    X_test : array-like of shape (n_test, ...)
        Clean test rows.
    y_test : array-like of shape (n_test,)
        Their true labels.
    X_triggered : array-like of shape (n_triggered, ...)
        Test rows with the trigger.
    target : label, "all" or array-like of shape (n_triggered,)
        What the attacker wants; see :func:`attack_success_rate`.
    y_source : array-like of shape (n_triggered,), default=None
        True labels of `X_triggered`. None: they are `y_test`, row by row.
    control : classifier or float, default=None
        A classifier fitted on the *clean* training set, or its attack success rate if
        that is known. An attack success rate means nothing without it.
    poison_mask : array-like of bool of shape (n_train,), default=None
        Which rows given to ``fit`` were poisoned. Cover rows, whose labels are true,
        are not.
    scores : array-like of shape (n_train,), default=None
        Poison scores of the rows given to ``fit``, higher is more suspect. None reads
        ``poison_scores_`` of the estimator, if it has any.
    threshold : float, default=0.5
        Rows scored above this count as found.
    y_true : array-like of shape (n_train,), default=None
        True labels of the rows given to ``fit``.
    y_given : array-like of shape (n_train,), default=None
        Labels given to ``fit``. With them, the share recovered is also reported for the
        rows whose given label is wrong; without them, for the poisoned rows.
    clean_labels : array-like of shape (n_train,), default=None
        Recovered labels of the rows given to ``fit``. None reads ``clean_labels_`` of
        the estimator, if it has any.

    Returns
    -------
    BackdoorReport
        The figures. ``print`` shows them as text, ``to_frame`` gives a DataFrame.

    Raises
    ------
    ValueError
        If lengths do not agree, if `poison_mask` has no poisoned or no clean row, or if
        no triggered row is of another class than the target's.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skvibe.datasets import load_poisoned_digits
    >>> from skvibe.metrics import backdoor_report
    >>> data = load_poisoned_digits()
    >>> obeys = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    >>> oracle = LogisticRegression(max_iter=1000).fit(data.X, data.y_true)
    >>> report = backdoor_report(
    ...     obeys, data.X_test, data.y_test, data.X_triggered, target=data.target
    ... )
    >>> print(report)
    Accuracy on clean rows       0.964
    Attack success               0.978  of 405 triggered rows of other classes
    >>> report.to_frame("no defence").columns[:3].tolist()
    ['acc', 'asr', 'n_attacked']
    """
    y_test = column_or_1d(y_test)
    y_source = y_test if y_source is None else column_or_1d(y_source)
    _check_length("X_triggered", X_triggered, "y_source (or y_test)", y_source)
    labels = _find_fitted(estimator, "classes_")
    if labels is None:
        labels = np.unique(y_test)
    wanted = wanted_labels(y_source, target, labels=labels)
    return BackdoorReport(
        acc=_accuracy(estimator, X_test, y_test),
        asr=attack_success_rate(
            y_source, estimator.predict(X_triggered), target=wanted
        ),
        n_attacked=int((y_source != wanted).sum()),
        threshold=threshold,
        **_measure_control(control, X_test, y_test, X_triggered, y_source, wanted),
        **_measure_scores(estimator, scores, poison_mask, threshold),
        **_measure_labels(estimator, clean_labels, y_true, y_given, poison_mask),
    )


def _measure_control(control, X_test, y_test, X_triggered, y_source, wanted):
    if control is None:
        return {}
    if not hasattr(control, "predict"):
        return {"control_asr": check_real("control", control, 0, 1)}
    y_pred = control.predict(X_triggered)
    return {
        "control_acc": _accuracy(control, X_test, y_test),
        "control_asr": attack_success_rate(y_source, y_pred, target=wanted),
    }


def _measure_scores(estimator, scores, poison_mask, threshold):
    if poison_mask is None:
        return {}
    scores = _find_fitted(estimator, "poison_scores_") if scores is None else scores
    if scores is None:
        return {}
    scores, mask = column_or_1d(scores), column_or_1d(poison_mask).astype(bool)
    _check_length("scores", scores, "poison_mask", mask)
    if mask.all() or not mask.any():
        raise ValueError(
            "poison_mask must mark some rows and leave some out; leave it away where "
            "nothing was poisoned."
        )
    found = scores > threshold
    return {
        "auroc": float(roc_auc_score(mask, scores)),
        "tpr": float(found[mask].mean()),
        "fpr": float(found[~mask].mean()),
        "n_poisoned": int(mask.sum()),
        "n_clean": int((~mask).sum()),
    }


def _measure_labels(estimator, clean_labels, y_true, y_given, poison_mask):
    if y_true is None:
        return {}
    if clean_labels is None:
        clean_labels = _find_fitted(estimator, "clean_labels_")
    if clean_labels is None:
        return {}
    clean_labels, y_true = column_or_1d(clean_labels), column_or_1d(y_true)
    _check_length("clean_labels", clean_labels, "y_true", y_true)
    right = clean_labels == y_true
    figures = {"recovered": float(right.mean())}
    if y_given is not None:
        y_given = column_or_1d(y_given)
        _check_length("y_given", y_given, "y_true", y_true)
        wrong = y_given != y_true
    elif poison_mask is not None:
        wrong = column_or_1d(poison_mask).astype(bool)
    else:
        return figures
    _check_length("poison_mask", wrong, "y_true", y_true)
    if wrong.any():
        figures["recovered_poisoned"] = float(right[wrong].mean())
    return figures


def _find_fitted(estimator, name):
    """A fitted attribute of an estimator, of a pipeline's last step or a search's best.

    Looks into the parts first, because a pipeline passes on some attributes of its last
    step and not others.
    """
    if hasattr(estimator, "best_estimator_"):
        return _find_fitted(estimator.best_estimator_, name)
    if isinstance(estimator, Pipeline):
        return _find_fitted(estimator[-1], name)
    return getattr(estimator, name, None)


def _accuracy(estimator, X, y):
    y_pred = column_or_1d(estimator.predict(X))
    _check_length("X_test", y_pred, "y_test", y)
    return float(np.mean(y_pred == y))


def _check_length(name, first, other_name, second):
    n_first = first.shape[0] if hasattr(first, "shape") else len(first)
    if n_first != len(second):
        raise ValueError(
            f"{name} has {n_first} rows and {other_name} has {len(second)}: give one "
            "entry for each row."
        )
