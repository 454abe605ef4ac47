"""The sums of one pass over the rows of a transport problem, block by block.

Rows are told apart first: those that all but belong to one class are counted, the
others are summed in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix

from skvibe._settled_rows import (
    MOST_KEPT,
    Part,
    SettledRows,
    take_rows,
)

if TYPE_CHECKING:
    from skvibe._row_sweep import RowSweep

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
# The pass that labels and the reported error come from is exact to this.
FINAL_PRECISION = 1e-14
# From so many classes on an accelerator solves for the step itself.
SOLVE_THERE_FROM = 128
# exp2 is several times faster than exp on processors.
NATS = math.log(2.0)


class RowSums(NamedTuple):
    """What a pass over the rows returns (float64, on the host but for the curvature).

    Attributes
    ----------
    value : float
        Mean over rows of ``logsumexp(lam * log_p + g)``.
    columns : ndarray of shape (K,)
        Mean over rows of the responsibilities ``Q = softmax(lam * log_p + g)``.
    curvature : ndarray or tensor of shape (K, K), or None
        Mean over rows of ``diag(Q_i) - Q_i Q_i'``: the Hessian of ``value``. Of 128
        classes and more it stays, as a tensor, on the accelerator the rows are on.
    noise : float
        How far rounding may have moved ``value``.
    reach : ndarray of shape (K,) or None
        Largest ``S_ik - max_l S_il`` over rows, with ``S = lam * log_p + g``: 0 where
        some row prefers the class, -inf where no row can take it. Only from a
        sweep's first pass. (Processes combine this one by its maximum.)
    """

    value: float
    columns: np.ndarray
    curvature: np.ndarray | torch.Tensor | None
    noise: float
    reach: np.ndarray | None


def split_rows(rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
    """Cut rows into blocks of the size a device works on best."""
    elements = CPU_BLOCK if rows.device.type == "cpu" else ACCELERATOR_BLOCK
    size = elements // (shrink * rows.shape[1])
    return rows.split(max(1, min(size, MAX_BLOCK_ROWS)))


class RowPass:
    """The running sums of one pass, on the rows' device until ``finish``."""

    # So few are summed in double precision sooner than clear rows are told apart.
    few_elements = 1 << 15

    def __init__(
        self,
        sweep: RowSweep,
        potentials: np.ndarray,
        lam: float,
        curvature: bool,
        final: bool,
    ):
        self.sweep, self.lam, self.curvature = sweep, lam, curvature
        self.potentials = potentials
        self.n_classes = len(potentials)
        self.first = not sweep._seen
        # The first pass looks at the data as well.
        few = self._are_few(sweep.n_seen) and not self.first
        self.dense = few or sweep._ambiguous.get(lam, 0.0) > DENSE_SHARE
        self.working = self._working_type()
        self.rounding = self._rounding(self.working)
        self.precision = sweep.precision
        if final:
            self.precision = min(self.precision, FINAL_PRECISION)
        self.width = self._width(self.precision)
        self.axis = 0 if self.n_classes < CLASS_MAJOR_BELOW else 1
        self.sums: dict[str, Any] = {}  # tensors; arrays in a fused pass
        self.keeping: SettledRows | None = None

    def _are_few(self, n_rows: int) -> bool:
        return n_rows * self.n_classes <= self.few_elements

    def _width(self, precision: float) -> float:
        """Nats by which a row is clear: a multiple of 1/4, of which sums are exact."""
        margin = math.log(self.n_classes / precision) + self.rounding
        return math.ceil(4 * margin) / 4

    def _working_type(self) -> torch.dtype:
        coarse = self._rounding(torch.float32) > 0.25
        return torch.float64 if coarse else torch.float32

    def _rounding(self, dtype: torch.dtype) -> float:
        """Bound on the error of an exponent that is near its row's maximum."""
        size = self.lam * self.sweep._magnitude + np.abs(self.potentials).max()
        return 4 * torch.finfo(dtype).eps * (size - LOWEST_EXPONENT)

    def split(self, rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
        """Cut rows into the blocks that ``add`` takes."""
        return split_rows(rows, shrink)

    def add(
        self, block: torch.Tensor, labels: torch.Tensor | None = None, start: int = 0
    ) -> None:
        if not self.sums:
            self._start_keeping(block.device)
            self._start(block.device)
        if self.dense:
            self._full(block, labels=labels)
        elif self.keeping is None or not self._keep(block, labels, start):
            self._screened(block, labels)

    def _start_keeping(self, device: torch.device) -> None:
        if not self._keeps(device):
            return
        none = torch.zeros(self.n_classes, dtype=torch.float64, device=device)
        radius = self.sweep._radius
        self.keeping = SettledRows(self.lam, self.potentials, radius, none, none.sum())
        # Rounding is not known before the first pass is through: 1/4 if it is usable.
        self.wide = self._width(min(self.precision, FINAL_PRECISION)) + radius + 0.25

    def _keeps(self, device: torch.device) -> bool:
        """Whether settled rows are put aside."""
        sweep = self.sweep
        return not (self.dense or sweep._radius <= 0 or sweep.fixed_places(device))

    def recall(self, kept: SettledRows, labels: torch.Tensor | None) -> RowSums | None:
        """A pass over the rows that are not settled."""
        self._start(kept.counts.device)
        counts, value = kept.sums_at(self.potentials)
        self._count(counts, counts.sum(), value)
        ambiguous = self.sweep._ambiguous.get(self.lam, 0.0) * self.sweep.n_rows
        left = kept.n_left()
        self.dense = self._are_few(left) or ambiguous > DENSE_SHARE * left
        for part in kept.rest():
            found = None
            if labels is not None:
                found = labels.new_empty(len(part.places))
            for rows, at in self._split_together(part.rows, found):
                if self.dense:
                    self._full(rows, labels=at)
                else:
                    self._screened(rows, at)
            if labels is not None and found is not None:
                own = labels[part.start : part.stop]
                own.copy_(part.labels)
                own.index_copy_(0, part.places, found)
        return self.finish()

    def _split_together(
        self, rows: torch.Tensor, labels: torch.Tensor | None
    ) -> Iterable[tuple]:
        """Blocks of rows, each with its part of the labels."""
        start = 0
        for block in self.split(rows, shrink=2):
            stop = start + len(block)
            yield block, None if labels is None else labels[start:stop]
            start = stop

    def _start(self, device: torch.device) -> None:
        self._start_sums(device)
        g = torch.as_tensor(self.potentials, dtype=torch.float64, device=device)
        self.g = self._as_column(g)
        self.g_working = self.g.to(self.working)
        self.classes = torch.arange(self.n_classes, dtype=self.working, device=device)

    def _start_sums(self, device: torch.device) -> None:
        n = self.n_classes
        n_outer = n if self.curvature else 0
        self.outer = torch.zeros(n_outer, n_outer, device=device)
        self.entries: list[tuple] = []  # of sparse rows: values, rows, columns
        self.n_kept = 0
        self.flat = torch.zeros(5 + 3 * n, dtype=torch.float64, device=device)
        self.sums = named_sums(self.flat, n)
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

    def _above_top(self, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Exponents less the largest of their row, and the largest."""
        axis, sums = self.axis, self.sums
        s = self._exponents(block, self.g_working, self._scratch(len(block), block))
        top = s.amax(axis, keepdim=True)
        s.sub_(top)
        top = top.squeeze(axis)
        if self.first:
            torch.maximum(sums["reach"], s.amax(1 - axis), out=sums["reach"])
            torch.maximum(sums["magnitude"], top.abs().amax(), out=sums["magnitude"])
        return s, top

    def _clear(self, s: torch.Tensor, width: float) -> torch.Tensor:
        """Which rows are clear: they become a single zero among -width, exactly."""
        s.clamp_(min=-width)
        return s.sum(self.axis) == -(self.n_classes - 1) * width

    def _sum_rows(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return s @ weight if self.axis == 0 else weight @ s

    def _codes(self, s: torch.Tensor) -> torch.Tensor:
        """Classes of clear rows: one-hot rows times 0, 1, ..., K - 1."""
        return self.classes @ s if self.axis == 0 else s @ self.classes

    def _count(self, counts: Any, n_rows: Any, value: Any) -> None:
        """Add rows that are one-hot."""
        sums = self.sums
        sums["clear"] += (counts - n_rows) * self.width
        sums["value"] += value
        sums["rows"] += n_rows

    def _keep(
        self, block: torch.Tensor, labels: torch.Tensor | None, start: int
    ) -> bool:
        """Put settled rows aside; False, and nothing done, if they are too few."""
        kept = self.keeping
        s, top = self._above_top(block)
        settled = self._clear(s, self.wide)
        places = torch.from_numpy(np.flatnonzero(~settled.numpy()))
        if kept is None or len(places) > MOST_KEPT * len(block):
            self.keeping = None
            self.sweep.shorten_radius()
            return False
        weight = settled.to(s.dtype)
        s.add_(1.0).clamp_(min=0.0)
        counts = self._sum_rows(s, weight).double()
        value = top.double() @ weight.double()
        codes = self._codes(s).to(torch.int32)
        rows = take_rows(block, places)
        kept.parts.append(Part(rows, places, codes, start, start + len(block)))
        kept.counts += counts
        kept.value += value
        self._count(counts, len(block) - len(places), value)
        found = None
        if labels is not None:
            labels.copy_(codes)
            found = labels.new_empty(len(places))
        if len(places):
            self._screened(rows, found)
        if labels is not None and found is not None:
            labels.index_copy_(0, places, found)
        return True

    def _screened(self, block: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Count clear rows as one-hot, hand the others to ``_full``."""
        sums = self.sums
        s, top = self._above_top(block)
        clear = self._clear(s, self.width)
        weight = clear.to(s.dtype)
        sums["clear"] += self._sum_rows(s, weight)
        sums["value"] += (top.double() * weight).sum()
        if labels is not None:
            labels.copy_(self._codes(s.add_(1.0).clamp_(min=0.0)))
        chosen, valid = self._pick(clear)
        if len(chosen):
            rows = take_rows(block, chosen)
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
        s.copy_(rows.T if axis == 0 else rows)  # add would convert them elsewhere first
        torch.add(self.g / NATS, s, alpha=self.lam / NATS, out=s)
        if labels is None:
            top = s.amax(axis, keepdim=True)
        else:  # of several equal ones the first
            top, found = s.max(axis, keepdim=True)
            labels.copy_(found.squeeze(axis))
        s.sub_(top).clamp_(min=LOWEST_EXPONENT / NATS).exp2_()
        mass = s.sum(axis, keepdim=True)
        value = top.mul_(NATS).add_(mass.log()).squeeze(axis)
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

    def _curvature(self) -> torch.Tensor:
        """Mean of diag(q_i) - q_i q_i', as a graph Laplacian: however the sums were
        rounded it is then positive semi-definite."""
        if self.entries:
            value, row, column = map(np.concatenate, zip(*self.entries, strict=True))
            shape = (self.n_kept, self.n_classes)
            q = csr_matrix((value, (row, column)), shape=shape)
            self.outer += torch.from_numpy((q.T @ q).toarray())
        curvature = self.outer.double().div_(-self.sweep.n_rows)
        curvature = curvature.add_(curvature.T.clone()).mul_(0.5)
        curvature.fill_diagonal_(0.0)
        curvature.diagonal().copy_(-curvature.sum(dim=1))
        return curvature

    def finish(self) -> RowSums | None:
        """Bring the sums to the host; None if the pass must be run again."""
        curvature = self._curvature() if self.curvature else None
        sums, sweep = self._to_host(curvature), self.sweep
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
        if self.keeping is not None:
            sweep.settled = self._kept(self.keeping)
        return self._means(sums)

    def _kept(self, keeping: SettledRows) -> SettledRows | None:
        """What later passes are spared."""
        return keeping

    def _to_host(self, curvature: torch.Tensor | None) -> dict[str, Any]:
        """All sums in one transfer; a large curvature stays where it is."""
        there, n = len(self.flat), self.n_classes
        if curvature is None or self._solves_there():
            sums = named_sums(self.flat.cpu().numpy(), n)
            return sums | {"curvature": curvature}
        both = torch.cat([self.flat, curvature.flatten()]).cpu().numpy()
        return named_sums(both, n) | {"curvature": both[there:].reshape(n, n)}

    def _solves_there(self) -> bool:
        on_host = self.flat.device.type == "cpu"
        return not on_host and self.n_classes >= SOLVE_THERE_FROM

    def _means(self, sums: dict[str, Any]) -> RowSums:
        n_rows, value = self.sweep.n_rows, sums["value"][0]
        clear_rows = sums["rows"][0] - sums["ambiguous"][0]
        columns = sums["columns"] + clear_rows + np.round(sums["clear"] / self.width)
        if self.sweep.aside is not None:
            counts, settled_value = self.sweep.aside.sums_at(self.potentials)
            columns, value = columns + counts, value + settled_value
        return RowSums(
            value=value / n_rows,
            columns=columns / n_rows,
            curvature=sums["curvature"],
            noise=self.rounding + self.precision,
            reach=sums["reach"] if self.first else None,
        )


def named_sums(flat: Any, n: int) -> dict[str, Any]:
    """Views of the parts of a vector of sums for n classes."""
    sums = {"columns": flat[5 : 5 + n], "clear": flat[5 + n : 5 + 2 * n]}
    sums["reach"] = flat[5 + 2 * n : 5 + 3 * n]
    names = ("value", "ambiguous", "rows", "overflow", "magnitude")
    return sums | {name: flat[i : i + 1] for i, name in enumerate(names)}
