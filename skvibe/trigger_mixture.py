"""Mixtures for the rows of one given label, in whitened space.

Natural rows form clouds with free centres, label noise sits at the means of the other
classes, and a trigger moves rows of the other classes by one common vector. NumPy only;
`skvibe.triggers` fits these mixtures to every class and compares them.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def shrunk_covariance(residuals):
    """Covariance of centred rows, shrunk to a multiple of the identity.

    The shrinkage of Ledoit and Wolf, as in `sklearn.covariance.ledoit_wolf` but with
    one matrix product instead of two.

    Parameters
    ----------
    residuals : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of float64 of shape (n_features, n_features)

    References
    ----------
    .. [1] O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional
       covariance matrices", J. Multivar. Anal. 88 (2004),
       doi:10.1016/S0047-259X(03)00096-4.
    """
    n, d = residuals.shape
    covariance = (residuals.T @ residuals).astype(np.float64) / n
    mean_variance = np.trace(covariance) / d
    squared_norm = np.square(covariance).sum()
    dispersion = squared_norm - d * mean_variance**2
    lengths = np.einsum("ij,ij->i", residuals, residuals).astype(np.float64)
    error = (np.square(lengths).mean() - squared_norm) / n
    share = 0.0 if dispersion <= 0 else min(max(error, 0.0) / dispersion, 1.0)
    covariance *= 1 - share
    covariance.flat[:: d + 1] += share * mean_variance
    return covariance


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
        the shrinkage); ``unwhiten`` is the inverse.
    """
    values, vectors = np.linalg.eigh(shrunk_covariance(residuals))
    # Constant or collinear features have no spread to divide by.
    scale = np.sqrt(np.maximum(values, max(values[-1], 1e-12) * 1e-8))
    whiten = (vectors / scale) @ vectors.T
    unwhiten = (vectors * scale) @ vectors.T
    return whiten.astype(residuals.dtype), unwhiten.astype(residuals.dtype)


@dataclass
class MixtureFit:
    """One fitted mixture; rows in the order given, components first.

    Attributes
    ----------
    log_density : ndarray of shape (n_rows,)
        Of each row under parameters estimated without the row's fold.
    natural : ndarray of shape (n_clouds, n_rows)
        Posterior of each cloud of correctly labelled rows.
    moved : ndarray of shape (n_sources, n_rows)
        Posterior of being a row of each source class, moved by the trigger.
    noise : ndarray of shape (n_sources, n_rows)
        Posterior of being an unmoved row of each source class (label noise).
    centers : ndarray of shape (n_clouds, n_features)
        Centres of the clouds.
    shift : ndarray of shape (n_features,)
        Displacement of the moved rows, zero in a mixture without them.
    """

    log_density: np.ndarray
    natural: np.ndarray
    moved: np.ndarray
    noise: np.ndarray
    centers: np.ndarray
    shift: np.ndarray

    @property
    def group(self):
        """Posterior of being moved, whatever the source: shape (n_rows,)."""
        return self.moved.sum(axis=0)


