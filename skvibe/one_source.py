"""Groups that poison from one source class would look like.

Poison that comes from one class only is one cloud under the target's label, and so is
a natural sub-topic. Three signs set it apart in practice, none of them proves it: the
cloud lies at the source's place in the direction between the two classes, away from
every class in some other direction, and it scatters as the rows of the source do, not
as those of the label it was given, nor as narrowly as a template does.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from sklearn.cluster import KMeans

from skvibe.trigger_evidence import REACH
from skvibe.trigger_mixture import ClassMixture, shrunk_covariance
from skvibe.triggers import graded_posterior, suspicion

# Position between the class (0) and the source (1) from which a group is at the source.
PLACE = (0.7, 1.4)
# The same for the scatter of its rows, measured by log-density ratios.
LIKENESS = 0.8
# Texts made from one template scatter less than this share of the source's rows.
SIZE = 0.55
# The scatter of fewer rows says little.
LEAST_GROUP = 30
_CLUSTERS = (3, 6)
_N_DIRECTIONS = 10
_MOST_ROWS = 1000


@dataclass
class OneSourceGroup:
    """A group that could be poison from one class, or a sub-topic.

    Attributes
    ----------
    label : int
        Code of the given label.
    source : int
        Code of the class it may come from.
    rows : ndarray of int
        The rows, those included that carry the displacement in part.
    place : float
        Where the group lies between its class's other rows (0) and the source (1).
    likeness : float
        Whether its rows scatter as the class's other rows (0) or as the source's (1).
    size : float
        Their mean squared deviation in units of the source's.
    shift : ndarray of shape (n_features,)
        Displacement of the group from the source's mean.
    """

    label: int
    source: int
    rows: np.ndarray
    place: float
    likeness: float
    size: float
    shift: np.ndarray


def one_source_groups(X, y, classes, *, least=LEAST_GROUP, n_folds=5, seed=0):
    """Find groups that lie and scatter like moved rows of one other class.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Floating rows, every one finite.
    y : ndarray of int of shape (n_samples,)
        Codes 0 .. K-1, each present.
    classes : sequence of int
        The given labels to be looked at.
    least : int, default=30
        Smallest group.
    n_folds : int, default=5
        Folds of the cross-fitting.
    seed : int, default=0
        Draws the folds, the clusters' starts and the halves of the scatter.

    Returns
    -------
    list of OneSourceGroup
        Each of at most half of the rows of its class, no two with a row in common.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.one_source import one_source_groups
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 400)
    >>> spread = np.where(y[:, None] == 0, [2, 1, 1, 1], [1, 1, 1, 2])
    >>> X = 6 * np.eye(4)[y] + spread * rng.normal(size=(800, 4))
    >>> X[:100, 2] += 12                     # 100 rows of class 0 with a trigger
    >>> y[:100] = 1
    >>> group, = one_source_groups(X, y, [0, 1])
    >>> group.label, group.source, len(group.rows)
    (1, 0, 100)
    """
    return [
        group for k in classes for group in _of_class(X, y, k, least, n_folds, seed)[:1]
    ]


def _of_class(X, y, k, least, n_folds, seed):
    """Groups of one class, the one most like its source first."""
    members = np.flatnonzero(y == k)
    if len(members) < 2 * least:
        return []
    space = _OtherClasses(X, y, k)
    folds = np.random.default_rng(seed).integers(0, n_folds, len(members))
    found = []
    for group in _candidates(space, folds, least, seed):
        placed = space.place(group)
        if placed is None:
            continue
        source, place = placed
        rest, of_source = X[members[~group]], X[y == source]
        rows = X[members[group]]
        likeness, size = scatter_likeness(rows, of_source, rest, seed=seed)
        if likeness < LIKENESS or size < SIZE:
            continue
        shift = rows.mean(axis=0) - of_source.mean(axis=0)
        # Rows that carry the trigger in part are enough for an attack.
        group = group | space.carries(group, source)
        found.append(
            OneSourceGroup(
                int(k), int(source), members[group], place, likeness, size, shift
            )
        )
    return sorted(found, key=lambda g: -g.likeness)


class _OtherClasses:
    """The rows of a class, whitened by the covariance of the others.

    Its own rows stay out of the covariance: a large displaced group would hide in it.
    """

    def __init__(self, X, y, k):
        self.k = k
        self.codes = np.unique(y)
        means = np.stack([X[y == j].mean(axis=0) for j in self.codes])
        outside = y != k
        place = np.searchsorted(self.codes, y[outside])
        covariance = shrunk_covariance(X[outside] - means[place])
        factor = _root(covariance)
        whiten = solve_triangular(factor, np.eye(len(factor)), lower=True).T
        whiten = whiten.astype(X.dtype)
        self.rows = X[y == k] @ whiten
        self.means = means @ whiten
        self.counts = np.bincount(place, minlength=len(self.codes))

    @property
    def sources(self):
        return np.flatnonzero(self.codes != self.k)

    def place(self, group):
        """The nearest class and the position towards it, None unless all fits."""
        rest = self.rows[~group].mean(axis=0)
        center = self.rows[group].mean(axis=0)
        # What the means' own noise adds to squared distances is taken off.
        d, noise = len(rest), 1 / group.sum()
        noise_rest = 1 / (~group).sum()
        distances = np.square(center - self.means).sum(axis=1) - d * noise
        source = self.sources[distances[self.sources].argmin()]
        apart = np.square(self.means[source] - rest).sum() - d * noise_rest
        offset = np.square(center - rest).sum() - d * (noise + noise_rest)
        moved = distances[source]
        if apart <= 0 or moved < REACH**2:
            return None
        place = (offset + apart - moved) / (2 * apart)
        if not PLACE[0] < place < PLACE[1]:
            return None
        return self.codes[source], float(place)

    def carries(self, group, source):
        """Rows that more probably carry a part of the group's shift than not."""
        place = np.searchsorted(self.codes, source)
        shift = self.rows[group].mean(axis=0) - self.means[place]
        own = np.searchsorted(self.codes, self.k)
        means = self.means.copy()
        means[own] = self.rows[~group].mean(axis=0)
        counts = np.where(np.arange(len(means)) == place, 1.0, 1e-9)
        posterior, _ = graded_posterior(self.rows, means, own, shift, counts)
        return posterior > 0.5


