"""The communities of the neighbour graph, and the one that was removed."""

import numpy as np

from skvibe._checks import check_integer
from skvibe.displays._points import (
    add_legend,
    cross_sign,
    draw_rows,
    name_places,
    name_plane,
    sign,
)
from skvibe.displays._projection import project
from skvibe.displays._style import (
    check_lengths,
    choose_rows,
    class_style,
    figure_and_axes,
    say_how_many,
)

_NAMED = 30
_LEGEND = 14


class CommunityDisplay:
    """Rows in the plane by community of the k-NN graph, the removed ones crossed out.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
        Points of the rows.
    communities : ndarray of int of shape (n_samples,)
        Community of each row; rows with a negative number belong to none.
    removed : ndarray of bool of shape (n_samples,), default=None
        Removed rows. None: no row.
    distances : ndarray of shape (n_communities,), default=None
        How far each community lies from the others, shown in the legend.
    sizes : ndarray of int of shape (n_communities,), default=None
        Number of rows of each community; None: counted in `communities`.
    n_removed : int, default=None
        Number of removed rows; None: counted in `removed`.
    axis_names : tuple of two str
        What the coordinates are.
    n_samples : int, default=None
        Number of rows of which `coordinates` is a part. None: it is all of them.
    random_state : int, default=0
        Seed with which the part was chosen; printed in the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Its figure.

    References
    ----------
    .. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
       Defense", ICCV 2025 (Figure 7).

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.displays import CommunityDisplay
    >>> points = np.array([[0.0, 0.1], [0.1, 0.0], [9.0, 9.1], [9.1, 9.0]])
    >>> display = CommunityDisplay.from_predictions(
    ...     points, [0, 0, 1, 1], removed=[False, False, True, True]
    ... )
    >>> display.ax_.get_title()
    '2 communities, 2 rows removed'
    """

    def __init__(
        self,
        coordinates,
        communities,
        *,
        removed=None,
        distances=None,
        sizes=None,
        n_removed=None,
        axis_names=("coordinate 1", "coordinate 2"),
        n_samples=None,
        random_state=0,
    ):
        self.coordinates = coordinates
        self.communities = communities
        self.removed = removed
        self.distances = distances
        self.sizes = sizes
        self.n_removed = n_removed
        self.axis_names = axis_names
        self.n_samples = n_samples
        self.random_state = random_state

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        projection="pca",
        max_points=5000,
        random_state=0,
        ax=None,
        **kwargs,
    ):
        """Draw the communities that a fitted filter found in its training rows.

        Parameters
        ----------
        estimator : OffManifoldFilter or Pipeline that holds one
            Fitted on X.
        X : array-like of shape (n_samples, n_features)
            The rows given to fit, without NaN.
        projection : {"pca", "umap"}, array of shape (n_samples, 2) or transformer, \
default="pca"
            How the rows come to the plane. "umap" needs umap-learn.
        max_points : int, default=5000
            Of more rows this many are drawn, a fifth of them removed ones or their
            share if that is larger.
        random_state : int, RandomState instance or None, default=0
            Seed of that choice and of the projection.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        CommunityDisplay
            Drawn.

        Raises
        ------
        ValueError
            If no fitted filter is found, or X has another number of rows.
        """
        fitted = _find_filter(estimator)
        X = np.asarray(X)
        X = X.reshape(len(X), -1)
        return cls.from_predictions(
            X,
            fitted.communities_,
            removed=fitted.removed_mask_,
            distances=getattr(fitted, "community_distances_", None),
            projection=projection,
            max_points=max_points,
            random_state=random_state,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        X,
        communities,
        *,
        removed=None,
        distances=None,
        projection="pca",
        max_points=5000,
        random_state=0,
        ax=None,
        **kwargs,
    ):
        """Draw communities that are already known.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; with two features they are drawn as they are.
        communities : array-like of int of shape (n_samples,)
            Community of each row; a negative number: none.
        removed : array-like of bool of shape (n_samples,), default=None
            Removed rows. None: no row.
        distances : array-like of shape (n_communities,), default=None
            How far each community lies from the others.
        projection : {"pca", "umap"}, array of shape (n_samples, 2) or transformer, \
default="pca"
            How the rows come to the plane.
        max_points : int, default=5000
            Of more rows this many are drawn, a fifth of them removed ones or their
            share if that is larger.
        random_state : int, RandomState instance or None, default=0
            Seed of that choice and of the projection.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        CommunityDisplay
            Drawn.

        Raises
        ------
        ValueError
            If lengths differ.
        """
        max_points = check_integer("max_points", max_points, 1)
        X, communities = np.asarray(X), np.asarray(communities)
        check_lengths(X=X, communities=communities, removed=removed)
        mask = np.zeros(len(X), dtype=bool) if removed is None else np.asarray(removed)
        rows = choose_rows(mask, max_points, random_state)
        if isinstance(projection, str) and X.shape[1] == 2:
            projection = X
        points, _, names = project(X, projection, rows=rows, random_state=random_state)
        return cls(
            points,
            communities[rows],
            removed=mask[rows],
            distances=None if distances is None else np.asarray(distances),
            sizes=np.bincount(communities[communities >= 0]),
            n_removed=int(mask.sum()),
            axis_names=names,
            n_samples=len(X),
            random_state=random_state,
        ).plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, legend=True):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        legend : bool, default=True
            Name the communities beside the picture.

        Returns
        -------
        self
            Drawn.
        """
        self.figure_, self.ax_ = figure_and_axes(ax, type(self).__name__, (7.2, 4.8))
        removed = self.removed
        if removed is None:
            removed = np.zeros(len(self.communities), dtype=bool)
        sizes = self.sizes
        if sizes is None:
            sizes = np.bincount(self.communities[self.communities >= 0])
        draw_rows(
            self.ax_, self.coordinates, self.communities, removed, n_codes=len(sizes)
        )
        name_plane(self.ax_, self.axis_names)
        n_removed = int(removed.sum()) if self.n_removed is None else self.n_removed
        # Room below the title for the line that says that a part is drawn.
        total = len(removed) if self.n_samples is None else self.n_samples
        self.ax_.set_title(
            f"{np.count_nonzero(sizes)} communities, {n_removed:,} rows removed",
            fontsize="medium",
            pad=18 if len(removed) < total else None,
        )
        say_how_many(self.ax_, len(removed), total, self.random_state)
        if legend:
            title = "community: rows" + (
                "" if self.distances is None else " (distance)"
            )
            add_legend(self.ax_, self._signs(removed, sizes), title)
        self._name_communities(len(sizes))
        return self

    def _signs(self, removed, sizes):
        """Entries of the legend: the first communities, and each removed one."""
        crossed = set(self.communities[removed].tolist())
        handles, left_out = [], 0
        for number, size in enumerate(sizes):
            label = f"{number}: {size:,}{self._distance_of(number)}"
            if number in crossed:
                handles.append(cross_sign(f"{label} removed"))
            elif number < _LEGEND:
                handles.append(sign(label, **class_style(number)))
            else:
                left_out += 1
        if left_out:
            handles.append(sign(f"and {left_out} more", marker=""))
        if (self.communities < 0).any():
            handles.append(sign("none", marker="o", color="0.7"))
        return handles

    def _name_communities(self, n_communities):
        if n_communities > _NAMED:
            return
        members = [self.communities == number for number in range(n_communities)]
        numbers = [number for number, rows in enumerate(members) if rows.any()]
        places = [
            np.median(self.coordinates[members[number]], axis=0) for number in numbers
        ]
        if places:
            name_places(
                self.ax_,
                np.array(places),
                [str(number) for number in numbers],
                fontsize="medium",
            )

    def _distance_of(self, number):
        if self.distances is None or number >= len(self.distances):
            return ""
        # Zero is added so that a rounded one has no minus sign.
        return f" ({round(float(self.distances[number]), 2) + 0.0:.2f})"


def _find_filter(estimator):
    """The first fitted step with communities."""
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    for step in steps:
        if hasattr(step, "communities_"):
            return step
    raise ValueError(
        "No fitted step with communities_ was found. Give a fitted OffManifoldFilter, "
        "or a fitted pipeline that holds one."
    )
