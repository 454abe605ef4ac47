"""One pass over the rows of a transport problem: the only place where rows meet.

The dual of the transport problem has one unknown per class, the potential g. All
that a solver needs at a given g are means over rows, so a pass reads the matrix of
log-probabilities once, block by block, and returns about K^2 numbers. Rows shared out
over processes need nothing more than the sum of what each process's pass returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from skvibe._fused_pass import FusedPass, can_fuse
from skvibe._row_pass import RowPass, RowSums
from skvibe._settled_rows import (
    FIRST_RADIUS,
    LEAST_RADIUS,
    OutOfReach,
    RowsAside,
    SettledRows,
)


class RowSweep:
    """Means over the rows of a transport problem, as a function of the potential.

    Most rows of a sharp problem are *clear*: all classes but one share less than
    ``precision`` of the row's mass. A pass finds them in single precision, without
    an exponential, and counts them as one-hot; the others are gathered and computed
    in double precision. The column means are therefore within ``2 * precision`` (L1)
    of the exact ones, whatever the type of the data.

    A pass over all rows also puts aside those that will stay clear while the potentials
    move a little: passes near by visit the others only. (Plain operations on an
    accelerator do not; see `skvibe._fused_pass` for those that replace them.)

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns an iterable over tensors of shape (n, K), any n, which
        together are the rows of ``log_p``, the same in every call; called once a pass
        over all rows. They may be slices of one tensor or computed on the fly, so
        ``log_p`` need never be stored.
    n_rows : int
        Number of rows the means are taken over: those of all processes if the rows
        are shared out.
    lam : float
        Inverse temperature.
    precision : float, default=1e-12
        Share of a row's mass below which its other classes are disregarded.
    aside : RowsAside, default=None
        Sums over rows that are not in ``blocks``: at every potential within their
        radius they belong to one class. A call elsewhere raises ``OutOfReach``.

    Attributes
    ----------
    n_passes : int
        Passes made over all rows.

    Examples
    --------
    The means of two halves add up to the means of the whole.

    >>> import torch
    >>> from skvibe.transport import RowSweep
    >>> log_p = torch.tensor([[0.0, -1.0], [-2.0, 0.0], [0.0, -3.0]])
    >>> whole = RowSweep(lambda: [log_p], n_rows=3, lam=2.0)
    >>> first = RowSweep(lambda: [log_p[:2]], n_rows=3, lam=2.0)
    >>> second = RowSweep(lambda: [log_p[2:]], n_rows=3, lam=2.0)
    >>> g = [0.0, 0.5]
    >>> print(whole(g).columns.round(6))
    [0.608164 0.391836]
    >>> print((first(g).columns + second(g).columns).round(6))
    [0.608164 0.391836]
    """

    def __init__(
        self,
        blocks: Callable[[], Iterable[torch.Tensor]],
        *,
        n_rows: int,
        lam: float,
        precision: float = 1e-12,
        aside: RowsAside | None = None,
    ):
        self.blocks = blocks
        self.n_rows = n_rows
        self.lam = lam
        self.precision = precision
        self.aside = aside
        self.n_seen = n_rows  # at most
        if aside is not None:
            self.n_seen -= int(aside.counts.sum())
        self._seen = False  # whether a pass has checked the rows
        self._magnitude = 0.0  # largest row maximum of log_p, in absolute value
        self._ambiguous: dict[float, float] = {}  # share of rows, by lam
        self._buffer: torch.Tensor | None = None
        self._capacity = 0.125  # share of a block's rows an accelerator sets aside
        self.n_passes = 0
        self._kind: type[RowPass] | None = None  # known with the first rows
        self.settled: SettledRows | None = None
        # Of rows that others were put aside from, too few would be settled.
        self._radius = FIRST_RADIUS if aside is None else 0.0

    def __call__(
        self,
        potentials: npt.ArrayLike,
        *,
        curvature: bool = False,
        sharpness: float = 1.0,
    ) -> RowSums:
        """Run one pass at ``potentials``; ``sharpness`` multiplies ``lam``."""
        return self._run(potentials, self.lam * sharpness, curvature, None)

    def labels(self, potentials: npt.ArrayLike, out: torch.Tensor) -> RowSums:
        """Write every row's most probable class into ``out``, on the way of a pass.

        Its sums are as exact as they can be, whatever ``precision``.
        """
        return self._run(potentials, self.lam, False, out)

    @staticmethod
    def fixed_places(device: torch.device) -> bool:
        """Whether ambiguous rows get a set number of places (see ``RowPass._pick``)."""
        return device.type != "cpu"

    def shorten_radius(self) -> None:
        """Too few rows would stay settled so far: try a smaller way next time."""
        half = self._radius / 2
        self._radius = half if half >= LEAST_RADIUS else 0.0

    def _new_pass(self, rows: torch.Tensor, *options: Any) -> RowPass:
        if self._kind is None:
            self._kind = FusedPass if can_fuse(rows) else RowPass
        return self._kind(self, *options)

    def _run(
        self,
        potentials: npt.ArrayLike,
        lam: float,
        curvature: bool,
        labels: torch.Tensor | None,
    ) -> RowSums:
        potentials = np.asarray(potentials, dtype=np.float64)
        options = (potentials, lam, curvature, labels is not None)
        if self.aside is not None and not self.aside.holds_at(lam, potentials):
            raise OutOfReach
        if self.settled is not None and self.settled.holds_at(lam, potentials):
            again = self._new_pass(self.settled.counts, *options)
            sums = again.recall(self.settled, labels)
            if sums is not None:
                return sums
        self.settled = None  # before others are kept: no two of them at a time
        while True:
            self.n_passes += 1
            start, current = 0, None
            for rows in self.blocks():
                current = current or self._new_pass(rows, *options)
                for block in current.split(rows):
                    stop = start + len(block)
                    at = None if labels is None else labels[start:stop]
                    current.add(block, at, start)
                    start = stop
            if current is None or start == 0:
                raise ValueError("log_p has no rows.")
            sums = current.finish()
            if sums is not None:
                self._seen = True
                return sums
