"""The mathematics of finding a trigger among the rows that share a given label.

Poisoned rows labelled k were drawn from the *other* classes and moved by one common
vector. In the space whitened by the pooled within-class covariance this is a mixture
with few unknowns, and it can be told from a natural sub-topic, which looks like one
cloud. NumPy only; the estimator is in `skvibe.trigger_filter`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf


def pooled_whitening(residuals):
    """Symmetric whitening of rows whose class centre has been taken off.

    Parameters
    ----------
    residuals : ndarray of shape (n_samples, n_features)
        Rows minus the centre of their class.

    Returns
    -------
    whiten, unwhiten : ndarray of shape (n_features, n_features)
        ``rows @ whiten`` has the identity as its within-class covariance (up to
        the shrinkage of Ledoit and Wolf); ``unwhiten`` is the inverse.
    """
    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    # Constant or collinear features have no spread to divide by.
    scale = np.sqrt(np.maximum(values, max(values[-1], 1e-300) * 1e-8))
    whiten = (vectors / scale) @ vectors.T
    unwhiten = (vectors * scale) @ vectors.T
    return whiten.astype(residuals.dtype), unwhiten.astype(residuals.dtype)


@dataclass
class MixtureFit:
    """Responsibilities and centres of one fitted mixture, rows as given.

    Attributes
    ----------
    log_density : ndarray of shape (n_rows,)
        Of each row under parameters estimated without the row's fold.
    natural : ndarray of shape (n_rows, n_clouds)
        Posterior of each cloud of correctly labelled rows.
    shifted : ndarray of shape (n_rows, n_sources)
        Posterior of being a row of each source class, moved by the trigger.
    noise : ndarray of shape (n_rows, n_sources)
        Posterior of being an unmoved row of each source class (label noise).
    centers : ndarray of shape (n_clouds, n_features)
    shift : ndarray of shape (n_features,)
    """

    log_density: np.ndarray
    natural: np.ndarray
    shifted: np.ndarray
    noise: np.ndarray
    centers: np.ndarray
    shift: np.ndarray


class ClassMixture:
    """Mixtures for the rows of one given label, in whitened space.

    ``n_clouds`` clouds with free centres (the label is right), one unmoved component
    per source class (label noise) and, where asked for, the source classes moved by
    one common free vector. Every covariance is the identity. Free centres and
    the shift are cross-fitted: a row is never scored by parameters it helped to
    estimate, otherwise in hundreds of dimensions each row would confirm itself.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    sources : ndarray of shape (n_sources, n_features)
        Means of the other classes.
    prior : ndarray of shape (n_sources,)
        Share of each source class among the moved rows. Fixed: leaving it free would
        let one source stand for any natural cloud.
    folds : ndarray of int of shape (n_rows,)
        Cross-fitting fold of each row; duplicates share one.
    """

    def __init__(self, rows, sources, prior, folds):
        # Rows of a fold are made contiguous, so that sums over folds are views.
        self._order = np.argsort(folds, kind="stable")
        self._rows = np.ascontiguousarray(rows[self._order])
        self._fold = np.unique(folds[self._order], return_inverse=True)[1]
        n_folds = self._fold[-1] + 1
        edges = np.searchsorted(self._fold, np.arange(n_folds + 1))
        self._slices = [slice(a, b) for a, b in pairwise(edges)]
        self.sources = sources
        self.log_prior = np.log(prior / prior.sum())
        self._square = np.einsum("ij,ij->i", self._rows, self._rows)
        self._to_sources = -0.5 * (
            self._square[:, None]
            - 2 * self._rows @ sources.T
            + np.einsum("ij,ij->i", sources, sources)
        )

    def fit(self, natural, shifted=None, max_iter=25, tol=1e-4):
        """Expectation-maximisation from given responsibilities.

        Parameters
        ----------
        natural : ndarray of shape (n_rows, n_clouds)
        shifted : ndarray of shape (n_rows,) or None
            Posterior of being moved by a trigger; None fits natural clouds only.

        Returns
        -------
        MixtureFit
        """
        rows, n, m = self._rows, len(self._rows), len(self.sources)
        natural = natural[self._order]
        n_clouds = natural.shape[1]
        moved = None
        if shifted is not None:
            split = softmax(self._to_sources + self.log_prior, axis=1)
            moved = shifted[self._order][:, None] * split
        weights = self._weights(natural, moved, np.full((n, m), 0.01 / m))
        last = -np.inf
        for _ in range(max_iter):
            centers = self._centers(natural)
            parts = [self._from_centers(centers)]
            if moved is not None:
                shift = self._shift(moved)
                parts.append(self._from_shift(shift))
            parts.append(self._to_sources)
            joint = np.concatenate(parts, axis=1) + weights
            log_density = logsumexp(joint, axis=1)
            posterior = np.exp(joint - log_density[:, None])
            natural, noise = posterior[:, :n_clouds], posterior[:, -m:]
            if moved is not None:
                moved = posterior[:, n_clouds:-m]
            weights = self._weights(natural, moved, noise)
            total = log_density.sum()
            if abs(total - last) < tol * n:
                break
            last = total
        back = np.empty(n, dtype=int)
        back[self._order] = np.arange(n)
        no_moved = np.zeros((n, m), dtype=rows.dtype)
        return MixtureFit(
            log_density=log_density[back],
            natural=natural[back],
            shifted=(no_moved if moved is None else moved)[back],
            noise=noise[back],
            centers=centers.mean(axis=0),
            shift=np.zeros(rows.shape[1]) if moved is None else shift.mean(axis=0),
        )

    def _weights(self, natural, moved, noise):
        # Half a row, spread over the sources, keeps every component alive.
        m = noise.shape[1]
        counts = [natural.sum(axis=0), noise.sum(axis=0) + 0.5 / m]
        if moved is not None:
            counts.insert(1, (moved.sum() + 0.5) * np.exp(self.log_prior))
        counts = np.maximum(np.concatenate(counts), 1e-12)
        return np.log(counts / counts.sum()).astype(self._rows.dtype)

    def _sums_without_fold(self, weights):
        """Weighted sums of rows and of weights over the rows outside each fold."""
        inside = np.stack([weights[s].T @ self._rows[s] for s in self._slices])
        mass = np.stack([weights[s].sum(axis=0) for s in self._slices])
        if len(self._slices) == 1:
            return inside, mass
        return inside.sum(axis=0) - inside, mass.sum(axis=0) - mass

    def _centers(self, natural):
        sums, mass = self._sums_without_fold(natural)
        return sums / np.maximum(mass, 1e-9)[:, :, None]

    def _shift(self, moved):
        """Shrunk mean of (row - its source's mean), one for each fold.

        The prior is isotropic with the variance the estimate itself suggests, so
        a shift that is only estimation noise is drawn to zero.
        """
        d = self._rows.shape[1]
        sums, mass = self._sums_without_fold(
            np.concatenate([moved.sum(axis=1, keepdims=True), moved], axis=1)
        )
        mass = np.maximum(mass, 1e-9)
        total = sums[:, 0] - mass[:, 1:] @ self.sources
        mass = mass[:, :1]
        noise = d / mass
        signal = np.square(total / mass).sum(axis=1, keepdims=True) - noise
        return total / (mass + d / np.maximum(signal, 1e-3 * noise))

    def _from_centers(self, centers):
        scores = np.empty((len(self._rows), centers.shape[1]), self._rows.dtype)
        for s, center in zip(self._slices, centers, strict=True):
            offset = 0.5 * np.einsum("ij,ij->i", center, center)
            scores[s] = self._rows[s] @ center.T - offset
        return scores - 0.5 * self._square[:, None]

    def _from_shift(self, shift):
        along = np.concatenate(
            [self._rows[s] @ v for s, v in zip(self._slices, shift, strict=True)]
        )
        # |x - mu - v|^2 = |x - mu|^2 - 2 x.v + 2 mu.v + |v|^2
        fixed = shift @ self.sources.T + 0.5 * np.square(shift).sum(axis=1)[:, None]
        return self._to_sources + along[:, None] - fixed[self._fold]


def vuong_statistic(difference, groups):
    """Self-normalised sum of log-density differences; duplicates count as one.

    Under the hypothesis that the two models are equally close to the truth (in
    Kullback-Leibler divergence) it is standard normal for many rows (Vuong 1989),
    and for symmetric differences its tail is sub-Gaussian at any number of rows.

    Parameters
    ----------
    difference : ndarray of shape (n_rows,)
    groups : ndarray of int of shape (n_rows,)
        Identical rows carry the same number: their differences are not independent.

    Returns
    -------
    float
        Zero where the models agree on every row.
    """
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=difference)
    spread = np.sqrt(np.square(sums).sum())
    return float(sums.sum() / spread) if spread > 0 else 0.0


@dataclass
class TriggerSearch:
    """What `search_triggers` found; ``K`` classes in the order of their codes.

    Attributes
    ----------
    statistics : ndarray of shape (K,)
        Vuong statistic of "moved rows of other classes" over "a natural cloud".
        NaN for a class with too few rows.
    n_starts : int
        Starting points tried for each class: the statistic is the best of them.
    shifted, noise : ndarray of shape (n_samples,)
        Posterior of being moved by a trigger, and of being an unmoved row of
        another class, in the row's given class.
    shifts : ndarray of shape (K, n_features)
        The displacement in each class, in the space of the rows given.
    means : ndarray of shape (K, n_features)
        Of the natural rows of each class, whitened.
    whiten : ndarray of shape (n_features, n_features)
    """

    statistics: np.ndarray
    n_starts: int
    shifted: np.ndarray
    noise: np.ndarray
    shifts: np.ndarray
    means: np.ndarray
    whiten: np.ndarray


def search_triggers(X, y, *, min_class_size=10, n_rounds=3, n_folds=5, seed=0):
    """Fit, for every given class, the trigger model and its natural rival.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Floating rows, every one finite.
    y : ndarray of int of shape (n_samples,)
        Codes 0 .. K-1, each present; ``K >= 2``.
    min_class_size : int, default=10
        Smaller classes are not searched.
    n_rounds : int, default=3
        The covariance and class means are estimated again, without the moved
        rows, after each round.
    n_folds : int, default=5
        Folds of the cross-fitting.
    seed : int, default=0

    Returns
    -------
    TriggerSearch
    """
    n_classes = int(y.max()) + 1
    counts = np.bincount(y, minlength=n_classes).astype(X.dtype)
    groups = number_duplicates(X)
    rng = np.random.default_rng(seed)
    folds = rng.integers(0, n_folds, groups.max() + 1)[groups]
    members = [np.flatnonzero(y == k) for k in range(n_classes)]
    class_means = np.stack([X[rows].mean(axis=0) for rows in members])
    residuals = X - class_means[y]
    natural = np.ones(len(X), dtype=X.dtype)
    shifted, noise = np.zeros((2, len(X)), dtype=X.dtype)
    statistics = np.full(n_classes, np.nan)
    shifts = np.zeros_like(class_means)
    for round_ in range(n_rounds):
        whiten, unwhiten = pooled_whitening(residuals)
        Z = X @ whiten
        means = np.stack(
            [np.average(Z[r], axis=0, weights=natural[r] + 1e-6) for r in members]
        ).astype(X.dtype)
        for k, rows in enumerate(members):
            if len(rows) < min_class_size:
                continue
            others = np.delete(np.arange(n_classes), k)
            mixture = ClassMixture(Z[rows], means[others], counts[others], folds[rows])
            starts = starting_points(Z[rows], means, k)
            if round_ > 0:
                starts.append(shifted[rows])
            fit, statistics[k] = _best_fit(mixture, starts, groups[rows])
            natural[rows] = fit.natural.sum(axis=1)
            shifted[rows] = fit.shifted.sum(axis=1)
            noise[rows] = fit.noise.sum(axis=1)
            shifts[k] = fit.shift @ unwhiten
            centers = np.concatenate(
                [fit.centers, means[others] + fit.shift, means[others]]
            )
            posterior = np.concatenate([fit.natural, fit.shifted, fit.noise], axis=1)
            nearest = centers[posterior.argmax(axis=1)]
            residuals[rows] = (Z[rows] - nearest) @ unwhiten
    return TriggerSearch(
        statistics=statistics,
        n_starts=len(starts) if n_classes else 0,
        shifted=shifted,
        noise=noise,
        shifts=shifts,
        means=means,
        whiten=whiten,
    )


def _best_fit(mixture, starts, groups):
    """The trigger model that beats the best natural model most clearly."""
    rivals = [mixture.fit(np.stack([1 - s, s], axis=1)) for s in starts]
    rival = max(rivals, key=lambda fit: fit.log_density.sum())
    best, best_statistic = None, -np.inf
    for start in starts:
        fit = mixture.fit((1 - start)[:, None], start)
        difference = (fit.log_density - rival.log_density).astype(np.float64)
        statistic = vuong_statistic(difference, groups)
        if statistic > best_statistic:
            best, best_statistic = fit, statistic
    return best, best_statistic


def starting_points(rows, means, k):
    """First guesses of which rows labelled k are moved: three posteriors.

    The first asks the other classes: a row nearer to another class's mean is
    suspect, whatever its displacement. The other two split the class along
    its direction of largest spread and suspect either side, for a class where the
    poison outnumbers the rest and its own mean says nothing.
    """
    scores = rows @ means.T - 0.5 * np.square(means).sum(axis=1)
    wrong_class = 1 - softmax(scores, axis=1)[:, k]
    centred = rows - rows.mean(axis=0)
    gram = centred.T @ centred if len(rows) > rows.shape[1] else centred @ centred.T
    direction = np.linalg.eigh(gram)[1][:, -1]
    along = centred @ direction if len(rows) > rows.shape[1] else direction
    side = np.where(_split_in_two(along), 0.99, 0.01).astype(rows.dtype)
    return [wrong_class, side, 1 - side]


def _split_in_two(values, max_iter=20):
    """Two-means on a line: True above the threshold."""
    threshold = values.mean()
    for _ in range(max_iter):
        above = values > threshold
        if above.all() or not above.any():
            break
        middle = 0.5 * (values[above].mean() + values[~above].mean())
        if middle == threshold:
            break
        threshold = middle
    return values > threshold


def number_duplicates(X):
    """One integer for each row, the same for rows that are equal bit by bit."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in X])


def false_alarm_rates(statistics, n_starts):
    """Family-wise corrected p-values of the classes (Bonferroni).

    Corrected for the number of classes searched and of starting points of each; NaN
    statistics give 1.
    """
    tested = np.isfinite(statistics)
    tail = norm.sf(np.where(tested, statistics, 0.0))
    corrected = np.minimum(tail * max(tested.sum(), 1) * n_starts, 1.0)
    return np.where(tested, corrected, 1.0)


def shifted_posterior(Z, means, shift):
    """Posterior that an unlabelled row carries a shift, at even odds.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_features)
        Whitened rows.
    means : ndarray of shape (K, n_features)
        Means of all classes, whitened.
    shift : ndarray of shape (n_features,)
        Whitened displacement.

    Returns
    -------
    ndarray of shape (n_rows,)
    """
    plain = Z @ means.T - 0.5 * np.square(means).sum(axis=1)
    moved = means + shift
    carried = Z @ moved.T - 0.5 * np.square(moved).sum(axis=1)
    log_odds = logsumexp(carried, axis=1) - logsumexp(plain, axis=1)
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -60, 60)))
