"""The rows whose clean label an E-step may change, told from the others at little cost.

At the potentials of the E-step before, most rows prefer the label they were given there
by so wide a margin that no potential in reach would change it. To know that, only this
label's joint probability is needed exactly; an upper bound will do for all others. The
other rows are all that the transport problem has to look at, and all whose joint
probabilities need be known throughout.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from skvibe._row_pass import FINAL_PRECISION
from skvibe._settled_rows import RowsAside

# How far potentials may move apart from one E-step to the next, in nats; fewer would
# leave hardly fewer rows.
_RADIUS = 100.0
# Rounding of log-probabilities in single precision, whose logits are up to hundreds.
_ROUNDING = 1e-3


@dataclass
class UnsettledRows:
    """Parts of a transport problem.

    Attributes
    ----------
    log_p : torch.Tensor of shape (n_left, n_classes)
        Joint log-probabilities of the rows left.
    places : torch.Tensor of int64 of shape (n_left,)
        Their row numbers.
    aside : RowsAside
        Sums over the others.
    """

    log_p: torch.Tensor
    places: torch.Tensor
    aside: RowsAside


class Screen:
    """Tells the rows of one block after another apart.

    Parameters
    ----------
    lam : float
        Inverse temperature.
    potentials : ndarray of shape (n_classes,)
        Of the E-step before.

    Examples
    --------
    >>> import torch
    >>> from skvibe._unsettled_rows import Screen
    >>> screen = Screen(25.0, [0.0, 0.0])
    >>> own, labels = torch.tensor([-0.1, -0.1]), torch.tensor([0, 1])
    >>> bound = torch.tensor([[0.0, -9.0], [-0.5, 0.0]])
    >>> screen.pick(own, bound, labels)
    tensor([1])
    """

    def __init__(self, lam, potentials):
        self.lam = lam
        self.potentials = np.asarray(potentials, dtype=np.float64)
        n_classes = len(self.potentials)
        self.shift = torch.from_numpy(self.potentials / lam).float()
        width = math.log(n_classes / FINAL_PRECISION)
        self.margin = (_RADIUS + width) / lam + _ROUNDING
        none = np.zeros(n_classes)
        self.aside = RowsAside(lam, self.potentials, _RADIUS, none, 0.0)
        self.places, self.log_p = [], []

    def pick(self, own, bound, labels):
        """Numbers of the rows of a block that are not settled; puts the others aside.

        Parameters
        ----------
        own : torch.Tensor of shape (n,)
            Joint log-probability of each row's label.
        bound : torch.Tensor of shape (n, n_classes)
            Upper bounds of all labels'. Written over.
        labels : torch.Tensor of int64 of shape (n,)
            The rows' labels.
        """
        own = own + self.shift[labels]
        bound.add_(self.shift).scatter_(1, labels[:, None], -torch.inf)
        settled = (bound.amax(dim=1) < own - self.margin).numpy()
        n_classes = len(self.potentials)
        self.aside.counts += np.bincount(labels.numpy()[settled], minlength=n_classes)
        self.aside.value += self.lam * own.numpy()[settled].sum(dtype=np.float64)
        return torch.from_numpy(np.flatnonzero(~settled))

    def keep(self, places, log_p):
        """Keep rows that are left."""
        self.places.append(places)
        self.log_p.append(log_p)

    def finish(self):
        """What was found, the rows left in one piece."""
        return UnsettledRows(_join(self.log_p), _join(self.places), self.aside)


def in_groups(parts, size):
    """Join what is known of few rows into groups of ``size`` and more.

    Parameters
    ----------
    parts : iterable of tuple
        Tensors with as many rows, or None in the place of one.
    size : int
        Number of rows.

    Yields
    ------
    tuple
        Of the same kind; the last one may have fewer rows.

    Examples
    --------
    >>> import torch
    >>> from skvibe._unsettled_rows import in_groups
    >>> parts = [(torch.tensor([i]), None) for i in range(3)]
    >>> list(in_groups(parts, 2))
    [(tensor([0, 1]), None), (tensor([2]), None)]
    """
    waiting, n_rows = [], 0
    for part in parts:
        waiting.append(part)
        n_rows += len(part[0])
        if n_rows >= size:
            yield tuple(_join(pieces) for pieces in zip(*waiting, strict=True))
            waiting, n_rows = [], 0
    if waiting:
        yield tuple(_join(pieces) for pieces in zip(*waiting, strict=True))


def _join(pieces):
    first = pieces[0]
    if first is None or len(pieces) == 1:
        return first
    if first.ndim == 2 and first.stride(0) == 1:  # classes along the first axis
        return torch.cat([piece.T for piece in pieces], dim=1).T
    return torch.cat(pieces)
