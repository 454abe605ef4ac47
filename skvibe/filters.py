"""The off-manifold detector as estimators: for Pipeline and imbalanced-learn."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skvibe._callbacks import CallbackSupportMixin, FitTasks, with_callbacks
from skvibe._checks import check_integer
from skvibe._encode import encode_rows
from skvibe._removed_rows import (
    check_finite_rows,
    find_removed,
    float_dtype,
    mark_removed,
)
from skvibe._saving import SaveMixin
from skvibe.class_distances import WhitenedDirections
from skvibe.community_geometry import nearest_centroid
from skvibe.off_manifold import detect_off_manifold

# Squared distances, summed over features and rows, stay finite below this.
_LARGEST = 1e150


class _OffManifoldEstimator(CallbackSupportMixin, SaveMixin, BaseEstimator):
    """Parameters and fitting of both estimators below; what they do with it differs."""

    def __init__(
        self,
        encoder=None,
        n_neighbors=50,
        threshold=0.275,
        n_communities=None,
        metric="euclidean",
        distance="signed",
        neighbors="auto",
        leiden="igraph",
        max_removed=0.3,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.n_neighbors = n_neighbors
        self.threshold = threshold
        self.n_communities = n_communities
        self.metric = metric
        self.distance = distance
        self.neighbors = neighbors
        self.leiden = leiden
        self.max_removed = max_removed
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def is_off_manifold(self, X):
        """Tell which rows lie in the region of the removed group.

        A row does if, in feature space, the removed group's centroid is nearer to it
        than that of any other group. This agrees with `removed_mask_` on the
        training rows with ``distance="signed"``, and nearly with "classes".

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Rows like those given to fit; rows that are NaN in every feature are
            off-manifold.

        Returns
        -------
        ndarray of bool of shape (n_samples,)
            All False if nothing was removed in fit.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        removed = find_removed(X)
        check_finite_rows(X, removed, type(self).__name__)
        off = removed.copy()
        if self._far_group >= 0:
            features = self._encode(X[~removed])
            if self._whitening:
                features = WhitenedDirections(*self._whitening)(features)
            nearest = nearest_centroid(features, self._centroids)
            off[~removed] = nearest == self._far_group
        return off

    @with_callbacks
    def _fit(self, X, y):
        """Run the detector, set the attributes and return X as an array."""
        tasks = FitTasks(self, X, y)
        self._check_ndim(X)
        if y is None and self.n_communities is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None: the number of communities is the number of classes in y, plus "
                "one. Pass y, or set n_communities."
            )
        X, y = self._validate(X, y, reset=True)
        earlier = find_removed(X)
        check_finite_rows(X, earlier, type(self).__name__)
        kept = ~earlier
        y = None if y is None else y[kept]
        result = detect_off_manifold(
            self._encode(X[kept] if earlier.any() else X),
            self._count_classes(y),
            y=y,
            n_neighbors=self.n_neighbors,
            threshold=self.threshold,
            metric=self.metric,
            distance=self.distance,
            neighbors=self.neighbors,
            leiden=self.leiden,
            max_removed=self.max_removed,
            random_state=self.random_state,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        self.communities_ = np.full(len(X), -1, dtype=np.int64)
        self.communities_[kept] = result.communities
        self.community_distances_ = result.distances
        self.n_communities_ = result.n_communities
        self.resolution_ = result.resolution
        self.threshold_ = result.threshold
        self.decision_ = result.decision
        self.removed_mask_ = earlier.copy()
        self.removed_mask_[kept] = result.removed
        self.n_removed_ = int(np.count_nonzero(self.removed_mask_))
        self.support_ = np.flatnonzero(~self.removed_mask_)
        # All that is_off_manifold needs: no training row is kept.
        self._centroids = result.centroids
        whitening = result.whitening
        self._whitening = (whitening.mean, whitening.matrix) if whitening else ()
        self._far_group = result.far_group
        tasks.end()
        return X

    def _check_ndim(self, X):
        if self.encoder is None and getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"Found array with dim {X.ndim}, while dim <= 2 is required without an "
                "encoder. Give encoder=, or reshape X to (n_samples, n_features)."
            )

    def _validate(self, X, y="no_validation", *, reset):
        # The largest floats overflow in the sum that looks for NaN; they are finite.
        with np.errstate(over="ignore", invalid="ignore"):
            validated = validate_data(
                self,
                X,
                "no_validation" if y is None else y,
                reset=reset,
                allow_nd=self.encoder is not None,
                # check_finite_rows says which NaN are accepted.
                ensure_all_finite=False,
                ensure_min_samples=2 if reset else 1,
                # One feature that is NaN could not be told from a removed row.
                ensure_min_features=2 if reset and self.encoder is None else 1,
            )
        if not reset:
            return validated
        if y is None:
            return validated, None
        check_classification_targets(validated[1])
        return validated

    def _count_classes(self, y):
        if self.n_communities is not None:
            return check_integer("n_communities", self.n_communities, low=3) - 1
        n_classes = len(np.unique(y))
        if n_classes < 2:
            raise ValueError(
                f"y has {n_classes} class in the rows that are not removed; at least "
                "2 classes are needed to tell groups apart. Check y, or set "
                "n_communities."
            )
        return n_classes

    def _encode(self, X):
        if self.encoder is not None:
            return encode_rows(self.encoder, X)
        with np.errstate(invalid="ignore"):
            largest = max(
                float(np.nanmax(X, initial=0)), -float(np.nanmin(X, initial=0))
            )
        if largest > _LARGEST:
            raise ValueError(
                f"X holds values as large as {largest:.3g}; distances between such "
                f"rows are not finite. Scale X to below {_LARGEST:g}."
            )
        return X.astype(float_dtype(X.dtype), copy=False)


