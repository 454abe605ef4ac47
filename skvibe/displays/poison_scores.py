"""How suspect the rows of each given class are."""

import numpy as np

from skvibe._checks import check_integer, check_real
from skvibe.displays._style import (
    BLUE,
    VERMILLION,
    before_classifier,
    check_lengths,
    figure_and_axes,
    fitted_classifier,
    plain,
)

_BINS = 40


class PoisonScoreDisplay:
    """Poison scores of the rows, by the label given to them, with the threshold.

    For each class a histogram of its scores, heights on a logarithmic scale so that
    ten suspects beside ten thousand others are seen, and at the right the number of
    rows at or above the threshold. All rows count; none is left out of the picture.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    poison_scores : ndarray of shape (n_samples,)
        Scores in [0, 1].
    y : ndarray of shape (n_samples,)
        Given labels.
    classes : ndarray of shape (n_classes,), default=None
        Classes in the order in which they are drawn, from the top. None: sorted.
    threshold : float in [0, 1], default=0.5
        Rows at or above it are suspect.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Its figure.
    n_suspects_ : ndarray of int64 of shape (n_classes,)
        Number of suspect rows of each class.

    Examples
    --------
    >>> from skvibe.displays import PoisonScoreDisplay
    >>> scores = [0.1, 0.2, 0.9, 0.05, 0.1, 0.2]
    >>> display = PoisonScoreDisplay.from_predictions(list("aaabbb"), scores)
    >>> display.n_suspects_
    array([1, 0])
    """

    def __init__(self, poison_scores, y, *, classes=None, threshold=0.5):
        self.poison_scores = poison_scores
        self.y = y
        self.classes = classes
        self.threshold = threshold

    @classmethod
    def from_estimator(cls, estimator, X, y, *, threshold=0.5, ax=None, **kwargs):
        """Score rows with a fitted classifier and draw the scores.

        Every row is judged as a new row. For the training rows, those that a filter
        removed included, draw ``poison_scores_`` with `from_predictions`.

        Parameters
        ----------
        estimator : VIBEClassifier or Pipeline that ends with one
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Labels given to them.
        threshold : float in [0, 1], default=0.5
            Rows at or above it are suspect.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        PoisonScoreDisplay
            Drawn.
        """
        classifier = fitted_classifier(estimator, "poison_score")
        scores = classifier.poison_score(before_classifier(estimator, X), y)
        display = cls(
            scores, np.asarray(y), classes=classifier.classes_, threshold=threshold
        )
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, y, poison_scores, *, classes=None, threshold=0.5, ax=None, **kwargs
    ):
        """Draw scores that are already there, such as ``poison_scores_``.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Given labels.
        poison_scores : array-like of shape (n_samples,)
            Scores in [0, 1].
        classes : array-like of shape (n_classes,), default=None
            Classes in the order drawn. None: sorted.
        threshold : float in [0, 1], default=0.5
            Rows at or above it are suspect.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        PoisonScoreDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the lengths differ or a score is not in [0, 1].
        """
        y, scores = np.asarray(y), np.asarray(poison_scores, dtype=float)
        check_lengths(y=y, poison_scores=scores)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError("poison_scores must be in [0, 1] and not NaN.")
        classes = None if classes is None else np.asarray(classes)
        return cls(scores, y, classes=classes, threshold=threshold).plot(
            ax=ax, **kwargs
        )

    def plot(self, ax=None, *, max_classes=20):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        max_classes : int, default=20
            Of more classes only those with the most suspects are drawn, which the
            picture says.

        Returns
        -------
        self
            Drawn.
        """
        max_classes = check_integer("max_classes", max_classes, 1)
        threshold = check_real("threshold", self.threshold, 0, 1)
        classes = np.unique(self.y) if self.classes is None else self.classes
        members = [self.poison_scores[self.y == label] for label in classes]
        self.n_suspects_ = np.array([(s >= threshold).sum() for s in members])
        drawn = np.arange(len(classes))
        if len(classes) > max_classes:
            drawn = np.sort(np.argsort(-self.n_suspects_, kind="stable")[:max_classes])
        height = 1.4 + 0.34 * max(len(drawn), 4)
        self.figure_, self.ax_ = figure_and_axes(ax, type(self).__name__, (6.4, height))
        self._draw_ridges([members[i] for i in drawn], threshold)
        self._name_axes(classes, members, drawn, threshold)
        return self

    def _draw_ridges(self, members, threshold):
        edges = _bin_edges(threshold)
        counts = np.array([np.histogram(scores, edges)[0] for scores in members])
        heights = np.log1p(counts) / max(np.log1p(counts).max(), 1e-12)
        suspect = edges[:-1] >= threshold
        for place, row in enumerate(heights):
            base = -place
            for kind, color in ((~suspect, BLUE), (suspect, VERMILLION)):
                self.ax_.stairs(
                    base + 0.85 * np.where(kind, row, 0),
                    edges,
                    baseline=base,
                    fill=True,
                    color=color,
                )
        self.ax_.hlines(-np.arange(len(members)), 0, 1, color="0.8", lw=0.6, zorder=0)
        self.ax_.axvline(threshold, color="black", ls="--", lw=1)

    def _name_axes(self, classes, members, drawn, threshold):
        ax = self.ax_
        places = -np.arange(len(drawn)) + 0.3
        ax.set_yticks(places, [plain(classes[i]) for i in drawn])
        ax.tick_params(axis="y", length=0)
        right = ax.secondary_yaxis("right")
        counts = [f"{self.n_suspects_[i]:,} / {len(members[i]):,}" for i in drawn]
        right.set_yticks(places, counts)
        right.tick_params(length=0)
        right.set_ylabel(f"score ≥ {threshold:g} / all rows", labelpad=8)
        for spine in ("top", "left", "right"):
            ax.spines[spine].set_visible(False)
            if spine == "right":
                right.spines[spine].set_visible(False)
        ax.set(xlim=(0, 1), ylim=(-len(drawn) + 0.75, 1.05))
        ax.set_xlabel(f"poison score (threshold {threshold:g}, dashed)")
        ax.set_ylabel("given label (heights: log count)")
        title = f"{self.n_suspects_.sum():,} of {len(self.y):,} rows"
        title += f" score {threshold:g} or more"
        if len(drawn) < len(classes):
            title += f"\n{len(drawn)} of {len(classes)} classes, those with the most"
        ax.set_title(title, fontsize="medium")


def _bin_edges(threshold):
    """About 40 bins of nearly equal width, one edge at the threshold."""
    below = max(round(_BINS * threshold), 1 if threshold > 0 else 0)
    above = max(_BINS - below, 1 if threshold < 1 else 0)
    edges = np.concatenate(
        [
            np.linspace(0, threshold, below + 1),
            np.linspace(threshold, 1, above + 1)[1:],
        ]
    )
    return edges
