"""How training went: the lower bound and the label changes at each E-step."""

import numpy as np

from skvibe.displays._style import (
    BLUE,
    VERMILLION,
    check_lengths,
    fitted_classifier,
    import_pyplot,
)


class EMProgressDisplay:
    """Evidence lower bound and share of changed clean labels over the EM rounds.

    The bound should rise and flatten, the changes should fall to about none. The first
    round takes the corrupted posterior as constant: its bound, a hollow point, does not
    compare with the others, and it has no labels to compare with either.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    lower_bounds : ndarray of shape (n_rounds,)
        Evidence lower bound per row at each E-step.
    label_changes : ndarray of shape (n_rounds,)
        Share of the clean labels changed by each E-step.
    converged : bool, default=None
        Whether training ended by itself; shown if known.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (2,)
        Axes of the bound, above, and of the changes.
    figure_ : matplotlib Figure
        Their figure.

    Examples
    --------
    >>> from skvibe.displays import EMProgressDisplay
    >>> display = EMProgressDisplay.from_predictions([-0.9, -0.6, -0.5], [1, 0.1, 0.0])
    >>> len(display.ax_)
    2
    """

    def __init__(self, lower_bounds, label_changes, *, converged=None):
        self.lower_bounds = lower_bounds
        self.label_changes = label_changes
        self.converged = converged

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw how a fitted classifier was trained.

        Parameters
        ----------
        estimator : VIBEClassifier or Pipeline that ends with one
            Fitted.
        ax : matplotlib Axes or array of two, default=None
            One Axes is split into two; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        EMProgressDisplay
            Drawn.
        """
        classifier = fitted_classifier(estimator, "lower_bounds_")
        return cls(
            classifier.lower_bounds_,
            classifier.label_changes_,
            converged=classifier.converged_,
        ).plot(ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, lower_bounds, label_changes, *, converged=None, ax=None, **kwargs
    ):
        """Draw series that are already there.

        Parameters
        ----------
        lower_bounds : array-like of shape (n_rounds,)
            Evidence lower bound per row at each E-step.
        label_changes : array-like of shape (n_rounds,)
            Share of the clean labels changed by each E-step.
        converged : bool, default=None
            Whether training ended by itself.
        ax : matplotlib Axes or array of two, default=None
            One Axes is split into two; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        EMProgressDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the lengths differ.
        """
        lower_bounds = np.asarray(lower_bounds, dtype=float)
        label_changes = np.asarray(label_changes, dtype=float)
        check_lengths(lower_bounds=lower_bounds, label_changes=label_changes)
        return cls(lower_bounds, label_changes, converged=converged).plot(
            ax=ax, **kwargs
        )

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array of two, default=None
            One Axes is split into two; None makes a new figure.

        Returns
        -------
        self
            Drawn.
        """
        self.figure_, self.ax_ = self._two_axes(ax)
        upper, lower = self.ax_
        rounds = np.arange(1, len(self.lower_bounds) + 1)
        style = {"lw": 1.5, "ms": 4}
        bounds = np.asarray(self.lower_bounds)
        upper.plot(rounds[1:], bounds[1:], marker="o", color=BLUE, **style)
        upper.plot(rounds[:1], bounds[:1], "o", color=BLUE, mfc="white", **style)
        upper.set_ylabel("lower bound\n(nats per row)")
        # The first round has nothing to compare with.
        lower.plot(
            rounds[1:],
            100 * np.asarray(self.label_changes)[1:],
            marker="s",
            color=VERMILLION,
            **style,
        )
        lower.set_ylabel("clean labels\nchanged (%)")
        lower.set_xlabel("EM round")
        # At least one per cent, so that no change at all is a line on the ground.
        lower.set_ylim(0, max(lower.get_ylim()[1], 1.0))
        for axes in self.ax_:
            axes.set_xlim(0.5, len(rounds) + 0.5)
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        upper.tick_params(labelbottom=False)
        if self.converged is not None:
            end = "converged" if self.converged else "stopped by max_iter"
            upper.set_title(f"{len(rounds)} EM rounds, {end}", fontsize="medium")
        return self

    def _two_axes(self, ax):
        plt = import_pyplot(type(self).__name__)
        if ax is None:
            return plt.subplots(2, 1, figsize=(6.4, 4.4), layout="constrained")
        if np.ndim(ax) == 0:
            # As PartialDependenceDisplay does: the given axes become a frame.
            ax.set_axis_off()
            grid = ax.get_subplotspec().subgridspec(2, 1)
            halves = [ax.figure.add_subplot(grid[place]) for place in range(2)]
            return ax.figure, np.array(halves)
        pair = np.ravel(ax)
        if len(pair) != 2:
            raise ValueError(f"ax must be one Axes or two, got {len(pair)}.")
        return pair[0].figure, pair