class OffManifoldFilter(OneToOneFeatureMixin, TransformerMixin, _OffManifoldEstimator):
    """Remove a group of training rows that lies apart from all the others.

    Builds a k-nearest-neighbour graph of the features, looks in it for one community
    more than there are classes, and removes the community farthest from the others
    if it is farther than a threshold.

    A scikit-learn Pipeline cannot drop rows, so `fit_transform` returns all of them,
    the removed ones NaN in every feature. `VIBEClassifier` leaves such rows out;
    other classifiers raise, or ignore them. `transform` changes nothing: new rows
    are never removed (see `is_off_manifold`).

    Parameters
    ----------
    encoder : torch.nn.Module, object with ``transform``, or callable, default=None
        Maps a batch of rows of X to features, in which the search is done; X may
        then have any number of dimensions. The output of the filter is X, not the
        features. The encoder is not changed. None: X is the feature matrix.
    n_neighbors : int, default=50
        Neighbours of a row in the graph.
    threshold : float, default=0.275
        Distance beyond which the farthest community is removed, in the paper's scale
        at ten classes, where an outlier passes 0.275 at 1.44 times the distance
        between the others. For other numbers of classes it is adjusted to the same
        ratio, see `skvibe.community_geometry.calibrate_threshold` and
        `threshold_`.
    n_communities : int, default=None
        Communities to look for. None: the number of classes in ``y``, plus one.
        Needed if fit is given no ``y``.
    metric : str, default="euclidean"
        Metric of the graph: "euclidean", "cosine", or any that scikit-learn's
        `NearestNeighbors` takes.
    distance : {"signed", "classes", "paper"}, default="signed"
        "signed" only removes communities farther out than the others, and has
        safeguards against removing a class or a group without meaning (see
        `skvibe.off_manifold.detect_off_manifold`). "classes" measures 3 K + 1
        communities of whitened directions against the classes as given: for poison
        whose labels are true, in features of an encoder trained on the poisoned
        images. "paper" is the statistic of the paper's authors, without safeguards.
    neighbors : {"auto", "exact", "pynndescent"} or object, default="auto"
        Search of the neighbours. "auto" is exact up to 100,000 rows. An object whose
        ``fit_transform`` returns a sparse neighbour graph, such as
        `KNeighborsTransformer`, is cloned and used instead; ``n_neighbors`` and
        ``metric`` then do not apply.
    leiden : {"igraph", "leidenalg"}, default="igraph"
        Implementation of Leiden; igraph is about ten times faster.
    max_removed : float, default=0.3
        Largest share of the rows that may be removed. If the farthest group is
        larger, nothing is removed and a warning given.
    random_state : int, RandomState instance or None, default=None
        Seed of Leiden (and of pynndescent).
    n_jobs : int, default=None
        Threads of the neighbour search. Does not change the result of the exact one.
    verbose : int, default=0
        Above 0, print how far the stages are and what each found.

    Attributes
    ----------
    removed_mask_ : ndarray of bool of shape (n_samples,)
        Rows removed, those included that were already removed in the X given.
    support_ : ndarray of int of shape (n_kept,)
        Numbers of the rows kept.
    n_removed_ : int
        Number of rows removed.
    communities_ : ndarray of int of shape (n_samples,)
        Community of each row, 0 the largest; -1 for rows removed before.
    community_distances_ : ndarray of float of shape (n_communities,)
        How much farther from the others each community is than they are.
    n_communities_ : int
        Number of communities found.
    resolution_ : float
        Resolution of the Leiden run; NaN if there were too few rows.
    threshold_ : float
        The threshold adjusted to the number of groups.
    decision_ : str
        Why rows were removed or not: a key of `skvibe.off_manifold.DECISIONS`.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Names of the features, if X had string column names.

    Raises
    ------
    ValueError, TypeError
        In fit: parameters out of range or of the wrong type; NaN or infinity in some
        features of a row; a single row, feature or class; no ``y`` and no
        ``n_communities``.

    Warns
    -----
    UserWarning
        If there are too few rows (fewer than 100 or not more than ``n_neighbors``),
        if the number of communities was not reached, or if more than
        ``max_removed`` of the rows would go. Nothing is removed in the first and
        the last case.

    See Also
    --------
    OffManifoldSampler : The same for imbalanced-learn's Pipeline.
    VIBEClassifier : The classifier that leaves removed rows out.

    Notes
    -----
    What it can find is a group of rows that is tight, far away and not much smaller
    than ``n_neighbors``. Poison that stays among the clean rows (a small patch seen
    through raw pixels, say) is left to the classifier.

    ``fit(X, y).transform(X)`` removes nothing: only `fit_transform` does, which is
    what a Pipeline calls in fit. Steps between the filter and the classifier must
    let NaN pass, as `StandardScaler` does.

    The labels are only used to count the classes and to spare a community that is a
    whole class; they are never changed.

    References
    ----------
    I. Sabolić, M. Grcić, S. Šegvić. Seal Your Backdoor with Variational Defense.
    ICCV 2025. Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe import OffManifoldFilter
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((660, 8)) * 0.1
    >>> X[:300, 0] += 1.0
    >>> X[300:600, 1] += 1.0
    >>> X[600:, 2] += 4.0
    >>> y = np.repeat(["a", "b", "a"], [300, 300, 60])
    >>> off_manifold = OffManifoldFilter(random_state=0)
    >>> X_marked = off_manifold.fit_transform(X, y)
    >>> off_manifold.n_removed_, bool(np.isnan(X_marked[600:]).all())
    (60, True)
    >>> off_manifold.is_off_manifold(X[[0, 650]])
    array([False,  True])
    """

    def fit(self, X, y=None):
        """Find the rows to remove.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training rows. Rows that are NaN in every feature count as removed
            already and stay so.
        y : array-like of shape (n_samples,), default=None
            Given labels, of any type that scikit-learn's classifiers take.

        Returns
        -------
        self : OffManifoldFilter
            The fitted filter.
        """
        self._fit(X, y)
        return self

    def fit_transform(self, X, y=None):
        """Find the rows to remove and return X with NaN in their place.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training rows. Rows that are NaN in every feature count as removed
            already and stay so.
        y : array-like of shape (n_samples,), default=None
            Given labels, of any type that scikit-learn's classifiers take.

        Returns
        -------
        ndarray of the shape of X
            A copy, float64 if X is and else float32; removed rows are NaN in every
            feature.
        """
        return mark_removed(self._fit(X, y), self.removed_mask_)

    def transform(self, X):
        """Return X as it is, in the float type of `fit_transform`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Any rows.

        Returns
        -------
        ndarray of the shape of X
            X itself where its type allows, not a copy.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        check_finite_rows(X, find_removed(X), type(self).__name__)
        return X.astype(float_dtype(X.dtype), copy=False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.n_communities is None
        tags.input_tags.three_d_array = self.encoder is not None
        return tags


class OffManifoldSampler(_OffManifoldEstimator):
    """Drop a group of training rows that lies apart from all the others.

    The same detector as `OffManifoldFilter`, as a sampler: `fit_resample` returns
    the rows kept and their labels. For imbalanced-learn's Pipeline, where any
    classifier may follow; scikit-learn's own Pipeline refuses samplers.

    Parameters
    ----------
    encoder : torch.nn.Module, object with ``transform``, or callable, default=None
        Maps a batch of rows of X to the features in which the search is done.
    n_neighbors : int, default=50
        Neighbours of a row in the graph.
    threshold : float, default=0.275
        Distance beyond which the farthest community is removed, as in
        `OffManifoldFilter`.
    n_communities : int, default=None
        Communities to look for. None: the number of classes in ``y``, plus one.
    metric : str, default="euclidean"
        Metric of the graph.
    distance : {"signed", "classes", "paper"}, default="signed"
        Statistic, as in `OffManifoldFilter`.
    neighbors : {"auto", "exact", "pynndescent"} or object, default="auto"
        Search of the neighbours, as in `OffManifoldFilter`.
    leiden : {"igraph", "leidenalg"}, default="igraph"
        Implementation of Leiden.
    max_removed : float, default=0.3
        Largest share of the rows that may be removed.
    random_state : int, RandomState instance or None, default=None
        Seed of Leiden (and of pynndescent).
    n_jobs : int, default=None
        Threads of the neighbour search.
    verbose : int, default=0
        Above 0, print how far the stages are and what each found.

    Attributes
    ----------
    sample_indices_ : ndarray of int of shape (n_samples_new,)
        Numbers of the rows kept, in their order.
    removed_mask_, support_, n_removed_, communities_, community_distances_, \
