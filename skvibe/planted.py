"""Doubted rows of a class that look planted: all displaced the same way.

EM doubts two kinds of rows: hard ones, which lie between their class and another, and
poisoned ones, which carry a trigger. In the space in which the trusted rows of every
class scatter equally in all directions, hard rows lie along the differences of the
class means. With these directions taken out nothing that they share is left, but a
trigger is: it moves every row that carries it the same way. How far the doubted rows of
a class agree is therefore evidence for or against a trigger, at the cost of one
covariance matrix.

References
----------
.. [1] S. X. Chen, Y.-L. Qin, "A two-sample test for high-dimensional data with
   applications to gene-set testing", Annals of Statistics 38 (2010),
   doi:10.1214/09-AOS716 (the mean of the inner products of distinct rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from skvibe._class_means import class_means_of
from skvibe.whitening import along_directions, principal_directions

# Doubted rows agree from here on, in standard deviations of the trusted rows of their
# class. Measured on TREC-6, AG News, CIFAR-10 features and digits: hard rows 0.5 to 2,
# in single classes 2.5; rows with a trigger 2 to 12.
_AGREEMENT = 2.0
# And beyond what is left to chance: so many standard deviations of the squared length.
_CHANCE = 3.0
# Share of the mean variance added to that of every direction.
_SHRINKAGE = 0.1
# Fewer doubted rows than this agree or not by chance.
_FEWEST = 2
# What rounding leaves of a space that was taken out as a whole.
_NOTHING = 1e-9
_BLOCK = 4096


@dataclass
class SharedDisplacement:
    """How far the doubted rows of each class are displaced the same way.

    Parameters
    ----------
    agreement : ndarray of float64 of shape (n_classes,)
        Length of the displacement that doubted rows share, in standard deviations of
        trusted rows; negative where they share less than chance would give.
    suspicious : ndarray of bool of shape (n_classes,)
        Whether it is beyond what hard rows and chance explain.
    projections : ndarray of float64 of shape (n_rows,)
        Of each row on the displacement of its class, in standard deviations of the
        trusted rows of that class along it; a doubted row does not count for its own
        direction.
    """

    agreement: np.ndarray
    suspicious: np.ndarray
    projections: np.ndarray


def shared_displacement(
    features: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    trusted: np.ndarray,
    reference: np.ndarray,
    n_classes: int,
) -> SharedDisplacement:
    """Displacement that the doubted rows of each class share.

    Rows are centred by the mean of the trusted rows of their class and whitened by
    the pooled covariance within the classes; the directions of the differences of
    class means are taken out. The squared length of the shared displacement is the
    mean inner product of two distinct doubted rows [1]_, which is zero on average
    where they share none.

    Parameters
    ----------
    features : callable
        Gives the features, ndarray of shape (n, n_features), of the rows whose numbers
        it is called with.
    labels : ndarray of int of shape (n_rows,)
        Codes of the labels given.
    trusted : ndarray of bool of shape (n_rows,)
        Rows whose label is believed; the others are doubted.
    reference : ndarray of int
        Numbers of the trusted rows that the covariance is measured on.
    n_classes : int
        Number of classes.

    Returns
    -------
    SharedDisplacement
        Nothing is suspicious in a class of fewer than two trusted rows, of fewer than
        two doubted ones, or where trusted rows do not scatter, or only along the
        directions between class means.

    References
    ----------
    .. [1] S. X. Chen, Y.-L. Qin, Annals of Statistics 38 (2010),
       doi:10.1214/09-AOS716.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.planted import shared_displacement
    >>> rng = np.random.default_rng(0)
    >>> X, labels = rng.normal(size=(400, 10)), np.repeat([0, 1], 200)
    >>> doubted = np.arange(400) % 20 == 0
    >>> X[doubted & (labels == 1), 3] += 8
    >>> found = shared_displacement(
    ...     X.__getitem__, labels, ~doubted, np.flatnonzero(~doubted), 2
    ... )
    >>> found.suspicious
    array([False,  True])
    >>> int(found.agreement[1].round())
    7
    """
    n_rows = len(labels)
    found = SharedDisplacement(
        np.zeros(n_classes), np.zeros(n_classes, dtype=bool), np.zeros(n_rows)
    )
    counts = np.bincount(labels[trusted], minlength=n_classes)
    doubts = np.bincount(labels[~trusted], minlength=n_classes)
    classes = np.flatnonzero((counts > 1) & (doubts >= _FEWEST))
    if not len(classes):
        return found
    means = _class_means(features, labels, np.flatnonzero(trusted), n_classes)
    space = _within_class_space(features(reference), means, labels[reference], counts)
    if space is None:
        return found
    for code in classes:
        rows = np.flatnonzero((labels == code) & ~trusted)
        total, squares = space.sums(features, rows, means[code])
        n, length = len(rows), float(total @ total)
        shared = (length - squares.sum()) / (n * (n - 1))
        # Doubted rows scatter more than those that the space was made of, and the mean
        # that they are centred by is not exact either.
        spread = max(squares.mean() - shared, space.size)
        squared = shared - spread / counts[code]
        found.agreement[code] = np.sign(squared) * np.sqrt(abs(squared))
        chance = _CHANCE * space.noise * (spread / space.size) / n
        found.suspicious[code] = squared > _AGREEMENT**2 + chance
        if not found.suspicious[code]:
            continue
        own = np.flatnonzero((labels == code) & trusted)
        along = space.inner_products(features, own, means[code], total)
        along /= np.sqrt(length)
        middle = np.median(along)
        scale = 1.4826 * np.median(np.abs(along - middle))
        scale = max(scale, np.finfo(float).tiny)
        found.projections[own] = (along - middle) / scale
        # Each doubted row on the sum of the others.
        inner = space.inner_products(features, rows, means[code], total)
        others = np.sqrt(np.maximum(length - 2 * inner + squares, 1e-300))
        found.projections[rows] = ((inner - squares) / others - middle) / scale
    return found


@dataclass
class _Space:
    """Whitened within the classes, without the directions between them."""

    change: Callable[[np.ndarray], np.ndarray]  # added to rows
    outside: float  # what all is multiplied by then
    between: np.ndarray  # orthonormal rows, in the whitened space
    size: float  # expected squared length of a trusted row
    noise: float  # standard deviation of the inner product of two, times sqrt(2)

    def whiten(self, rows):
        return (rows + self.change(rows)) * self.outside

    def sums(self, features, rows, mean):
        """Sum of the rows in this space, and the squared length of each."""
        total, squares = np.zeros(len(mean)), np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            inside = self.whiten(features(rows[block]) - mean)
            inside -= (inside @ self.between.T) @ self.between
            total += inside.sum(axis=0)
            squares[block] = (inside * inside).sum(axis=1)
        return total, squares

    def inner_products(self, features, rows, mean, total):
        """Inner product of each row with a sum of rows of this space."""
        # The whitening is symmetric: it may be applied to the sum instead.
        direction = self.whiten(total)
        out = np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = (features(rows[block]) - mean) @ direction
        return out


def _class_means(features, labels, rows, n_classes):
    starts = range(0, len(rows), _BLOCK)
    blocks = (rows[start : start + _BLOCK] for start in starts)
    pairs = (
        (torch.from_numpy(features(b)), torch.from_numpy(labels[b])) for b in blocks
    )
    return class_means_of(pairs, n_classes).numpy()


def _within_class_space(rows, means, labels, counts):
    """From trusted rows; None where they do not scatter, or only between classes."""
    residuals = torch.from_numpy(rows - means[labels])
    n_features = residuals.shape[1]
    origin = torch.zeros(n_features, dtype=torch.float64)
    values, directions = (
        part.numpy() for part in principal_directions(residuals, origin)
    )
    added = _SHRINKAGE * values.sum() / n_features
    if not added > 0:
        return None
    kept = values / (values + added)  # variance in the whitened space
    space = _Space(
        along_directions(directions, np.sqrt(added / (values + added)) - 1),
        1 / np.sqrt(added),
        np.zeros((0, n_features)),
        0.0,
        0.0,
    )
    known = counts > 0
    centre = means[known].mean(axis=0)
    whitened = space.whiten(means[known] - centre)
    _, lengths, between = np.linalg.svd(whitened, full_matrices=False)
    space.between = between[lengths > 1e-8 * max(lengths[0], 1e-300)]
    taken_out = float(((space.between @ directions.T) ** 2 @ kept).sum())
    space.size = float(kept.sum()) - taken_out
    if space.size < _NOTHING * kept.sum():
        return None
    space.noise = float(np.sqrt(2 * (kept**2).sum()))
    return space
