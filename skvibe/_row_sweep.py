"""One pass over the rows of a transport problem: the only place where rows meet.

The dual of the transport problem has one unknown per class, the potential g. All
that a solver needs at a given g are means over rows, so a pass reads the matrix of
log-probabilities once, block by block, and returns about K^2 numbers. Rows shared out
over processes need nothing more than the sum of what each process's pass returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

# Below this many classes a block is turned so that rows lie along the last axis:
# reductions over a handful of classes are then plain vector instructions.
CLASS_MAJOR_BELOW = 64
# Elements of a block: what stays in a core's cache, or fills an accelerator.
CPU_BLOCK = 1 << 18
ACCELERATOR_BLOCK = 1 << 24
# Sums of up to this many multiples of 1/4 below 64 are exact in float32.
MAX_BLOCK_ROWS = 1 << 16
# exp(-43) = 2e-19 is nothing beside a float64 sum, yet its square is still a normal
# float32. Without the bound, exp and matrix products of subnormal numbers are tens of
# times slower on processors.
LOWEST_EXPONENT = -43.0
# Beyond this share of ambiguous rows, picking them out costs more than it saves.
DENSE_SHARE = 0.5
# With many classes most entries of a row vanish, and on a processor the curvature is
# summed over the others only: for so many classes, if less than this share is left.
SPARSE_FROM = 256
SPARSE_SHARE = 0.1
NEGLIGIBLE = 1e-10


class RowSums(NamedTuple):
    """What a pass over the rows returns (host numbers, float64).

    Attributes
    ----------
    value : float
        Mean over rows of ``logsumexp(lam * log_p + g)``.
    columns : ndarray of shape (K,)
        Mean over rows of the responsibilities ``Q = softmax(lam * log_p + g)``.
    curvature : ndarray of shape (K, K) or None
        Mean over rows of ``diag(Q_i) - Q_i Q_i'``: the Hessian of ``value``.
    noise : float
        How far rounding may have moved ``value``.
    reach : ndarray of shape (K,) or None
        Largest ``S_ik - max_l S_il`` over rows, with ``S = lam * log_p + g``: 0 where
        some row prefers the class, -inf where no row can take it. Only from a
        sweep's first pass. (Processes combine this one by its maximum.)
    """

    value: float
    columns: np.ndarray
    curvature: np.ndarray | None
    noise: float
    reach: np.ndarray | None


class RowSweep:
    """Means over the rows of a transport problem, as a function of the potential.

    Most rows of a sharp problem are *clear*: all classes but one share less than
    ``precision`` of the row's mass. A pass finds them in single precision, without
    an exponential, and counts them as one-hot; the others are gathered and computed
    in double precision. The column means are therefore within ``2 * precision`` (L1)
    of the exact ones, whatever the type of the data.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns an iterable over tensors of shape (n, K), any n, which
        together are the rows of ``log_p``; called once a pass. They may be slices
        of one tensor or computed on the fly, so ``log_p`` need never be stored.
    n_rows : int
        Number of rows the means are taken over: those of all processes if the rows
        are shared out.
    lam : float
        Inverse temperature.
    precision : float, default=1e-12
        Share of a row's mass below which its other classes are disregarded.

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
    ):
        self.blocks = blocks
        self.n_rows = n_rows
        self.lam = lam
        self.precision = precision
        self._seen = False  # whether a pass has checked the rows
        self._magnitude = 0.0  # largest row maximum of log_p, in absolute value
        self._ambiguous: dict[float, float] = {}  # share of rows, by lam
        self._buffer: torch.Tensor | None = None
        self._capacity = 0.125  # share of a block's rows an accelerator sets aside

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
        """Write every row's most probable class into ``out``, on the way of a pass."""
        return self._run(potentials, self.lam, False, out)

    @staticmethod
    def fixed_places(device: torch.device) -> bool:
        """Whether ambiguous rows get a set number of places (see ``_Pass._pick``)."""
        return device.type != "cpu"

    def _run(
        self,
        potentials: npt.ArrayLike,
        lam: float,
        curvature: bool,
        labels: torch.Tensor | None,
    ) -> RowSums:
        potentials = np.asarray(potentials, dtype=np.float64)
        while True:
            start = 0
            current = _Pass(self, potentials, lam, curvature)
            for rows in self.blocks():
                for block in split_rows(rows):
                    stop = start + len(block)
                    current.add(block, None if labels is None else labels[start:stop])
                    start = stop
            if start == 0:
                raise ValueError("log_p has no rows.")
            sums = current.finish()
            if sums is not None:
                self._seen = True
                return sums


