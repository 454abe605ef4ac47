"""The latent space: rows, clean and corrupted prototypes."""

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
from skvibe.displays._projection import GroupMeans, project
from skvibe.displays._style import (
    before_classifier,
    check_lengths,
    choose_rows,
    class_style,
    figure_and_axes,
    fitted_classifier,
    plain,
    say_how_many,
)

_LEGEND_CLASSES = 20
_SHORT_NAME = 8


class LatentSpaceDisplay:
    """Rows in the plane, with the clean and the corrupted prototype of each class.

    Small points are rows, in colour and shape of the label given to them; crosses are
    suspect rows. Stars are clean prototypes, which predict; diamonds are corrupted
    prototypes, which absorb what the attacker wrote, tied to the star of their class.
    Prototypes are directions: they are drawn as far out as the rows of their class
    reach on average.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
        Points of the rows.
    y : ndarray of shape (n_samples,)
        Given labels.
    classes : ndarray of shape (n_classes,), default=None
        Classes, in the order of the prototypes. None: the sorted labels of `y`.
    suspect : ndarray of bool of shape (n_samples,), default=None
        Suspect rows. None: no row is marked.
    prototypes, corrupted_prototypes : ndarray of shape (n_classes, 2), default=None
        Points of the prototypes.
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
       Defense", ICCV 2025 (Figure 9).

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.displays import LatentSpaceDisplay
    >>> points = np.array([[0.0, 0.1], [0.1, 0.0], [1.0, 1.1], [1.1, 1.0]])
    >>> display = LatentSpaceDisplay.from_predictions(points, list("aabb"))
    >>> display.ax_.get_xlabel()
    'coordinate 1'
    """

    def __init__(
        self,
        coordinates,
        y,
        *,
        classes=None,
        suspect=None,
        prototypes=None,
        corrupted_prototypes=None,
        axis_names=("coordinate 1", "coordinate 2"),
        n_samples=None,
        random_state=0,
    ):
        self.coordinates = coordinates
        self.y = y
        self.classes = classes
        self.suspect = suspect
        self.prototypes = prototypes
        self.corrupted_prototypes = corrupted_prototypes
        self.axis_names = axis_names
        self.n_samples = n_samples
        self.random_state = random_state

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        projection="classes",
        threshold=0.5,
        max_points=5000,
        random_state=0,
        ax=None,
        **kwargs,
    ):
        """Draw the space in which a fitted classifier decides.

        Parameters
        ----------
        estimator : VIBEClassifier or Pipeline that ends with one
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows, without NaN.
        y : array-like of shape (n_samples,)
            Labels given to them.
        projection : {"classes", "pca", "umap"}, array of shape (n_samples, 2) or \
transformer, default="classes"
            How unit feature vectors come to the plane. "classes": the plane in which
            the means of the classes, and that of the suspect rows, differ most.
            "umap" needs umap-learn. With given coordinates a prototype stands at the
            mean of its 5 nearest rows.
        threshold : float in [0, 1], default=0.5
            Rows whose poison score is at or above it are marked.
        max_points : int, default=5000
            Of more rows this many are drawn, a fifth of them suspects or their share
            if that is larger.
        random_state : int, RandomState instance or None, default=0
            Seed of that choice and of the projection.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        LatentSpaceDisplay
            Drawn.
        """
        max_points = check_integer("max_points", max_points, 1)
        classifier = fitted_classifier(estimator, "prototypes_")
        inputs, y = before_classifier(estimator, X), np.asarray(y)
        suspect = classifier.poison_score(inputs, y) >= threshold
        rows = choose_rows(suspect, max_points, random_state)
        features = np.asarray(classifier.transform(inputs))
        codes = np.searchsorted(classifier.classes_, y)
        prototypes = _among_rows(classifier, features, codes, suspect)
        if isinstance(projection, str) and projection == "classes":
            projection = GroupMeans(np.where(suspect, -1, codes)[rows])
        points, others, names = project(
            features,
            projection,
            rows=rows,
            others=prototypes,
            random_state=random_state,
        )
        n_classes = len(classifier.classes_)
        return cls(
            points,
            y[rows],
            classes=classifier.classes_,
            suspect=suspect[rows],
            prototypes=others[:n_classes],
            corrupted_prototypes=others[n_classes:],
            axis_names=names,
            n_samples=len(y),
            random_state=random_state,
        ).plot(ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        coordinates,
        y,
        *,
        poison_scores=None,
        classes=None,
        prototypes=None,
        corrupted_prototypes=None,
        threshold=0.5,
        max_points=5000,
        random_state=0,
        ax=None,
        **kwargs,
    ):
        """Draw points whose place in the plane is known.

        Parameters
        ----------
        coordinates : array-like of shape (n_samples, 2)
            Points.
        y : array-like of shape (n_samples,)
            Given labels.
        poison_scores : array-like of shape (n_samples,), default=None
            Scores; rows at or above `threshold` are marked.
        classes : array-like of shape (n_classes,), default=None
            Classes, in the order of the prototypes. None: sorted labels.
        prototypes, corrupted_prototypes : array-like of shape (n_classes, 2), \
default=None
            Points of the prototypes.
        threshold : float in [0, 1], default=0.5
            Score from which a row is marked.
        max_points : int, default=5000
            Of more rows this many are drawn, a fifth of them suspects or their share
            if that is larger.
        random_state : int, RandomState instance or None, default=0
            Seed of that choice.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        LatentSpaceDisplay
            Drawn.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        max_points = check_integer("max_points", max_points, 1)
        points, y = np.asarray(coordinates, dtype=float), np.asarray(y)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(
                f"coordinates must have shape (n_samples, 2), got {points.shape}."
            )
        check_lengths(coordinates=points, y=y, poison_scores=poison_scores)
        suspect = np.zeros(len(y), dtype=bool)
        if poison_scores is not None:
            suspect = np.asarray(poison_scores) >= threshold
        rows = choose_rows(suspect, max_points, random_state)
        return cls(
            points[rows],
            y[rows],
            classes=np.unique(y) if classes is None else np.asarray(classes),
            suspect=suspect[rows],
            prototypes=_points(prototypes),
            corrupted_prototypes=_points(corrupted_prototypes),
            n_samples=len(y),
            random_state=random_state,
        ).plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, legend=True):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        legend : bool, default=True
            Say what the signs mean, beside the picture.

        Returns
        -------
        self
            Drawn.
        """
        self.figure_, self.ax_ = figure_and_axes(ax, type(self).__name__, (7.2, 4.8))
        classes = np.unique(self.y) if self.classes is None else self.classes
        suspect = self.suspect
        if suspect is None:
            suspect = np.zeros(len(self.y), dtype=bool)
        codes = np.full(len(self.y), -1)
        for code, label in enumerate(classes):
            codes[self.y == label] = code
        draw_rows(self.ax_, self.coordinates, codes, suspect, n_codes=len(classes))
        self._draw_prototypes(classes)
        name_plane(self.ax_, self.axis_names)
        total = len(self.y) if self.n_samples is None else self.n_samples
        say_how_many(self.ax_, len(self.y), total, self.random_state)
        if legend:
            title = (
                "given label" if _fit_in_legend(classes) else f"{len(classes)} classes"
            )
            add_legend(self.ax_, self._signs(classes, suspect.any()), title)
        if self.prototypes is not None and _fit_in_legend(classes):
            self._name_prototypes(classes)
        return self

    def _draw_prototypes(self, classes):
        edge = {"edgecolors": "black", "linewidths": 0.9, "zorder": 4}
        colors = [class_style(code)["color"] for code in range(len(classes))]
        clean, corrupted = self.prototypes, self.corrupted_prototypes
        if clean is not None and corrupted is not None:
            for start, end in zip(clean, corrupted, strict=True):
                self.ax_.plot(*zip(start, end, strict=True), color="black", lw=0.8)
        if corrupted is not None:
            self.ax_.scatter(*corrupted.T, s=48, c=colors, marker="D", **edge)
        if clean is not None:
            self.ax_.scatter(*clean.T, s=190, c=colors, marker="*", **edge)

    def _name_prototypes(self, classes):
        # Room for the names inside the frame.
        self.ax_.margins(0.12)
        numbered = _are_long(classes)
        names = [
            str(code) if numbered else plain(label)
            for code, label in enumerate(classes)
        ]
        name_places(self.ax_, self.prototypes, names, start=9.0)

    def _signs(self, classes, any_suspect):
        """Entries of the legend."""
        handles = []
        if _fit_in_legend(classes):
            start = "{}: " if _are_long(classes) else ""
            handles = [
                sign(start.format(code) + plain(label), **class_style(code))
                for code, label in enumerate(classes)
            ]
        if any_suspect:
            handles.append(cross_sign("suspect row"))
        filled = {"mfc": "white", "mec": "black"}
        if self.prototypes is not None:
            handles.append(sign("clean prototype", marker="*", **filled, ms=12))
        if self.corrupted_prototypes is not None:
            handles.append(sign("corrupted prototype", marker="D", **filled))
        return handles


def _among_rows(classifier, features, codes, suspect):
    """Clean and corrupted prototypes, shortened so that they lie among the rows.

    A prototype is a direction, its length says nothing; many rows that share it by half
    have a mean of half its length. Full length would squeeze the rows into a corner.
    """
    lengths = np.ones(len(classifier.classes_))
    for code, prototype in enumerate(classifier.prototypes_):
        own = features[(codes == code) & ~suspect]
        if len(own):
            lengths[code] = np.clip((own @ prototype).mean(), 0.05, 1.0)
    return np.vstack(
        [
            lengths[:, None] * classifier.prototypes_,
            lengths[:, None] * classifier.corrupted_prototypes_,
        ]
    )


def _fit_in_legend(classes):
    return len(classes) <= _LEGEND_CLASSES


def _are_long(classes):
    """Long names beside the prototypes would cover each other: numbers stand there."""
    return max(len(str(label)) for label in classes) > _SHORT_NAME


def _points(values):
    return None if values is None else np.asarray(values, dtype=float)
