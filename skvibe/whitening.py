"""Shrunk whitening: the feature space in which one set of constants fits all data.

Foundation embeddings, pixels and kernel maps differ widely in how much of a feature
vector is common to all rows and in how few directions the rest varies. On the raw
vectors the prototypes of EM are then drawn to whatever separates rows best, which is
often the trigger. After centring and scaling every direction by the spread of *all*
rows along it, classes point in different directions, and a trigger, which adds spread
of its own, is scaled down. Labels are not used, so poisoned ones cannot steer it.

Directions of little spread are noise and would be blown up; the shrinkage adds a share
of the mean variance to every direction's before it is divided by.

References
----------
.. [1] O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional
   covariance matrices", Journal of Multivariate Analysis 88 (2004),
   doi:10.1016/S0047-259X(03)00096-4 (the shrunk covariance).
"""

from dataclasses import dataclass

import torch

from skvibe.posteriors import unit_rows

_BLOCK = 4096
# Rows mapped at a time: there are several arrays of them.
_MAPPED = 1024
# Eigenvalues below this share of the largest are rounding errors.
_RANK_TOL = 1e-12


@dataclass
class Whitening:
    """An affine map of unit vectors, kept as few directions and one common scale.

    Parameters
    ----------
    mean : torch.Tensor of float64 of shape (n_features,)
        Subtracted first.
    directions : torch.Tensor of float64 of shape (n_directions, n_features)
        Orthonormal rows: principal directions of the rows it was fitted to.
    scales : torch.Tensor of float64 of shape (n_directions,)
        Factor along each direction, largest 1. What lies outside the directions is
        scaled by 1.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    scales: torch.Tensor

    def __call__(self, features, out=None):
        """Whitened unit vectors.

        Parameters
        ----------
        features : torch.Tensor of shape (n_rows, n_features)
            Unit vectors, float32 or float64; worked on in that type.
        out : torch.Tensor of shape (n_rows, n_features), default=None
            Where to write; may be ``features`` itself. None makes a new one.

        Returns
        -------
        torch.Tensor of shape (n_rows, n_features)
            Of the same dtype, unit length; a row equal to the mean stays zero.
        """
        out = torch.empty_like(features) if out is None else out
        change = self._change(features.dtype)
        for start in range(0, len(features), _MAPPED):
            block = slice(start, start + _MAPPED)
            centred = _centred(features[block], self.mean)
            out[block] = unit_rows(centred.add_(change(centred)))
        return out

    def _change(self, dtype):
        """What is added to centred rows of a type; made once."""
        made = self.__dict__.setdefault("_made", {})
        if dtype not in made:
            directions, factors = self.directions.to(dtype), self.scales.to(dtype) - 1
            made[dtype] = along_directions(directions, factors)
        return made[dtype]


def along_directions(directions, factors):
    """The parts of rows along some directions, each multiplied by its factor.

    Parameters
    ----------
    directions : ndarray or torch.Tensor of shape (n_directions, n_features)
        Orthonormal rows.
    factors : ndarray or torch.Tensor of shape (n_directions,)
        Factor along each; of the same kind and dtype.

    Returns
    -------
    callable
        From rows, of shape (n_rows, n_features) or (n_features,), to the sum of their
        parts, of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.whitening import along_directions
    >>> along_directions(np.eye(3)[:2], np.array([10.0, -1.0]))(np.ones(3))
    array([10., -1.,  0.])
    """
    there = directions.T * factors
    if 2 * len(directions) > directions.shape[1]:
        both = there @ directions  # one product a row instead of two
        return lambda rows: rows @ both
    return lambda rows: (rows @ there) @ directions


@dataclass
class Spread:
    """Centre and principal directions of rows: what a whitening is made of.

    Parameters
    ----------
    mean : torch.Tensor of float64 of shape (n_features,)
        Of the rows.
    values : torch.Tensor of float64 of shape (n_directions,)
        Variances along the directions, ascending; zero along all others.
    directions : torch.Tensor of float64 of shape (n_directions, n_features)
        Orthonormal rows.
    """

    mean: torch.Tensor
    values: torch.Tensor
    directions: torch.Tensor

    def whitening(self, shrinkage):
        """Whitening that shrinks the covariance as `shrunk_whitening` says.

        Parameters
        ----------
        shrinkage : float
            Share of the mean variance added to every direction, > 0.

        Returns
        -------
        Whitening
            To be called with rows.
        """
        values, directions = self.values, self.directions
        added = shrinkage * values.sum() / len(self.mean)
        if not added > 0:  # all rows are equal: nothing to scale by
            return Whitening(self.mean, directions[:0], values[:0])
        # Relative to the directions without any spread; a common factor does not
        # matter.
        return Whitening(self.mean, directions, (added / (values + added)).sqrt())


def spread_of(features):
    """Centre and principal directions of rows.

    Parameters
    ----------
    features : torch.Tensor of shape (n_rows, n_features)
        Unit vectors.

    Returns
    -------
    Spread
        Time is of order n_rows * n_features * m + m ** 3 with m the smaller of the two.

    Examples
    --------
    >>> import torch
    >>> from skvibe.whitening import spread_of
    >>> spread = spread_of(torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    >>> spread.mean.tolist(), spread.directions.abs().tolist()
    ([1.0, 0.0], [[1.0, 0.0]])
    """
    mean = _mean(features)
    return Spread(mean, *principal_directions(features, mean))


def shrunk_whitening(features, shrinkage):
    """Whitening by the shrunk covariance of all rows.

    With the covariance S of the rows and the mean t of its diagonal, vectors are
    centred, multiplied by ``(S + shrinkage * t * I) ** -0.5`` and scaled to unit
    length.

    Parameters
    ----------
    features : torch.Tensor of shape (n_rows, n_features)
        Unit vectors.
    shrinkage : float
        Share of the mean variance added to every direction, > 0. Large values only
        centre.

    Returns
    -------
    Whitening
        To be called with rows.

    See Also
    --------
    spread_of : The larger part of the work, for more than one shrinkage.

    Examples
    --------
    >>> import torch
    >>> from skvibe.whitening import shrunk_whitening
    >>> rows = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.9, 0.1], [0.9, -0.1]])
    >>> rows = torch.nn.functional.normalize(rows, dim=1)
    >>> shrunk_whitening(rows, 1e-6)(rows).abs().mean(dim=0).round(decimals=1)
    tensor([0.7000, 0.7000])
    """
    return spread_of(features).whitening(shrinkage)


def _mean(features):
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for block in features.split(_BLOCK):
        total += block.double().sum(dim=0)
    return total / len(features)


def principal_directions(features, mean):
    """Eigenvalues and -vectors of the covariance that are not zero.

    Parameters
    ----------
    features : torch.Tensor of shape (n_rows, n_features)
        Rows.
    mean : torch.Tensor of float64 of shape (n_features,)
        Taken off first.

    Returns
    -------
    values : torch.Tensor of float64 of shape (n_directions,)
        Variances, ascending.
    directions : torch.Tensor of float64 of shape (n_directions, n_features)
        Orthonormal rows.

    Examples
    --------
    >>> import torch
    >>> from skvibe.whitening import principal_directions
    >>> rows = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-2.0, 0.0]])
    >>> values, directions = principal_directions(rows, torch.zeros(2).double())
    >>> values.tolist(), directions.abs().tolist()
    ([4.0], [[1.0, 0.0]])
    """
    n_rows, n_features = features.shape
    if n_rows < n_features:
        # The Gram matrix has the same eigenvalues and is smaller.
        centred = features.double() - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T / n_rows)
        values, vectors = _positive(values, vectors)
        directions = vectors.T @ centred / (n_rows * values).sqrt()[:, None]
        return values, directions
    covariance = torch.zeros(
        (n_features, n_features), dtype=torch.float64, device=features.device
    )
    for block in features.split(_BLOCK):
        covariance += _outer(block.to(torch.float64, copy=True).sub_(mean))
    values, vectors = torch.linalg.eigh(covariance / n_rows)
    values, vectors = _positive(values, vectors)
    return values, vectors.T.contiguous()


def _outer(rows):
    """``rows.T @ rows``."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    # NumPy has the half of it computed that is not the other's mirror image.
    rows = rows.numpy()
    return torch.from_numpy(rows.T @ rows)


def _centred(rows, mean):
    """Rows less the mean, within the rounding of the difference, and a copy.

    What rows have in common may be large beside it: in single precision the mean is
    taken off in two parts.
    """
    first = mean.to(rows.dtype)
    centred = rows - first
    if rows.dtype is not mean.dtype:
        centred.sub_((mean - first.to(mean.dtype)).to(rows.dtype))
    return centred


def _positive(values, vectors):
    kept = values > _RANK_TOL * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    return values[kept], vectors[:, kept]