n_communities_, resolution_, threshold_, decision_
        As in `OffManifoldFilter`.

    See Also
    --------
    OffManifoldFilter : The same for scikit-learn's Pipeline.

    References
    ----------
    I. Sabolić, M. Grcić, S. Šegvić. Seal Your Backdoor with Variational Defense.
    ICCV 2025. Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe import OffManifoldSampler
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((660, 8)) * 0.1
    >>> X[:300, 0] += 1.0
    >>> X[300:600, 1] += 1.0
    >>> X[600:, 2] += 4.0
    >>> y = np.repeat(["a", "b", "a"], [300, 300, 60])
    >>> X_kept, y_kept = OffManifoldSampler(random_state=0).fit_resample(X, y)
    >>> X_kept.shape, y_kept.shape
    ((600, 8), (600,))
    """

    def fit(self, X, y):
        """Find the rows to remove.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training rows.
        y : array-like of shape (n_samples,)
            Given labels.

        Returns
        -------
        self : OffManifoldSampler
            The fitted sampler.
        """
        self._fit(X, y)
        self.sample_indices_ = self.support_
        return self

    def fit_resample(self, X, y):
        """Find the rows to remove and return the others with their labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training rows.
        y : array-like of shape (n_samples,)
            Given labels.

        Returns
        -------
        X_resampled : ndarray or DataFrame of shape (n_samples_new, ...)
            The rows kept, as they were given; a DataFrame stays one.
        y_resampled : ndarray or Series of shape (n_samples_new,)
            Their labels.
        """
        self.fit(X, y)
        return _take(X, self.support_), _take(y, self.support_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.three_d_array = self.encoder is not None
        return tags


def _take(rows, numbers):
    """The given rows of an array, list, DataFrame or Series."""
    if hasattr(rows, "iloc"):
        return rows.iloc[numbers]
    return (rows if hasattr(rows, "shape") else np.asarray(rows))[numbers]