def split_rows(rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
    """Cut rows into blocks of the size a device works on best."""
    elements = CPU_BLOCK if rows.device.type == "cpu" else ACCELERATOR_BLOCK
    size = elements // (shrink * rows.shape[1])
    return rows.split(max(1, min(size, MAX_BLOCK_ROWS)))


class _Pass:
    """The running sums of one pass, on the rows' device until ``finish``."""

    def __init__(
        self, sweep: RowSweep, potentials: np.ndarray, lam: float, curvature: bool
    ):
        self.sweep, self.lam, self.curvature = sweep, lam, curvature
        self.potentials = potentials
        self.n_classes = len(potentials)
        self.first = not sweep._seen
        self.dense = sweep._ambiguous.get(lam, 0.0) > DENSE_SHARE
        self.working = self._working_type()
        self.rounding = self._rounding(self.working)
        # Multiples of 1/4, so that sums over clear rows are exact in float32.
        margin = math.log(self.n_classes / sweep.precision) + self.rounding
        self.width = math.ceil(4 * margin) / 4
        self.axis = 0 if self.n_classes < CLASS_MAJOR_BELOW else 1
        self.sums: dict[str, torch.Tensor] = {}

    def _working_type(self) -> torch.dtype:
        coarse = self._rounding(torch.float32) > 0.25
        return torch.float64 if coarse else torch.float32

    def _rounding(self, dtype: torch.dtype) -> float:
        """Bound on the error of an exponent that is near its row's maximum."""
        size = self.lam * self.sweep._magnitude + np.abs(self.potentials).max()
        return 4 * torch.finfo(dtype).eps * (size - LOWEST_EXPONENT)

    def add(self, block: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        if not self.sums:
            self._start(block.device)
        if self.dense:
            self._full(block, labels=labels)
        else:
            self._screened(block, labels)

    def _start(self, device: torch.device) -> None:
        double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        n = self.n_classes
        g = torch.as_tensor(self.potentials, **double)
        self.g = self._as_column(g)
        self.g_working = self.g.to(self.working)
        self.classes = torch.arange(n, dtype=self.working, device=device)
        n_outer = n if self.curvature else 0
        self.outer = torch.zeros(n_outer, n_outer, device=device)
        self.entries: list[tuple] = []  # of sparse rows: values, rows, columns
        self.n_kept = 0
        self.flat = torch.zeros(5 + 3 * n, **double)
        self.sums = _named(self.flat, n)
        self.sums["reach"].fill_(-torch.inf)

    def _as_column(self, vector: torch.Tensor) -> torch.Tensor:
        return vector[:, None] if self.axis == 0 else vector

    def _exponents(
        self, block: torch.Tensor, g: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        return torch.add(
            g, block.T if self.axis == 0 else block, alpha=self.lam, out=out
        )

    def _scratch(self, n_rows: int, like: torch.Tensor) -> torch.Tensor:
        """A working array, kept from block to block and pass to pass."""
        n = self.n_classes
        buffer = self.sweep._buffer
        if (
            buffer is None
            or buffer.numel() < n_rows * n
            or buffer.dtype is not self.working
            or buffer.device != like.device
        ):
            buffer = torch.empty(n_rows * n, dtype=self.working, device=like.device)
            self.sweep._buffer = buffer
        flat = buffer[: n_rows * n]
        return flat.view(n, n_rows) if self.axis == 0 else flat.view(n_rows, n)

    def _screened(self, block: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Count clear rows as one-hot, hand the others to ``_full``."""
        axis, width, sums = self.axis, self.width, self.sums
        s = self._exponents(block, self.g_working, self._scratch(len(block), block))
        top = s.amax(axis, keepdim=True)
        s.sub_(top)
        top = top.squeeze(axis)
        if self.first:
            torch.maximum(sums["reach"], s.amax(1 - axis), out=sums["reach"])
            torch.maximum(sums["magnitude"], top.abs().amax(), out=sums["magnitude"])
        # A clear row now becomes a single zero among -width: exact in its sum.
        s.clamp_(min=-width)
        clear = s.sum(axis) == -(self.n_classes - 1) * width
        weight = clear.to(s.dtype)
        sums["clear"] += s @ weight if axis == 0 else weight @ s
        sums["value"] += (top.double() * weight).sum()
        if labels is not None:  # one-hot rows times 0, 1, ..., K - 1
            s.add_(1.0).clamp_(min=0.0)
            labels.copy_(self.classes @ s if axis == 0 else s @ self.classes)
        chosen, valid = self._pick(clear)
        if len(chosen):
            rows = block.index_select(0, chosen)
            found = None if labels is None else labels.new_empty(len(chosen))
            self._full(rows, valid, found)
            if labels is not None and found is not None:
                labels.index_copy_(0, chosen, found)
        sums["rows"] += len(block)

    def _pick(self, clear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Indices of the rows that are not clear, and their weights (None: all 1).

        An accelerator is given a fixed number of places, so that the host need not
        wait to learn how many there are; ``finish`` sees to it if they were too few.
        """
        if not self.sweep.fixed_places(clear.device):
            # On the host numpy is several times faster at this.
            chosen = torch.from_numpy(np.flatnonzero(~clear.numpy()))
            self.sums["ambiguous"] += len(chosen)
            return chosen, None
        places = min(len(clear), math.ceil(self.sweep._capacity * len(clear)))
        count = len(clear) - clear.sum()
        self.sums["ambiguous"] += count
        overflow = self.sums["overflow"]
        torch.maximum(overflow, count / len(clear) * (count > places), out=overflow)
        chosen = torch.argsort(clear.byte(), stable=True)[:places]
        return chosen, (~clear[chosen]).double()

    def _full(
        self,
        rows: torch.Tensor,
        weights: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> None:
        """Add rows in double precision."""
        axis, sums = self.axis, self.sums
        shape = (
            (self.n_classes, len(rows)) if axis == 0 else (len(rows), self.n_classes)
        )
        s = torch.empty(shape, dtype=torch.float64, device=rows.device)
        self._exponents(rows, self.g, s)
        if labels is not None:
            torch.argmax(s, axis, out=labels)
        top = s.amax(axis, keepdim=True)
        s.sub_(top).clamp_(min=LOWEST_EXPONENT).exp_()
        mass = s.sum(axis, keepdim=True)
        value = (top + mass.log()).squeeze(axis)
        s.div_(mass)
        if weights is not None:
            value = value * weights
            s.mul_(weights if axis == 0 else weights[:, None])
        sums["value"] += value.sum()
        sums["columns"] += s.sum(1 - axis)
        if self.curvature:
            self._add_outer(s.float())
        if self.dense:
            sums["rows"] += len(rows)
            sums["ambiguous"] += len(rows)

    def _add_outer(self, q: torch.Tensor) -> None:
        """Add the sum of q_i q_i' (of positive terms: float32 has digits enough)."""
        if self.axis == 0:
            self.outer.addmm_(q, q.T)
            return
        if q.device.type == "cpu" and self.n_classes >= SPARSE_FROM:
            row, column = np.nonzero(q.numpy() > NEGLIGIBLE)
            if len(row) < SPARSE_SHARE * q.numel():
                self.entries.append((q.numpy()[row, column], row + self.n_kept, column))
                self.n_kept += len(q)
                return
        self.outer.addmm_(q.T, q)

    def _outer_sum(self) -> torch.Tensor:
        if self.entries:
            value, row, column = map(np.concatenate, zip(*self.entries, strict=True))
            shape = (self.n_kept, self.n_classes)
            q = csr_matrix((value, (row, column)), shape=shape)
            self.outer += torch.from_numpy((q.T @ q).toarray())
        return self.outer.flatten().double()

    def finish(self) -> RowSums | None:
        """Bring the sums to the host; None if the pass must be run again."""
        sums, sweep = self._to_host(), self.sweep
        if self.first:
            top = sums["magnitude"][0]
            if not np.isfinite(top):
                raise ValueError(
                    "log_p must hold numbers below +inf, at least one of them finite "
                    "in every row: it has NaN, +inf or a row that is -inf throughout."
                )
            sweep._magnitude = (top + np.abs(self.potentials).max()) / self.lam
            if self._working_type() is not self.working:
                return None  # single precision does not resolve these exponents
        if sums["overflow"][0] > 0:
            sweep._capacity = min(1.0, 1.5 * sums["overflow"][0])
            return None
        sweep._ambiguous[self.lam] = sums["ambiguous"][0] / sums["rows"][0]
        return self._means(sums)

    def _to_host(self) -> dict[str, np.ndarray]:
        """All sums in one transfer."""
        both = torch.cat([self.flat, self._outer_sum()]).cpu().numpy()
        sums = _named(both, self.n_classes)
        sums["outer"] = both[len(self.flat) :]
        return sums

    def _means(self, sums: dict[str, np.ndarray]) -> RowSums:
        n, n_rows = self.n_classes, self.sweep.n_rows
        clear_rows = sums["rows"][0] - sums["ambiguous"][0]
        columns = sums["columns"] + clear_rows + np.round(sums["clear"] / self.width)
        curvature = None
        if self.curvature:
            # As a graph Laplacian: rounding then keeps it positive semi-definite.
            curvature = -sums["outer"].reshape(n, n) / n_rows
            curvature = 0.5 * (curvature + curvature.T)
            curvature.flat[:: n + 1] = 0.0
            curvature.flat[:: n + 1] = -curvature.sum(axis=1)
        return RowSums(
            value=sums["value"][0] / n_rows,
            columns=columns / n_rows,
            curvature=curvature,
            noise=self.rounding + self.sweep.precision,
            reach=sums["reach"] if self.first else None,
        )


def _named(flat: Any, n: int) -> dict[str, Any]:
    """Views of the parts of a vector of sums for n classes."""
    sums = {"columns": flat[5 : 5 + n], "clear": flat[5 + n : 5 + 2 * n]}
    sums["reach"] = flat[5 + 2 * n : 5 + 3 * n]
    names = ("value", "ambiguous", "rows", "overflow", "magnitude")
    return sums | {name: flat[i : i + 1] for i, name in enumerate(names)}
