"""The audit: which rows are suspect, why, and what to do with them."""

import csv
import json
import logging
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from skvibe._checks import check_real
from skvibe._progress import tell
from skvibe._version import __version__
from skvibe.audit_evidence import nearest_trusted
from skvibe.report.plain_values import count_values, csv_cell, plain_value
from skvibe.suspect_groups import find_groups
from skvibe.verdict import merge_poison_scores

ACTIONS = ("keep", "relabel", "drop", "review")
# Odds of nine to one for another label: below that a person should look.
_SURE = 0.9
# With so many rows to review the summary says where to start.
_MANY = 50


def audit(
    X,
    y,
    *,
    text=None,
    images=None,
    feature_names=None,
    estimator=None,
    threshold=0.5,
    random_state=0,
    verbose=0,
):
    """Find the suspect rows of a training set, and say why and what to do.

    Fits ``OffManifoldFilter -> TriggerFilter -> VIBEClassifier`` (or the pipeline
    given) and reads its verdict on every row.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Feature vectors.
    y : array-like of shape (n_samples,)
        Given labels.
    text : sequence of str of shape (n_samples,), default=None
        Text of each row: shown in the report, and searched for words that suspect
        rows have in common.
    images : array-like of shape (n_samples, ...) or sequence, default=None
        Image of each row, shown in the report: arrays (height, width),
        (height, width, channels) or (channels, height, width) in [0, 1] or uint8,
        PIL images or paths.
    feature_names : sequence of str of shape (n_features,), default=None
        Names of the features; with them the summary says which features set suspect
        rows apart.
    estimator : VIBEClassifier or Pipeline that ends with one, default=None
        Cloned and fitted. None: the pipeline above.
    threshold : float in [0, 1], default=0.5
        Poison score from which a row is suspect. At 0.5 another label is more
        probable than the one given.
    random_state : int, RandomState instance or None, default=0
        Seed of the default pipeline. Not used with `estimator`.
    verbose : int, default=0
        1 prints each stage with its time, and the progress of the steps.

    Returns
    -------
    Audit
        The verdict, as arrays, as a table, in words and as a web page.

    Raises
    ------
    ValueError
        If lengths differ, X is not finite, or a parameter is out of range.

    See Also
    --------
    Audit : The same for a pipeline that is fitted already.

    Examples
    --------
    >>> from skvibe.auditing import audit
    >>> from skvibe.datasets import load_poisoned_digits
    >>> data = load_poisoned_digits(rate=0.05)
    >>> found = audit(data.X, data.y)
    >>> bool(found.is_suspect[data.poison_mask].mean() > 0.9)
    True
    """
    check_real("threshold", threshold, 0, 1)
    X = check_array(X)
    y = _check_rows(len(X), y, text, images)
    stages = _Stages(enabled=verbose > 0)
    stages.begin("filters and classifier")
    if estimator is None:
        fitted = default_pipeline(random_state=random_state, verbose=verbose)
    else:
        fitted = clone(estimator)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(X, y)
    stages.end()
    for entry in caught:
        warnings.warn_explicit(
            entry.message, entry.category, entry.filename, entry.lineno
        )
    notes = list(dict.fromkeys(str(entry.message) for entry in caught))
    return Audit(
        fitted,
        X,
        y,
        text=text,
        images=images,
        feature_names=feature_names,
        threshold=threshold,
        notes=notes,
        verbose=verbose,
    )


def default_pipeline(*, random_state=0, verbose=0):
    """The pipeline that an audit fits where none is given.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=0
        Seed of every step.
    verbose : int, default=0
        Given to the steps that have it.

    Returns
    -------
    Pipeline
        Not fitted.

    Examples
    --------
    >>> from skvibe.auditing import default_pipeline
    >>> [type(step).__name__ for _, step in default_pipeline().steps]
    ['OffManifoldFilter', 'TriggerFilter', 'VIBEClassifier']
    """
    from skvibe.classifier import VIBEClassifier
    from skvibe.filters import OffManifoldFilter
    from skvibe.trigger_filter import TriggerFilter

    off_manifold = OffManifoldFilter(random_state=random_state, verbose=verbose)
    trigger = TriggerFilter(random_state=random_state, verbose=verbose)
    vibe = VIBEClassifier(random_state=random_state, verbose=verbose)
    return Pipeline(
        [("off_manifold", off_manifold), ("trigger", trigger), ("vibe", vibe)]
    )