def _candidates(space, folds, least, seed):
    """Clouds of a Gaussian mixture, from several starts; at most half of the rows."""
    sources = space.means[space.sources]
    prior = np.ones(len(sources))
    mixture = ClassMixture(space.rows, sources, prior, folds)
    taken: list[np.ndarray] = []
    for start in _starts(space, seed):
        for cloud in mixture.fit(start).natural > 0.5:
            size = cloud.sum()
            if size < least or 2 * size > len(cloud):
                continue
            if all((cloud != other).mean() > 0.01 for other in taken):
                taken.append(cloud)
    return taken


def _starts(space, seed):
    own = int(np.searchsorted(space.codes, space.k))
    other = suspicion(space.rows, space.means, own)
    yield np.stack([1 - other, other])
    centred = space.rows - space.rows.mean(axis=0)
    # Clusters along the directions in which the class scatters most.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = centred @ vectors[:, -_N_DIRECTIONS:]
    for n_clusters in _CLUSTERS:
        clusters = KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(leading)
        hard = np.eye(n_clusters, dtype=space.rows.dtype)[clusters].T
        yield 0.98 * hard + 0.02 / n_clusters


def scatter_likeness(group, source, rest, *, seed=0):
    """Whether rows scatter about their mean as one set of rows or as another.

    Two normal laws with the covariances of one half of ``source`` and of ``rest``; each
    set may scale them. The mean difference of their log densities, set to 1 for
    the other half of ``source`` and to 0 for the other half of ``rest``.

    Parameters
    ----------
    group : ndarray of shape (n_rows, n_features)
        Rows in question.
    source, rest : ndarray of shape (n_other_rows, n_features)
        Rows of the other class and of the group's own class.
    seed : int, default=0
        Draws the halves, of equal size.

    Returns
    -------
    likeness : float
        Minus infinity where the two covariances cannot be told apart.
    size : float
        Mean squared deviation of the rows in the metric of ``source``, over that of
        its other half.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.one_source import scatter_likeness
    >>> rng = np.random.default_rng(0)
    >>> wide, tall = [3, 1], [1, 3]
    >>> source, rest = (rng.normal(size=(400, 2)) * s for s in (wide, tall))
    >>> group = rng.normal(size=(200, 2)) * wide / 2 + 50
    >>> likeness, size = scatter_likeness(group, source, rest)
    >>> round(likeness), round(size, 1)
    (1, 0.3)
    """
    rng = np.random.default_rng(seed)
    half = min(len(source), len(rest), 2 * _MOST_ROWS) // 2
    if half < 10:
        return -np.inf, 0.0
    source = source[rng.permutation(len(source))]
    rest = rest[rng.permutation(len(rest))]
    laws = [_CentredNormal(part[:half]) for part in (source, rest)]

    def difference(rows):
        of_source, of_rest = (law.log_density(rows)[0] for law in laws)
        return of_source - of_rest

    ends = [difference(part[half : 2 * half]) for part in (rest, source)]
    span = ends[1].mean() - ends[0].mean()
    noise = np.sqrt(sum(end.var() / len(end) for end in ends))
    if span <= 4 * noise:
        return -np.inf, 0.0
    likeness = (difference(group).mean() - ends[0].mean()) / span
    scales = [laws[0].log_density(rows)[1] for rows in (group, source[half : 2 * half])]
    return float(likeness), float(scales[0] / scales[1])


def _root(covariance):
    """Lower root of a covariance; rows without any spread have that of the identity."""
    ridge = 1e-8 * covariance.trace()
    covariance.flat[:: len(covariance) + 1] += ridge if ridge > 0 else 1.0
    return cholesky(covariance, lower=True)


class _CentredNormal:
    """Normal law about a sample's mean, with shrunk covariance up to a scale."""

    def __init__(self, rows):
        rows = np.asarray(rows, dtype=np.float64)
        covariance = shrunk_covariance(rows - rows.mean(axis=0))
        self.factor = _root(covariance)
        self.log_root = np.log(np.diag(self.factor)).sum()

    def log_density(self, rows):
        """Of rows about their own mean, at the scale that suits them; the scale."""
        rows = np.asarray(rows, dtype=np.float64)
        standard = solve_triangular(
            self.factor, (rows - rows.mean(axis=0)).T, lower=True
        )
        lengths, d = np.square(standard).sum(axis=0), rows.shape[1]
        # The mean is the rows' own: one degree of freedom less.
        scale = max(lengths.sum() / d / max(len(rows) - 1, 1), 1e-12)
        density = -0.5 * lengths / scale - 0.5 * d * np.log(scale) - self.log_root
        return density, scale
