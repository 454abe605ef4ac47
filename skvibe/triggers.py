"""Which given labels hide rows moved by a trigger: the search.

Poisoned rows labelled k were drawn from the *other* classes and moved by one common
vector; a natural sub-topic of class k is one cloud. `skvibe.trigger_mixture` fits both
explanations; here they are compared, for every class on its own and, where each class
has one source only (all-to-all), across classes (`skvibe.trigger_evidence`).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.cluster import KMeans

from skvibe._progress import Progress
from skvibe.trigger_evidence import (
    REACH,
    across_p_values,
    own_p_values,
    vuong_statistic,
)
from skvibe.trigger_mixture import (
    ClassMixture,
    MixtureFit,
    normalise,
    pooled_whitening,
)

# Rows carry a trigger to different degrees: the text may be long or cut.
_STRENGTHS = (1 / 3, 2 / 3, 1.0)
# A fit from a start other than the first must bring evidence of its own.
_EVIDENT = 2.0
# Share of the false-alarm rate spent on the comparison across classes.
_ACROSS = 0.1
# What a class must bring to join others that share a displacement.
_JOINS = 3.0
# Directions in which a class is split in two.
_N_DIRECTIONS = 10
# Rounds more where something was found.
_MORE_ROUNDS = 2
# In a class below this share of the mean class size poison may hold the mean.
_SMALL_CLASS = 0.5
# A group below this share of a class does not.
_HOLDS_MEAN = 0.2


@dataclass
class TriggerSearch:
    """What `search_triggers` found; K classes in the order of their codes.

    Attributes
    ----------
    p_values : ndarray of shape (K,)
        Family-wise corrected; 1 for a class with too few rows.
    statistics : ndarray of shape (K,)
        The smaller of the two statistics of the class's own test, standard normal
        at most under its null hypothesis; NaN where not tested.
    agreements : ndarray of shape (K,)
        Largest cosine with the displacement of another class.
    crowded : ndarray of shape (K,)
        The class's own p-value where moved rows leave too few natural ones to
        judge by (the p-value above is 1 then); 1 elsewhere.
    moved : ndarray of shape (n_samples,)
        Posterior of being a row of another class moved by a trigger.
    shifts : ndarray of shape (K, n_features)
        The displacement in each class, whitened.
    means : ndarray of shape (K, n_features)
        Of the natural rows of each class, whitened.
    whiten, unwhiten : ndarray of shape (n_features, n_features)
        To and from the whitened space.
    """

    p_values: np.ndarray
    statistics: np.ndarray
    agreements: np.ndarray
    crowded: np.ndarray
    moved: np.ndarray
    shifts: np.ndarray
    means: np.ndarray
    whiten: np.ndarray
    unwhiten: np.ndarray


def search_triggers(
    X,
    y,
    *,
    min_class_size=10,
    n_rounds=3,
    n_folds=5,
    alpha=0.05,
    seed=0,
    verbose=0,
):
    """Fit, for every given class, the trigger model and its natural rivals.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Floating rows, every one finite.
    y : ndarray of int of shape (n_samples,)
        Codes 0 .. K-1, each present; ``K >= 2``.
    min_class_size : int, default=10
        Smaller classes are not searched, smaller groups not called a trigger.
    n_rounds : int, default=3
        The covariance and class means are estimated again, without the moved
        rows, after each round.
    n_folds : int, default=5
        Folds of the cross-fitting.
    alpha : float, default=0.05
        Where a p-value is below it, further rounds make displacements and
        posteriors sharper.
    seed : int, default=0
        Draws the folds.
    verbose : int, default=0
        1 prints each class of each round.

    Returns
    -------
    TriggerSearch
        Posteriors, displacements and corrected p-values.
    """
    state = _Search(X, y, min_class_size, n_folds, seed, verbose)
    state.run(n_rounds)
    found = state.result()
    swapped = state.swapped() if found.p_values.min() >= alpha else None
    if swapped is not None:
        swapped.run(n_rounds)
        second = swapped.result()
        # The second look has to be paid for.
        second.p_values = np.minimum(1.0, 2 * second.p_values)
        if second.p_values.min() < alpha:
            state, found = swapped, second
    if found.p_values.min() >= alpha:
        return found
    state.run(_MORE_ROUNDS, first=False)
    sharper = state.result()
    return sharper if sharper.p_values.min() < alpha else found


class _Search:
    """Arrays shared by the rounds of one search."""

    def __init__(self, X, y, min_class_size, n_folds, seed, verbose):
        self.X, self.y, self.min_class_size = X, y, min_class_size
        self.arguments = min_class_size, n_folds, seed, verbose
        self.verbose, self.seed = verbose, seed
        self.n_classes = int(y.max()) + 1
        self.counts = np.bincount(y, minlength=self.n_classes).astype(X.dtype)
        self.members = [np.flatnonzero(y == k) for k in range(self.n_classes)]
        self.searched = np.flatnonzero(self.counts >= min_class_size)
        self.groups = number_duplicates(X)
        rng = np.random.default_rng(seed)
        self.folds = rng.integers(0, n_folds, self.groups.max() + 1)[self.groups]
        class_means = np.stack([X[rows].mean(axis=0) for rows in self.members])
        self.residuals = X - class_means[y]
        self.natural = np.ones(len(X), dtype=X.dtype)
        self.moved = np.zeros(len(X), dtype=X.dtype)
        self.statistics = np.full(self.n_classes, np.nan)
        self.shifts = np.zeros_like(class_means)
        # Where the group lies seen from its own class, were it a natural one.
        self.offsets = np.zeros_like(class_means)
        self.size = np.zeros(self.n_classes)

    def run(self, n_rounds, first=True):
        total = n_rounds * len(self.searched)
        progress = Progress("trigger filter", total, enabled=self.verbose > 0)
        for round_ in range(n_rounds):
            self.whiten_again()
            for place, k in enumerate(self.searched, 1):
                self.search_class(k, first=first and round_ == 0)
                progress.update(round_ * len(self.searched) + place)

    def swapped(self):
        """A new search in which, in small classes, the group is the natural part.

        Where poison outnumbers the rows of a small class it holds the class's mean,
        and every other class mistakes its moved rows for label noise from there.
        """
        group = np.array([self.moved[rows].sum() for rows in self.members])
        share = group / self.counts
        small = self.counts < _SMALL_CLASS * self.counts.mean()
        classes = np.flatnonzero(small & (share > _HOLDS_MEAN) & (group >= 2))
        if len(classes) == 0:
            return None
        state = _Search(self.X, self.y, *self.arguments)
        for k in classes:
            rows = self.members[k]
            state.natural[rows] = self.moved[rows]
            in_group = self.moved[rows] > 0.5
            for part in (rows[in_group], rows[~in_group]):
                if len(part):
                    state.residuals[part] = self.X[part] - self.X[part].mean(axis=0)
        return state

    def whiten_again(self):
        self.whiten, self.unwhiten = pooled_whitening(self.residuals)
        self.Z = self.X @ self.whiten
        self.average_again()

    def average_again(self):
        weights = self.natural + 1e-6
        self.means = np.stack(
            [weights[r] @ self.Z[r] / weights[r].sum() for r in self.members]
        )

    def mixture(self, k):
        rows, others = self.members[k], np.delete(np.arange(self.n_classes), k)
        return ClassMixture(
            self.Z[rows], self.means[others], self.counts[others], self.folds[rows]
        )

    def search_class(self, k, first):
        rows = self.members[k]
        starts = [suspicion(self.Z[rows], self.means, k)]
        if first:
            # A strong trigger draws the class's mean towards itself: then no row looks
            # as if it belonged elsewhere, but the class falls in two.
            half = halves(self.Z[rows], self.seed)
            starts += [half, 1 - half]
        else:
            starts.append(self.moved[rows])
        fit, statistic = best_fit(self.mixture(k), starts, self.groups[rows])
        self.keep(k, fit)
        self.statistics[k] = statistic

    def keep(self, k, fit):
        rows, others = self.members[k], np.delete(np.arange(self.n_classes), k)
        self.natural[rows] = fit.natural.sum(axis=0)
        self.moved[rows] = fit.group
        self.shifts[k], self.size[k] = fit.shift, fit.group.sum()
        self.offsets[k] = self.own_offset(k, fit)
        means = self.means[others]
        centers = np.concatenate([fit.centers, means + fit.shift, means])
        posterior = np.concatenate([fit.natural, fit.moved, fit.noise])
        nearest = centers[posterior.argmax(axis=0)]
        self.residuals[rows] = (self.Z[rows] - nearest) @ self.unwhiten

    def own_offset(self, k, fit):
        sources = np.delete(self.means, k, axis=0)
        share = fit.moved.sum(axis=1) / max(fit.group.sum(), 1e-9)
        return fit.shift + share @ sources - fit.centers[0]

    def result(self):
        self.average_again()
        natural_size = self.counts - self.size
        enough = np.minimum(self.size, natural_size) >= self.min_class_size
        p_values = own_p_values(self.statistics)
        own = np.where(enough, p_values, 1.0)
        crowded = (self.size >= self.min_class_size) & ~enough
        across, agreements = across_p_values(
            self.shifts, self.offsets, self.size, enough
        )
        moved, shifts = self.moved.copy(), self.shifts.copy()
        across = self._share_shift(across, moved, shifts)
        for k in self.searched:
            rows = self.members[k]
            graded, _ = graded_posterior(
                self.Z[rows], self.means, k, shifts[k], self.counts
            )
            moved[rows] = np.maximum(moved[rows], graded)
        return TriggerSearch(
            p_values=np.minimum(1.0, np.minimum(own / (1 - _ACROSS), across / _ACROSS)),
            statistics=self.statistics.copy(),
            agreements=agreements,
            crowded=np.where(crowded, p_values, 1.0),
            moved=moved,
            shifts=shifts,
            means=self.means,
            whiten=self.whiten,
            unwhiten=self.unwhiten,
        )

    def _share_shift(self, across, moved, shifts):
        """Search the other classes again from the displacement that some share."""
        linked = across < 1e-3
        if not linked.any():
            return across
        weights = self.size[linked]
        shared = np.average(self.shifts[linked], axis=0, weights=weights)
        natural = np.average(self.offsets[linked], axis=0, weights=weights)
        # What the linked classes had of the false-alarm rate passes to the others: a
        # sequentially rejective test whose levels only grow.
        left = (self.n_classes - linked.sum()) / self.n_classes
        level = (1 - (1 - _ACROSS) * left) / max(left * self.n_classes, 1)
        for k in np.setdiff1d(self.searched, np.flatnonzero(linked)):
            rows = self.members[k]
            arguments = self.Z[rows], self.means, k
            joined, gain = graded_posterior(*arguments, shared, self.counts)
            _, rival = graded_posterior(*arguments, natural, self.counts, own=True)
            statistic = vuong_statistic(gain - rival, self.groups[rows])
            if statistic > _JOINS and (joined > 0.5).sum() >= self.min_class_size:
                moved[rows], shifts[k] = joined, shared
                across[k] = norm.sf(statistic) * _ACROSS / level
        return across


def graded_posterior(rows, means, k, shift, counts, own=False, n_iter=30):
    """Posterior of being moved by a third, two thirds or the whole of a known shift.

    Only the weights are fitted here. A mixture that knows the whole shift alone
    counts weakly moved rows as label noise, and a few of them are enough for an attack.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        Whitened rows labelled k.
    means : ndarray of shape (K, n_features)
        Whitened means of all classes.
    k : int
        Their code.
    shift : ndarray of shape (n_features,)
        Whitened displacement.
    counts : ndarray of shape (K,)
        Rows of each class, the prior of the sources.
    own : bool, default=False
        Move rows of class k instead of the other classes: a natural topic.
    n_iter : int, default=30
        Iterations of expectation-maximisation.

    Returns
    -------
    posterior : ndarray of shape (n_rows,)
        Of being moved to any degree.
    log_density : ndarray of float64 of shape (n_rows,)
        Of the mixture, up to a constant of each row.
    """
    others = np.delete(means, k, axis=0)
    sources = means[k : k + 1] if own else others
    prior = np.ones(1) if own else np.delete(counts, k)
    n_grades, n_noise = len(_STRENGTHS), len(others)
    moved = np.concatenate([sources + strength * shift for strength in _STRENGTHS])
    centers = np.concatenate([means[k : k + 1], moved, others])
    density = centers @ rows.T - 0.5 * np.square(centers).sum(axis=1)[:, None]
    share = np.tile(prior / prior.sum(), n_grades)
    weights = np.concatenate(
        [[0.8], 0.1 * share / n_grades, np.full(n_noise, 0.1 / n_noise)]
    ).astype(rows.dtype)
    of_moved = slice(1, 1 + len(moved))
    for _ in range(n_iter):
        log_density, posterior = normalise(density + np.log(weights)[:, None])
        weights = posterior.sum(axis=1) + 1e-3
        by_grade = weights[of_moved].reshape(n_grades, -1).sum(axis=1)
        weights[of_moved] = np.repeat(by_grade, len(sources)) * share
        weights /= weights.sum()
    return posterior[of_moved].sum(axis=0), log_density.astype(np.float64)


def best_fit(mixture, starts, groups):
    """The trigger model, and how clearly it beats its natural rivals.

    Parameters
    ----------
    mixture : ClassMixture
        Of the class.
    starts : list of ndarray of shape (n_rows,)
        First guesses of the posterior of being moved. The first is kept unless
        another, or the opposite of what it led to, brings evidence.
    groups : ndarray of int of shape (n_rows,)
        From `number_duplicates`.

    Returns
    -------
    fit : MixtureFit
        The trigger model.
    statistic : float
        The smaller of two: against the same group as one natural cloud, and
        against label noise displaced by `REACH` at most. Both must be large.
    """
    starts = list(starts)
    tried: list[tuple[MixtureFit, float]] = []
    for start in starts:
        fit = mixture.fit((1 - start)[None], start)
        if not tried:
            # Where moved rows outnumber the others they hold the class's mean, and the
            # rows that stand out from it are the natural ones.
            starts.append(1 - fit.group)
        cloud = mixture.fit(np.stack([1 - fit.group, fit.group]))
        gain = fit.log_density.astype(np.float64) - cloud.log_density
        statistic = min(
            vuong_statistic(gain, groups),
            vuong_statistic(mixture.reach_contrast(fit, REACH), groups),
        )
        tried.append((fit, statistic))
    evident = [pair for pair in tried if pair[1] > _EVIDENT]
    # Among evident ones the better density, not the larger statistic: natural rows
    # taken along with the moved ones cost the former and need not cost the latter.
    return max(
        evident or tried[:1],
        key=lambda pair: pair[0].log_density.sum(dtype=np.float64),
    )


def suspicion(rows, means, k):
    """Posterior that rows labelled k belong to another class, by the means alone.

    A moved row is nearer to the class it was drawn from, whatever its displacement.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        Whitened rows labelled k.
    means : ndarray of shape (K, n_features)
        Whitened means of all classes.
    k : int
        Their code.

    Returns
    -------
    ndarray of shape (n_rows,)
    """
    scores = means @ rows.T - 0.5 * np.square(means).sum(axis=1)[:, None]
    return 1 - normalise(scores)[1][k]


def halves(rows, seed=0):
    """Two clusters along the directions in which rows scatter most.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        Whitened rows of one class.
    seed : int, default=0
        Of the clusters' starts.

    Returns
    -------
    ndarray of shape (n_rows,)
        One in the smaller cluster, zero in the other, each softened a little.

    Examples
    --------
    >>> import numpy as np
    >>> halves(np.array([[0.0, 1.0], [0.1, 1.0], [0.0, 1.1], [9.0, 1.0]])).round(2)
    array([0.05, 0.05, 0.05, 0.95])
    """
    centred = rows - rows.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = centred @ vectors[:, -_N_DIRECTIONS:]
    clusters = KMeans(2, n_init=3, random_state=seed).fit_predict(leading)
    smaller = clusters == np.bincount(clusters, minlength=2).argmin()
    return np.where(smaller, 0.95, 0.05).astype(rows.dtype)


def number_duplicates(X):
    """One integer for each row, the same for rows that are equal bit by bit.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of int of shape (n_samples,)

    Examples
    --------
    >>> import numpy as np
    >>> number_duplicates(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    array([0, 1, 0])
    """
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in X])


def shifted_posterior(Z, means, shift):
    """Posterior that unlabelled rows carry a shift, at even odds.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_features)
        Whitened rows.
    means : ndarray of shape (K, n_features)
        Whitened means of all classes.
    shift : ndarray of shape (n_features,)
        Whitened displacement.

    Returns
    -------
    ndarray of shape (n_rows,)
    """

    def log_density(centers):
        offset = 0.5 * np.square(centers).sum(axis=1)
        return normalise(centers @ Z.T - offset[:, None])[0].astype(np.float64)

    log_odds = log_density(means + shift) - log_density(means)
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -60, 60)))