class Audit:
    """The verdict on every row of a training set.

    Made by :func:`skvibe.audit`, or from a pipeline that is fitted already. All
    arrays are aligned with the rows given.

    Parameters
    ----------
    estimator : VIBEClassifier or Pipeline that ends with one
        Fitted on X and y.
    X : array-like of shape (n_samples, ...)
        The rows given to fit, none of them NaN.
    y : array-like of shape (n_samples,)
        The labels given to fit.
    text : sequence of str of shape (n_samples,), default=None
        Text of each row.
    images : array-like of shape (n_samples, ...) or sequence, default=None
        Image of each row.
    feature_names : sequence of str of shape (n_features,), default=None
        Names of the features.
    threshold : float in [0, 1], default=0.5
        Poison score from which a row is suspect.
    notes : sequence of str, default=()
        Remarks that the report repeats.
    verbose : int, default=0
        1 prints each stage.

    Attributes
    ----------
    given_labels : ndarray of shape (n_samples,)
        Labels given.
    clean_labels : ndarray of shape (n_samples,)
        Labels inferred in training; for removed rows, which had no part in it, the
        predicted ones.
    predicted_labels : ndarray of shape (n_samples,)
        What the classifier predicts for each row, removed rows included.
    poison_scores : ndarray of shape (n_samples,)
        In [0, 1], higher is more suspect; 1 for removed rows. Of all steps together,
        see :func:`skvibe.verdict.merge_poison_scores`.
    removed_by : ndarray of str of shape (n_samples,)
        Class name of the filter that removed the row, or "".
    undecided : ndarray of bool of shape (n_samples,)
        Rows about which `TriggerFilter` cannot decide.
    nearest_trusted_rows : ndarray of int64 of shape (n_samples,)
        For suspect rows the most similar trusted row (cosine), else -1.
    actions : ndarray of str of shape (n_samples,)
        "drop": removed by a filter. "relabel": another label is at least nine times
        as probable, and inference and prediction agree on it. "review": suspect, but
        less clearly. "keep": the others.
    is_suspect : ndarray of bool of shape (n_samples,)
        Rows whose action is not "keep".
    classes : ndarray of shape (n_classes,)
        Class labels.
    groups : list of SuspectGroup
        Classes with suspect rows, those with a planted group first.
    notes : list of str
        Warnings of the filters and the classifier.
    estimator : estimator
        The fitted pipeline.

    Raises
    ------
    ValueError
        If the pipeline was fitted on another number of rows.

    Examples
    --------
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.auditing import audit
    >>> from skvibe.datasets import load_poisoned_digits
    >>> data = load_poisoned_digits()
    >>> found = audit(data.X, data.y, estimator=VIBEClassifier(random_state=0))
    >>> found.table.columns.tolist()[:4]
    ['given_label', 'clean_label', 'predicted_label', 'poison_score']
    """

    def __init__(
        self,
        estimator,
        X,
        y,
        *,
        text=None,
        images=None,
        feature_names=None,
        threshold=0.5,
        notes=(),
        verbose=0,
    ):
        stages = _Stages(enabled=verbose > 0)
        X = check_array(X, allow_nd=True)
        y = _check_rows(len(X), y, text, images)
        vibe = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if len(vibe.poison_scores_) != len(X):
            raise ValueError(
                f"The estimator was fitted on {len(vibe.poison_scores_)} rows, X has "
                f"{len(X)}. Give the rows it was fitted on."
            )
        inputs = X
        if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
            inputs = estimator[:-1].transform(X)
        self.estimator, self.classes, self.notes = estimator, vibe.classes_, list(notes)
        self.threshold = threshold
        self._X, self._text, self._images = X, text, images
        self.given_labels = y
        self.predicted_labels = vibe.predict(inputs)
        # As `skvibe.verdict.fill_clean_labels`, without predicting twice.
        self.clean_labels = np.where(
            vibe.train_mask_, vibe.clean_labels_, self.predicted_labels
        )
        self.poison_scores = merge_poison_scores(estimator)
        self.removed_by = _removed_by(estimator, vibe)
        self.undecided = _undecided(estimator, vibe)
        self.actions = _suggest(self, threshold)
        self.is_suspect = self.actions != "keep"

        stages.begin("nearest trusted rows")
        suspects = np.flatnonzero(self.is_suspect)
        self.nearest_trusted_rows = np.full(len(y), -1, dtype=np.int64)
        self.nearest_trusted_rows[suspects] = nearest_trusted(
            vibe.transform(inputs), suspects, ~self.is_suspect
        )
        stages.begin("what suspect rows have in common")
        self.groups = find_groups(self, text, X, feature_names)
        stages.end()

    # -- the table ---------------------------------------------------------------

    @property
    def table(self):
        """One line for each training row, as a pandas DataFrame.

        The index is the row number. Columns: ``given_label``, ``clean_label``,
        ``predicted_label``, ``poison_score``, ``removed_by`` ("" for none),
        ``nearest_trusted_row`` (missing for trusted rows), ``action``, ``reason``.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "Audit.table is a pandas DataFrame, and pandas is not installed: "
                "pip install pandas, or write the table with Audit.to_csv."
            ) from error
        columns = self._columns(np.arange(len(self.given_labels)))
        nearest = pd.array(columns["nearest_trusted_row"], dtype="Int64")
        nearest[self.nearest_trusted_rows < 0] = pd.NA
        columns["nearest_trusted_row"] = nearest
        index = pd.RangeIndex(len(self.given_labels), name="row")
        return pd.DataFrame(columns, index=index)

    @property
    def suspects(self):
        """The lines of `table` of the suspect rows, the most suspect first."""
        return self.table.iloc[self.suspect_order()]

    def suspect_order(self):
        """Row numbers of the suspect rows, the most suspect first.

        Returns
        -------
        ndarray of int64
            Removed rows come first, in the order of the filters, then by score.
        """
        rows = np.flatnonzero(self.is_suspect)
        not_removed = self.removed_by[rows] == ""
        order = np.lexsort((rows, -self.poison_scores[rows], not_removed))
        return rows[order]

    def reasons(self, rows):
        """Why some rows have the action suggested.

        Parameters
        ----------
        rows : array-like of int of shape (n_rows,)
            Row numbers.

        Returns
        -------
        list of str of shape (n_rows,)
            A sentence for each row, "" for rows to keep.
        """
        return [self._reason(i) for i in np.asarray(rows, dtype=np.int64)]

    def _columns(self, rows):
        return {
            "given_label": self.given_labels[rows],
            "clean_label": self.clean_labels[rows],
            "predicted_label": self.predicted_labels[rows],
            "poison_score": self.poison_scores[rows],
            "removed_by": self.removed_by[rows],
            "nearest_trusted_row": self.nearest_trusted_rows[rows],
            "action": self.actions[rows],
            "reason": self.reasons(rows),
        }

    def _reason(self, i):
        if self.actions[i] == "keep":
            return ""
        score, predicted = self.poison_scores[i], self.predicted_labels[i]
        if self.removed_by[i]:
            text = f"removed by {self.removed_by[i]}"
            if predicted != self.given_labels[i]:
                text += f"; the classifier sees {predicted}"
            return text
        if self.undecided[i]:
            return "in a group that may be poison from one class, or a sub-topic"
        if predicted == self.given_labels[i]:
            return f"score {score:.2f} is above the threshold"
        return f"looks like {predicted} (score {score:.2f})"

    # -- words, files, page ------------------------------------------------------

    def summary(self):
        """What was found, in words.

        Returns
        -------
        str
            A line for the whole and one for each class with suspect rows.
        """
        n_rows, n_suspects = len(self.given_labels), int(self.is_suspect.sum())
        classes = f"{len(self.classes)} classes"
        if n_suspects == 0:
            return f"No row of {n_rows:,} in {classes} is suspect."
        counts = Counter(self.actions.tolist())
        told = ", ".join(
            f"{counts[action]:,} to {action}"
            for action in ACTIONS[1:]
            if counts[action]
        )
        share = 100 * n_suspects / n_rows
        verb = "is" if n_suspects == 1 else "are"
        first = (
            f"{n_suspects:,} of {n_rows:,} rows in {classes} {verb} suspect "
            f"({share:.1f} %): {told}.{self._say_where_to_start()}"
        )
        return "\n".join([first, *(group.describe() for group in self.groups)])

    def _say_where_to_start(self):
        """Of many rows to review, most are only hard; few have a high score."""
        scores = self.poison_scores[self.actions == "review"]
        high = int((scores >= _SURE).sum())
        if len(scores) < _MANY or high == len(scores):
            return ""
        return (
            f" Review from the top: {high:,} of the {len(scores):,} have a score of "
            f"{_SURE:g} or more."
        )

    def to_dict(self):
        """The findings as plain numbers, strings, lists and dicts, ready for JSON.

        Returns
        -------
        dict
            With ``n_rows``, ``n_suspects``, ``actions`` (counts), ``removed_by``
            (counts), ``groups``, ``notes``, ``summary`` and ``suspects`` (one dict a
            row, the most suspect first).
        """
        rows = self.suspect_order()
        columns = {"row": rows, **self._columns(rows)}
        suspects = [
            {name: plain_value(column[k]) for name, column in columns.items()}
            for k in range(len(rows))
        ]
        for line in suspects:
            if line["nearest_trusted_row"] < 0:
                line["nearest_trusted_row"] = None
        return {
            "skvibe": __version__,
            "n_rows": len(self.given_labels),
            "n_suspects": len(rows),
            "threshold": float(self.threshold),
            "classes": [plain_value(label) for label in self.classes],
            "actions": count_values(self.actions),
            "removed_by": count_values(self.removed_by[self.removed_by != ""]),
            "groups": [group.to_dict() for group in self.groups],
            "notes": self.notes,
            "summary": self.summary(),
            "suspects": suspects,
        }

    def to_json(self, **kwargs):
        """`to_dict` as JSON text.

        Parameters
        ----------
        **kwargs
            Of `json.dumps`.

        Returns
        -------
        str
            JSON.
        """
        return json.dumps(self.to_dict(), **kwargs)

    def to_csv(self, path, *, suspects_only=False):
        """Write one line for each row.

        Text that a spreadsheet would run as a formula gets a leading apostrophe.

        Parameters
        ----------
        path : str or path
            File to write, UTF-8.
        suspects_only : bool, default=False
            Write suspect rows only, the most suspect first.
        """
        rows = np.arange(len(self.given_labels))
        if suspects_only:
            rows = self.suspect_order()
        columns = {"row": rows, **self._columns(rows)}
        if self._text is not None:
            columns["text"] = [self._text[i] for i in rows]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for values in zip(*columns.values(), strict=True):
                writer.writerow([csv_cell(plain_value(value)) for value in values])

    def to_html(self, path=None, *, title="skvibe audit", figures=True):
        """The report as one web page that needs no network.

        Parameters
        ----------
        path : str or path, default=None
            File to write, UTF-8. None returns the page.
        title : str, default="skvibe audit"
            Heading of the page.
        figures : bool, default=True
            Draw the figures, for which matplotlib is needed.

        Returns
        -------
        str or None
            The page, if no path was given.

        Raises
        ------
        ImportError
            If figures are wanted and matplotlib is not installed.
        """
        from skvibe.report.page import render_page

        page = render_page(self, title=title, figures=figures)
        if path is None:
            return page
        # Bytes: line ends as they are, or the digests in the page's policy break.
        Path(path).write_bytes(page.encode("utf-8", "replace"))
        return None

    def __repr__(self):
        return f"<Audit: {self.summary().splitlines()[0]}>"


class _Stages:
    """Print the stages of an audit; they differ too much in length to say more."""

    def __init__(self, enabled):
        self.enabled = enabled
        self._stage = None

    def begin(self, stage):
        self.end()
        self._stage, self._start = stage, time.monotonic()
        tell("audit", stage, self.enabled, level=logging.INFO)

    def end(self):
        if self._stage is not None:
            spent = time.monotonic() - self._start
            text = f"{self._stage}: done  ({spent:.1f} s)"
            tell("audit", text, self.enabled, level=logging.INFO)
        self._stage = None


def _check_rows(n_rows, y, text, images):
    y = column_or_1d(y)
    for name, values in (("y", y), ("text", text), ("images", images)):
        if values is not None and len(values) != n_rows:
            raise ValueError(
                f"{name} has {len(values)} entries for {n_rows} rows of X: give one "
                "for each row, in the same order."
            )
    check_consistent_length(y, range(n_rows))
    return y


def _removed_by(estimator, vibe):
    """Name of the first filter that removed each row; later ones repeat its rows."""
    names = np.full(len(vibe.train_mask_), "", dtype=object)
    for _, step in getattr(estimator, "steps", []):
        mask = getattr(step, "removed_mask_", None)
        if mask is not None and len(mask) == len(names):
            names[mask & (names == "")] = type(step).__name__
    names[~vibe.train_mask_ & (names == "")] = "an earlier step"
    return names.astype(str)


def _undecided(estimator, vibe):
    """Rows that a filter calls undecided."""
    mask = np.zeros(len(vibe.train_mask_), dtype=bool)
    for _, step in getattr(estimator, "steps", []):
        of_step = getattr(step, "undecided_mask_", None)
        if of_step is not None and len(of_step) == len(mask):
            mask |= of_step
    return mask


def _suggest(self, threshold):
    """The action for each row; see `Audit`."""
    given, clean, predicted = (
        self.given_labels,
        self.clean_labels,
        self.predicted_labels,
    )
    suspect = self.poison_scores >= threshold
    actions = np.where(suspect, "review", "keep").astype("<U7")
    agreed = (clean == predicted) & (clean != given)
    actions[agreed & (self.poison_scores >= max(_SURE, threshold))] = "relabel"
    actions[self.removed_by != ""] = "drop"
    return actions
