"""Rows that a transport problem need not look at again.

Near the solution most rows belong to one class by so wide a margin that no potential
in reach would change it. A pass that puts them aside leaves their sums behind, which
are linear in the potential: until the potentials have moved too far, further passes
visit the other rows only. Nothing is approximated beyond what a pass disregards anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

# How far potentials may move apart, in nats, before rows are looked through again;
# halved as long as more than this share of the rows would have to be kept.
FIRST_RADIUS = 32.0
LEAST_RADIUS = 4.0
MOST_KEPT = 0.2


class OutOfReach(Exception):
    """A potential at which rows put aside need not be settled any more."""


@dataclass
class Part:
    """The other rows of one block, and the classes of those put aside."""

    rows: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor
    start: int
    stop: int


@dataclass
class Settled:
    """Where rows were put aside, and how far that holds.

    Attributes
    ----------
    lam, potentials : float, ndarray of shape (K,)
        Where they were put aside.
    radius : float
        How far potentials may move apart from there, in nats.
    """

    lam: float
    potentials: np.ndarray
    radius: float

    def holds_at(self, lam: float, potentials: np.ndarray) -> bool:
        """Whether the rows put aside are settled at these potentials too."""
        return lam == self.lam and np.ptp(potentials - self.potentials) <= self.radius


@dataclass
class RowsAside(Settled):
    """Sums over rows that a transport problem never sees.

    Attributes
    ----------
    lam, potentials, radius
        All these rows belong to one class wherever potentials are, from
        ``potentials``, no more than ``radius`` apart.
    counts : ndarray of float64 of shape (K,)
        Rows by class.
    value : float
        Sum of their largest exponents, ``lam * log_p + potentials``.
    """

    counts: np.ndarray
    value: float

    def sums_at(self, potentials: np.ndarray) -> tuple[np.ndarray, float]:
        """Counts by class, and the sum of the largest exponents."""
        shift = potentials - self.potentials
        return self.counts, self.value + float(self.counts @ shift)


@dataclass
class SettledRows(Settled):
    """Sums over the rows put aside at a potential, and the rows that are left.

    Attributes
    ----------
    lam, potentials, radius
        As of `Settled`.
    counts : tensor of float64 of shape (K,)
        Rows put aside, by class.
    value : tensor of float64
        Sum of their largest exponents.
    parts : list of Part
        The rows left, block by block; see ``rest``.
    unread : callable or None
        Copies the rows left, where that is put off until they are wanted.
    """

    counts: torch.Tensor
    value: torch.Tensor
    parts: list[Part] = field(default_factory=list)
    unread: Callable[[], list[Part]] | None = None

    def sums_at(self, potentials: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts by class, and the sum of the largest exponents."""
        shift = torch.as_tensor(potentials - self.potentials).to(self.counts)
        return self.counts, self.value + self.counts @ shift

    def rest(self) -> list[Part]:
        """The rows left, block by block."""
        if self.unread is not None:
            self.parts, self.unread = self.unread(), None
        return self.parts

    def n_left(self) -> int:
        return sum(len(part.places) for part in self.rest())


def take_rows(block: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of a block, stored in the order in which the block is."""
    if block.stride(0) == 1:
        return block.T.index_select(1, places).T
    return block.index_select(0, places)
