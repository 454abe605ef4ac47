"""Row filter for triggers that dominate the features."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skvibe._callbacks import CallbackSupportMixin, FitTasks, with_callbacks
from skvibe._checks import check_integer, check_option, check_real
from skvibe._progress import Progress
from skvibe._removed_rows import (
    check_finite_rows,
    find_removed,
    float_dtype,
    mark_removed,
)
from skvibe._saving import SaveMixin
from skvibe._warn_once import warn_once
from skvibe.one_source import LEAST_GROUP, one_source_groups
from skvibe.triggers import search_triggers, shifted_posterior

# Rows standardised at a time: small enough to stay in cache.
_BLOCK = 1024


class TriggerFilter(
    CallbackSupportMixin,
    SaveMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Remove rows that carry a wrong label and a common displacement.

    A backdoor attack takes rows of other classes, adds a trigger and gives them the
    target's label. On features of a pretrained encoder the trigger moves every such
    row by nearly the same vector. For each given class two explanations compete
    (cross-fitted, in the space whitened by the pooled within-class covariance):
    *the other classes, moved by one vector*, and *a natural sub-topic*. A class
    is suspect where the first wins by Vuong's test at the rate ``alpha``. No poison
    rate, target or clean data is asked for.

    Parameters
    ----------
    alpha : float, default=0.05
        False-alarm rate of the search, over all classes together: the largest
        probability of calling any class suspect when every class is natural.
    min_samples : int, default=100
        Below this number of rows nothing is removed, with a warning.
    min_class_size : int, default=10
        Smaller classes are not searched (they still count as sources).
    max_removed : float, default=0.3
        Largest share of rows that may be removed. If more rows are suspect nothing
        is removed, with a warning.
    undecided : {"warn", "remove", "ignore"}, default="warn"
        What happens to a group that may be poison from one source class or a natural
        sub-topic (with two classes poison can be nothing else), or that has left
        fewer than `min_class_size` other rows in its class. "warn" keeps the
        rows and warns, "remove" removes them, "ignore" does not look for them.
    random_state : int, RandomState instance or None, default=None
        Draws the folds of the cross-fitting. An int makes the result reproducible.
    verbose : int, default=0
        1 prints how far the search is and what it found.

    Attributes
    ----------
    removed_mask_ : ndarray of bool of shape (n_samples,)
        Rows removed, those that came in removed (all NaN) included.
    support_ : ndarray of int
        Indices of the rows kept.
    n_removed_ : int
    scores_ : ndarray of shape (n_samples,)
        In [0, 1], higher is more suspect: posterior that the row belongs to another
        class and was moved by a trigger, times one minus the p-value of its class.
        Undecided rows have 0.5 at least.
    undecided_mask_ : ndarray of bool of shape (n_samples,)
        Rows of groups about which the features cannot decide.
    undecided_classes_ : ndarray
        Given label of each such group.
    undecided_sources_ : ndarray
        Class that the rows of each group would come from; the given label itself if
        they would come from several and outnumber the rows to judge by.
    p_values_ : ndarray of shape (n_classes,)
        Corrected for the number of classes; in the order of `classes_`.
    statistics_ : ndarray of shape (n_classes,)
        Vuong's statistic of each class, NaN where the class was not searched.
    suspect_classes_ : ndarray
        Given labels under which poison was found.
    directions_ : ndarray of shape (n_suspect_classes, n_features)
        Displacement found in each of them, in the space of X.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int

    See Also
    --------
    OffManifoldFilter : Removes rows that lie off the data manifold.

    Notes
    -----
    Only `fit_transform` marks rows (NaN in every feature); `transform` is the
    identity. Poison that comes from one class only is one cloud under the target's
    label, like a natural sub-topic: the test has no power there. A group that
    lies and scatters like moved rows of one other class is therefore reported as
    *undecided*; see :func:`skvibe.one_source.one_source_groups`.

    References
    ----------
    .. [1] Q. H. Vuong, "Likelihood ratio tests for model selection and non-nested
       hypotheses", Econometrica 57 (1989), doi:10.2307/1912557.
    .. [2] D. Tang et al., "Demon in the variant: statistical analysis of DNNs for
       robust backdoor contamination detection" (SCAn), USENIX Security 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.trigger_filter import TriggerFilter
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2, 3], 200)
    >>> X = 4 * np.eye(20)[y] + rng.normal(size=(800, 20))
    >>> poisoned = np.arange(200, 800, 10)          # 60 rows of other classes
    >>> X[poisoned] += 8 * np.eye(20)[19]           # one trigger
    >>> y[poisoned] = 0
    >>> trigger = TriggerFilter(random_state=0)
    >>> marked = trigger.fit_transform(X, y)
    >>> trigger.suspect_classes_
    array([0])
    >>> bool(np.isnan(marked[poisoned]).all())
    True
    """

    def __init__(
        self,
        alpha=0.05,
        min_samples=100,
        min_class_size=10,
        max_removed=0.3,
        undecided="warn",
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.min_samples = min_samples
        self.min_class_size = min_class_size
        self.max_removed = max_removed
        self.undecided = undecided
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y):
        """Search every given class for rows moved by a trigger.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; those that are NaN in every feature were removed by an earlier
            filter, are left out and stay removed.
        y : array-like of shape (n_samples,)
            Given labels, of any type.

        Returns
        -------
        TriggerFilter
            The fitted filter.

        Raises
        ------
        ValueError
            If a row has NaN or infinity in some features only, or none is left.
        """
        self._fit(X, y)
        return self

    def fit_transform(self, X, y=None):
        """Fit and return a float copy of X with the removed rows set to NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows. Rows that are NaN in every feature count as removed
            already and stay so.
        y : array-like of shape (n_samples,)
            Given labels.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            A copy; removed rows are NaN in every feature.
        """
        X = self._fit(X, y)
        return mark_removed(X, self.removed_mask_)

    def transform(self, X):
        """Return X unchanged, as floats: new rows are never removed.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Any rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            A copy.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite=False)
        check_finite_rows(X, find_removed(X), "TriggerFilter")
        return np.array(X, dtype=float_dtype(X.dtype))

    def trigger_score(self, X):
        """Posterior that unlabelled inputs carry a trigger seen in training.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New inputs, finite.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1], at even prior odds, the largest over the triggers found; zero
            where none was found.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        scores = np.zeros(len(X))
        if len(self.suspect_classes_) == 0:
            return scores
        Z = self._standard(X) @ self._whiten
        for direction in self.directions_ / self._magnitude:
            shift = (direction / self._scale).astype(np.float32) @ self._whiten
            scores = np.maximum(scores, shifted_posterior(Z, self._means, shift))
        return scores

    @with_callbacks
    def _fit(self, X, y):
        tasks = FitTasks(self, X, y)
        X = self._find(X, y)
        tasks.end()
        return X

    def _find(self, X, y):
        """Find the rows, set the attributes and return X as an array."""
        alpha = check_real("alpha", self.alpha, 0, 1, "()")
        min_samples = check_integer("min_samples", self.min_samples, 1)
        min_class_size = check_integer("min_class_size", self.min_class_size, 2)
        max_removed = check_real("max_removed", self.max_removed, 0, 1)
        check_option("undecided", self.undecided, ("warn", "remove", "ignore"))
        X, y = validate_data(self, X, y, ensure_all_finite=False)
        check_classification_targets(y)
        gone = find_removed(X)
        check_finite_rows(X, gone, "TriggerFilter")
        self.classes_, codes = np.unique(y, return_inverse=True)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.removed_mask_ = gone
        self.scores_ = gone.astype(np.float64)
        self.statistics_ = np.full(len(self.classes_), np.nan)
        self.p_values_ = np.ones(len(self.classes_))
        self.suspect_classes_ = self.classes_[:0]
        self.directions_ = np.zeros((0, X.shape[1]))
        self.undecided_mask_ = np.zeros(len(X), dtype=bool)
        self.undecided_classes_ = self.undecided_sources_ = self.classes_[:0]
        kept = np.flatnonzero(~gone)
        present, kept_codes = np.unique(codes[kept], return_inverse=True)
        if self._can_search(len(kept), len(present), min_samples):
            standard = self._standardise(X[kept])
            found = self._search(standard, kept_codes, alpha, min_class_size, seed)
            suspect = found.p_values < alpha
            moved = np.clip(found.moved, 0.0, 1.0)
            self._publish(found, suspect, moved, kept, present, kept_codes)
            remove = suspect[kept_codes] & (moved > 0.5)
            if self.undecided != "ignore":
                groups = self._find_undecided(
                    standard, kept_codes, found, suspect, remove, alpha, seed
                )
                remove |= self._judge_undecided(groups, kept, present)
            self._remove(remove, kept, present, kept_codes, max_removed)
        self.support_ = np.flatnonzero(~self.removed_mask_)
        self.n_removed_ = int(self.removed_mask_.sum())
        done = Progress("trigger filter, rows removed", len(X), self.verbose > 0)
        done.update(self.n_removed_, undecided=self.undecided_mask_.sum())
        return X

    def _can_search(self, n_rows, n_classes, min_samples):
        if n_rows < min_samples:
            warn_once(
                "TriggerFilter removes nothing: there are fewer rows than "
                f"min_samples={min_samples}.",
            )
            return False
        return n_classes > 1

    def _standardise(self, X):
        X = np.asarray(X, dtype=np.float64)
        # By the largest entry first: squares of very large or small ones leave the
        # range of floats.
        largest = max(X.max(), -X.min())
        self._magnitude = largest if largest > 0 else 1.0
        scaled = [X[block] / self._magnitude for block in gen_batches(len(X), _BLOCK)]
        self._offset = sum(part.sum(axis=0) for part in scaled) / len(X)
        squares = sum(np.square(part - self._offset).sum(axis=0) for part in scaled)
        scale = np.sqrt(squares / len(X))
        # What rounding leaves of a constant feature is no spread.
        self._scale = np.where(scale > 1e-10 * np.abs(self._offset), scale, 1.0)
        return self._standard(X)

    def _search(self, standard, codes, alpha, min_class_size, seed):
        found = search_triggers(
            standard,
            codes,
            min_class_size=min_class_size,
            alpha=alpha,
            seed=seed,
            verbose=self.verbose,
        )
        self._means, self._whiten = found.means, found.whiten
        return found

    def _standard(self, X):
        """Rows with every feature at mean 0 and deviation 1 over the training rows."""
        X = np.asarray(X)
        out = np.empty(X.shape, dtype=np.float32)
        for block in gen_batches(len(X), _BLOCK):
            scaled = X[block].astype(np.float64)
            scaled /= self._magnitude
            scaled -= self._offset
            scaled /= self._scale
            out[block] = scaled
        return out

    def _publish(self, found, suspect, moved, kept, present, codes):
        self.statistics_[present] = found.statistics
        self.p_values_[present] = found.p_values
        self.scores_[kept] = moved * (1 - found.p_values[codes])
        self.suspect_classes_ = self.classes_[present[suspect]]
        shifts = (found.shifts @ found.unwhiten)[suspect]
        self.directions_ = shifts * self._scale * self._magnitude

    def _find_undecided(self, standard, codes, found, suspect, remove, alpha, seed):
        """Rows, given label, source and displacement of each undecided group."""
        groups = []
        # Poison has left too few rows of the class to judge by.
        crowded = (found.crowded < alpha) & ~suspect
        moved = (found.moved > 0.5) & crowded[codes]
        shifts = found.shifts @ found.unwhiten
        for k in np.flatnonzero(crowded):
            groups.append((np.flatnonzero(moved & (codes == k)), k, k, shifts[k]))
        rest = np.flatnonzero(~remove & ~moved)
        for group in one_source_groups(
            standard[rest],
            codes[rest],
            np.flatnonzero(~suspect & ~crowded),
            least=max(LEAST_GROUP, self.min_class_size),
            seed=seed,
        ):
            groups.append((rest[group.rows], group.label, group.source, group.shift))
        return groups

    def _judge_undecided(self, groups, kept, present):
        """Publish undecided groups; the rows of them to be removed."""
        also = np.zeros(len(kept), dtype=bool)
        for rows, *_ in groups:
            also[rows] = True
        labels = self.classes_[present[[label for _, label, _, _ in groups]]]
        self.undecided_mask_[kept] = also
        self.undecided_classes_ = labels
        self.undecided_sources_ = self.classes_[
            present[[source for _, _, source, _ in groups]]
        ]
        self.scores_[kept[also]] = np.maximum(self.scores_[kept[also]], 0.5)
        if self.undecided == "remove":
            shifts = [shift * self._scale * self._magnitude for *_, shift in groups]
            self.suspect_classes_ = np.concatenate([self.suspect_classes_, labels])
            self.directions_ = np.vstack([self.directions_, *shifts])
            return also
        if groups:
            warn_once(
                "TriggerFilter cannot decide about a group of rows labelled "
                f"{sorted(set(labels.tolist()))}: it may be poison (from one other "
                "class, or outnumbering its own) or a natural sub-topic. It keeps "
                "these rows. Look at them (undecided_mask_) and set "
                "undecided='remove' or 'ignore'.",
            )
        return np.zeros(len(kept), dtype=bool)

    def _remove(self, remove, kept, present, codes, max_removed):
        if remove.sum() > max_removed * len(kept):
            warn_once(
                f"TriggerFilter found more than max_removed={max_removed} of the rows "
                "suspect and removes none of them. Look at suspect_classes_ and "
                "scores_, or raise max_removed.",
            )
            return
        self._warn_majority(remove, codes, present)
        self.removed_mask_[kept[remove]] = True

    def _warn_majority(self, remove, codes, present):
        share = np.bincount(codes, weights=remove) / np.bincount(codes)
        majority = self.classes_[present[share > 0.5]]
        if len(majority):
            warn_once(
                "TriggerFilter suspects more than half of the rows labelled "
                f"{majority.tolist()}: either poison outnumbers the class's own rows "
                "or the label is mostly wrong. Look at these rows.",
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