class ClassMixture:
    """Expectation-maximisation for the rows that share one given label.

    Every covariance is the identity. Free centres and the shift are cross-fitted: a row
    is never scored by parameters it helped to estimate, otherwise in hundreds of
    dimensions each row would confirm itself.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        Whitened rows.
    sources : ndarray of shape (n_sources, n_features)
        Means of the other classes.
    prior : ndarray of shape (n_sources,)
        Share of each source class among the moved rows. Fixed: left free, one
        source could stand for any natural cloud.
    folds : ndarray of int of shape (n_rows,)
        Cross-fitting fold of each row; duplicates share one.
    """

    def __init__(self, rows, sources, prior, folds):
        # Rows of a fold are made contiguous, so that sums over folds are views.
        self._order = np.argsort(folds, kind="stable")
        self._rows = np.ascontiguousarray(rows[self._order])
        changes = np.flatnonzero(np.diff(folds[self._order])) + 1
        edges = [0, *changes.tolist(), len(rows)]
        self._slices = [slice(a, b) for a, b in pairwise(edges)]
        self._fold = np.repeat(np.arange(len(self._slices)), np.diff(edges))
        self._sources = sources
        log_prior = np.log(prior / prior.sum()).astype(rows.dtype)
        self._log_prior = log_prior[:, None]
        self._square = 0.5 * np.einsum("ij,ij->i", self._rows, self._rows)
        offset = 0.5 * np.einsum("ij,ij->i", sources, sources)
        self._to_sources = sources @ self._rows.T - offset[:, None] - self._square

    def fit(self, natural, group=None, max_iter=25, tol=1e-4):
        """Fit from given responsibilities.

        Parameters
        ----------
        natural : ndarray of shape (n_clouds, n_rows)
            First guess of the posterior of each natural cloud.
        group : ndarray of shape (n_rows,) or None
            First guess of the posterior of being moved; None leaves such rows out
            of the mixture.
        max_iter : int, default=25
            Largest number of iterations.
        tol : float, default=1e-4
            Stop when the mean log density gains less.

        Returns
        -------
        MixtureFit
            The mixture after the last iteration.
        """
        n, m = len(self._rows), len(self._sources)
        natural = natural[:, self._order]
        n_clouds = len(natural)
        moved = None
        if group is not None:
            split = normalise(self._to_sources + self._log_prior)[1]
            moved = split * group[self._order]
        weights = self._log_weights(natural, moved, np.full((m, 1), 0.01 * n / m))
        last = -np.inf
        for _ in range(max_iter):
            centers, shift = self._estimate(natural, moved)
            joint = self._log_densities(centers, shift)
            joint += weights
            log_density, posterior = normalise(joint)
            natural, noise = posterior[:n_clouds], posterior[-m:]
            if moved is not None:
                moved = posterior[n_clouds:-m]
            weights = self._log_weights(natural, moved, noise)
            total = float(log_density.sum(dtype=np.float64))
            if abs(total - last) < tol * n:
                break
            last = total
        back = np.argsort(self._order)
        return MixtureFit(
            log_density=log_density[back],
            natural=natural[:, back],
            moved=np.zeros_like(noise) if moved is None else moved[:, back],
            noise=noise[:, back],
            centers=centers.mean(axis=0),
            shift=np.zeros_like(self._rows[0]) if shift is None else shift.mean(axis=0),
        )

    def reach_contrast(self, fit, reach):
        """Log density of the moved rows, less that of rows moved by ``reach`` only.

        Parameters
        ----------
        fit : MixtureFit
            With moved rows.
        reach : float
            Largest displacement, in within-class standard deviations, that label
            noise is granted. A shorter shift gives differences of zero.

        Returns
        -------
        ndarray of shape (n_rows,)
            Weighted by the posterior of being moved.
        """
        moved = fit.moved[:, self._order]
        shift = self._shift(moved, *self._sums_without_fold(moved.sum(axis=0)[None]))
        length = np.linalg.norm(shift, axis=1, keepdims=True)
        near = shift * np.minimum(1.0, reach / np.maximum(length, 1e-9))
        far_density, near_density = (
            normalise(
                self._from_shift(v, self._products(v[:, None])) + self._log_prior
            )[0]
            for v in (shift, near)
        )
        difference = np.empty(moved.shape[1])
        difference[self._order] = moved.sum(axis=0) * (far_density - near_density)
        return difference

    def _log_weights(self, natural, moved, noise):
        # Half a row, spread over the sources, keeps every component alive.
        counts = [natural.sum(axis=1), noise.sum(axis=1) + 0.5 / len(noise)]
        if moved is not None:
            counts.insert(1, (moved.sum() + 0.5) * np.exp(self._log_prior[:, 0]))
        counts = np.maximum(np.concatenate(counts), 1e-12)
        return np.log(counts / counts.sum()).astype(self._rows.dtype)[:, None]

    def _sums_without_fold(self, weights):
        """Weighted sums of rows and of weights over the rows outside each fold."""
        # Vector by vector: products with two or three at once are slower.
        sums = np.stack([[w[s] @ self._rows[s] for w in weights] for s in self._slices])
        return _outside(sums), self._mass_without_fold(weights)

    def _mass_without_fold(self, weights):
        return _outside(np.stack([weights[:, s].sum(axis=1) for s in self._slices]))

    def _estimate(self, natural, moved):
        """Centres of the clouds and the shift, from one pass over the rows."""
        if moved is None:
            return self._centers(*self._sums_without_fold(natural)), None
        weights = np.concatenate([natural, moved.sum(axis=0)[None]])
        sums, mass = self._sums_without_fold(weights)
        centers = self._centers(sums[:, :-1], mass[:, :-1])
        return centers, self._shift(moved, sums[:, -1:], mass[:, -1:])

    def _centers(self, sums, mass):
        """Mean of the first cloud; the others' are shrunk towards it."""
        first = sums[:, 0] / np.maximum(mass[:, :1], 1e-9)
        centers = [first]
        for c in range(1, sums.shape[1]):
            offset = sums[:, c] - mass[:, c, None] * first
            centers.append(first + _shrunk_mean(offset, mass[:, c, None]))
        return np.stack(centers, axis=1)

    def _shift(self, moved, sums, mass):
        """Shrunk mean of (row - its source's mean), one for each fold."""
        total = sums[:, 0] - self._mass_without_fold(moved) @ self._sources
        return _shrunk_mean(total, mass)

    def _log_densities(self, centers, shift):
        """Of every component, from one pass over the rows."""
        if shift is None:
            scores = self._from_centers(centers, self._products(centers))
            return np.concatenate([scores, self._to_sources])
        products = self._products(np.concatenate([centers, shift[:, None]], axis=1))
        return np.concatenate(
            [
                self._from_centers(centers, products[:-1]),
                self._from_shift(shift, products[-1:]),
                self._to_sources,
            ]
        )

    def _products(self, vectors):
        """Inner products of each row with the vectors of its fold."""
        out = np.empty((vectors.shape[1], len(self._rows)), self._rows.dtype)
        for s, of_fold in zip(self._slices, vectors, strict=True):
            for place, vector in enumerate(of_fold):
                out[place, s] = self._rows[s] @ vector
        return out

    def _from_centers(self, centers, products):
        offset = 0.5 * np.square(centers).sum(axis=2)
        return products - offset.T[:, self._fold] - self._square

    def _from_shift(self, shift, products):
        # -|x - mu - v|^2 / 2 = -|x - mu|^2 / 2 + x.v - mu.v - |v|^2 / 2
        fixed = shift @ self._sources.T + 0.5 * np.square(shift).sum(axis=1)[:, None]
        return self._to_sources + (products - fixed.T[:, self._fold])


def normalise(joint):
    """Log-sum-exp and softmax over the first axis.

    Parameters
    ----------
    joint : ndarray of shape (n_components, n_rows)

    Returns
    -------
    log_density : ndarray of shape (n_rows,)
    posterior : ndarray of shape (n_components, n_rows)
    """
    top = joint.max(axis=0)
    posterior = np.exp(joint - top)
    total = posterior.sum(axis=0)
    posterior /= total
    return np.log(total) + top, posterior


def _shrunk_mean(total, mass):
    """Mean of ``mass`` observations with unit covariance, shrunk towards zero.

    The prior is isotropic with the variance the estimate itself suggests (empirical
    Bayes), so what is only estimation noise is drawn to zero.
    """
    mass = np.maximum(mass, 1e-9)
    noise = total.shape[1] / mass
    signal = np.square(total / mass).sum(axis=1, keepdims=True) - noise
    return total / (mass + total.shape[1] / np.maximum(signal, 1e-3 * noise))


def _outside(of_folds):
    """Sums over the other folds from sums over each fold (of one: itself)."""
    if len(of_folds) == 1:
        return of_folds
    return of_folds.sum(axis=0) - of_folds
