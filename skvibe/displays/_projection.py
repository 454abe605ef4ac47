"""From feature vectors to the plane."""

import numpy as np
from sklearn.decomposition import PCA

_NEAREST = 5


def project(features, projection, *, rows=None, others=None, random_state=0):
    """Coordinates in the plane of some rows, and of other points among them.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Feature vectors.
    projection : {"pca", "umap"}, array of shape (n_samples, 2) or transformer
        "umap" needs the package umap-learn. An array holds the coordinates of all
        rows. A transformer has ``fit_transform`` and ``transform``, as in
        scikit-learn, with two components.
    rows : ndarray of int, default=None
        The rows wanted; None: all.
    others : ndarray of shape (n_others, n_features), default=None
        Other points (prototypes). Where coordinates were given, each is placed at the
        mean of its 5 nearest rows, as its own place is not known.
    random_state : int, RandomState instance or None, default=0
        Seed of PCA and UMAP.

    Returns
    -------
    coordinates : ndarray of shape (n_rows, 2)
    other_coordinates : ndarray of shape (n_others, 2) or None
    axis_names : tuple of two str

    Raises
    ------
    ImportError
        For "umap" without umap-learn.
    ValueError
        If the projection is none of these, or coordinates have another shape.
    """
    rows = np.arange(len(features)) if rows is None else rows
    if not isinstance(projection, str) and not hasattr(projection, "fit_transform"):
        return _given(features, projection, rows, others)
    features = np.asarray(features)[rows]
    if features.shape[1] < 2 or len(features) < 2:
        features, others = _at_least_two(features), _at_least_two(others)
        return features, others, ("feature", "")
    reducer, names = _reducer(projection, len(features), random_state)
    coordinates = np.asarray(reducer.fit_transform(features))
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise ValueError(
            "projection must give two coordinates for each row, got an array of shape "
            f"{coordinates.shape}. Set its number of components to 2."
        )
    placed = None if others is None else np.asarray(reducer.transform(others))
    return coordinates, placed, names


class GroupMeans:
    """The plane in which the means of groups of rows differ most.

    Principal components of the means, not of the rows: whitened features spread alike
    in all directions, and the principal components of rows would say little.

    Parameters
    ----------
    groups : ndarray of int of shape (n_samples,)
        Group of each row given to `fit_transform`.
    """

    axis_names = ("between class means 1", "between class means 2")

    def __init__(self, groups):
        self.groups = groups

    def fit_transform(self, features):
        """Find the plane and project the rows."""
        means = np.array(
            [
                features[self.groups == group].mean(axis=0)
                for group in np.unique(self.groups)
            ]
        )
        self.centre_ = means.mean(axis=0)
        self.axes_ = _directions(means - self.centre_, 2)
        if len(self.axes_) < 2:
            # Of one group or two: where the rows differ otherwise.
            rest = features - features.mean(axis=0)
            rest = rest - rest @ self.axes_.T @ self.axes_
            others = _directions(rest, 2 - len(self.axes_))
            self.axes_ = np.vstack([self.axes_, others])
        return self.transform(features)

    def transform(self, features):
        """Project other points into the plane."""
        points = (features - self.centre_) @ self.axes_.T
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _directions(centred, limit):
    """Principal directions of centred points, with their signs fixed."""
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:limit][spread[:limit] > 1e-9 * max(spread[0], 1e-300)]
    largest = np.abs(axes).argmax(axis=1)
    return axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]


def _reducer(projection, n_rows, random_state):
    if not isinstance(projection, str):
        names = getattr(projection, "axis_names", ("component 1", "component 2"))
        return projection, names
    if projection == "pca":
        reducer = PCA(2, random_state=random_state)
        return reducer, ("principal component 1", "principal component 2")
    if projection != "umap":
        raise ValueError(
            "projection must be 'pca', 'umap', an array of coordinates of shape "
            f"(n_samples, 2) or a transformer; got {projection!r}."
        )
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "projection='umap' needs the package umap-learn, which is not installed: "
            "pip install 'skvibe[umap]', or take projection='pca'."
        ) from error
    reducer = UMAP(
        n_components=2,
        n_neighbors=min(15, n_rows - 1),
        metric="cosine",
        random_state=random_state,
        # UMAP says so in a warning if a seed is set and more threads are asked for.
        n_jobs=1,
    )
    return reducer, ("UMAP 1", "UMAP 2")


def _given(features, coordinates, rows, others):
    coordinates = np.asarray(coordinates, dtype=float)
    if coordinates.shape != (len(features), 2):
        raise ValueError(
            f"projection has shape {coordinates.shape}: coordinates must have shape "
            f"({len(features)}, 2), one point for each row of X."
        )
    placed = None
    if others is not None:
        similarity = np.asarray(others) @ np.asarray(features)[rows].T
        count = min(_NEAREST, len(rows))
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        placed = coordinates[rows][nearest].mean(axis=1)
    return coordinates[rows], placed, ("coordinate 1", "coordinate 2")


def _at_least_two(points):
    if points is None:
        return None
    padded = np.zeros((len(points), 2))
    padded[:, : min(2, points.shape[1])] = points[:, :2]
    return padded
