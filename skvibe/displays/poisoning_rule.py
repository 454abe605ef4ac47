"""The poisoning rule: how often each clean class was labelled as each other one."""

import numpy as np
from sklearn.metrics import confusion_matrix

from skvibe.displays._points import width_inches
from skvibe.displays._style import (
    VERMILLION,
    check_lengths,
    figure_and_axes,
    fitted_classifier,
    plain,
)

_NUMBERED = 12
_TICKS = 25
# Font size, in points, below which numbers are left out.
_SMALLEST = 5.0
_LEAST_FRAMED = 0.005


class PoisoningRuleDisplay:
    """Share of the rows of each clean class (line) that was given each label (column).

    Clean data have ones on the diagonal. An all-to-one attack shows as a column, an
    all-to-all attack as a second diagonal. The largest entry off the diagonal is
    framed, if it is not zero to two digits.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    poisoning_rule : ndarray of shape (n_classes, n_classes)
        Share p(y | l) at [l, y]; lines sum to 1.
    classes : ndarray of shape (n_classes,), default=None
        Class names. None: 0, 1, ...

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Its figure.
    im_ : matplotlib AxesImage
        The coloured table.

    References
    ----------
    .. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
       Defense", ICCV 2025 (the approximate corrupted posterior).

    Examples
    --------
    >>> from skvibe.displays import PoisoningRuleDisplay
    >>> display = PoisoningRuleDisplay.from_predictions(
    ...     y=["a", "a", "a", "b"], clean_labels=["a", "a", "b", "b"]
    ... )
    >>> display.poisoning_rule
    array([[1. , 0. ],
           [0.5, 0.5]])
    """

    def __init__(self, poisoning_rule, *, classes=None):
        self.poisoning_rule = poisoning_rule
        self.classes = classes

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw the rule that a fitted classifier has learned, ``poisoning_rule_``.

        It is a smooth model of the labels given: how sharp it is depends on ``nu``.
        Counts of what happened to the rows are drawn by `from_predictions`.

        Parameters
        ----------
        estimator : VIBEClassifier or Pipeline that ends with one
            Fitted.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        PoisoningRuleDisplay
            Drawn.
        """
        classifier = fitted_classifier(estimator, "poisoning_rule_")
        display = cls(classifier.poisoning_rule_, classes=classifier.classes_)
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_predictions(cls, y, clean_labels, *, classes=None, ax=None, **kwargs):
        """Draw the shares found by comparing given labels with clean labels.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Given labels.
        clean_labels : array-like of shape (n_samples,)
            Inferred (``clean_labels_``) or true labels.
        classes : array-like of shape (n_classes,), default=None
            Classes in the order drawn. None: sorted.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        PoisoningRuleDisplay
            Drawn.
        """
        y, clean_labels = np.asarray(y), np.asarray(clean_labels)
        check_lengths(y=y, clean_labels=clean_labels)
        if classes is None:
            classes = np.unique(np.concatenate([y, clean_labels]))
        counts = confusion_matrix(clean_labels, y, labels=classes)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return cls(shares, classes=np.asarray(classes)).plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, values_format=".2f", colorbar=True):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        values_format : str or None, default=".2f"
            Format of the numbers in the cells, with at most 12 classes and where there
            is room; numbers that would read as zero are left out. None: none.
        colorbar : bool, default=True
            Draw the scale of colours.

        Returns
        -------
        self
            Drawn.
        """
        rule = np.asarray(self.poisoning_rule)
        n_classes = len(rule)
        self.figure_, self.ax_ = figure_and_axes(
            ax, type(self).__name__, (6.4, 5.2), layout="compressed"
        )
        self.im_ = self.ax_.imshow(rule, cmap="cividis", vmin=0, vmax=1)
        if values_format is not None and n_classes <= _NUMBERED:
            self._write_numbers(rule, values_format)
        self._frame_largest(rule)
        self._name_axes(n_classes)
        if colorbar:
            self.figure_.colorbar(
                self.im_, ax=self.ax_, label="share of the clean class"
            )
        return self

    def _write_numbers(self, rule, values_format):
        zero = format(0.0, values_format)
        # A sign is about 0.6 of its size wide.
        cell = 0.8 * 72 * width_inches(self.ax_) / len(rule)
        size = min(cell / (0.68 * max(len(zero), 1)), 9.0)
        if size < _SMALLEST:
            return
        for (line, column), value in np.ndenumerate(rule):
            color = "black" if value > 0.5 else "white"
            text = format(value, values_format)
            if text != zero:
                self.ax_.text(
                    column,
                    line,
                    text,
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=size,
                )

    def _frame_largest(self, rule):
        from matplotlib.patches import Rectangle

        off = np.where(np.eye(len(rule), dtype=bool), -1.0, rule)
        line, column = np.unravel_index(off.argmax(), off.shape)
        if off[line, column] >= _LEAST_FRAMED:
            corner = (column - 0.5, line - 0.5)
            frame = Rectangle(corner, 1, 1, fill=False, ec=VERMILLION, lw=2.5)
            self.ax_.add_patch(frame)

    def _name_axes(self, n_classes):
        classes = range(n_classes) if self.classes is None else self.classes
        step = -(-n_classes // _TICKS)
        places = range(0, n_classes, step)
        names = [plain(classes[place], 14) for place in places]
        longest = max(map(len, names))
        crowded = longest * len(names) > 34
        self.ax_.set_xticks(places, names, rotation=90 if crowded else 0)
        self.ax_.set_yticks(places, names)
        if len(names) > _NUMBERED:
            self.ax_.tick_params(labelsize="small")
        self.ax_.set(xlabel="given label", ylabel="clean label")
