"""A pass over rows on an NVIDIA GPU that reads each number once.

The same sums as `skvibe._row_pass.RowPass`, by the kernels of `skvibe._fused_kernels`.
Where Triton or its compiler is missing, plain operations do the same.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import Any, NamedTuple

import numpy as np
import torch

from skvibe._row_pass import NATS, SOLVE_THERE_FROM, RowPass, named_sums
from skvibe._settled_rows import MOST_KEPT, Part, SettledRows, take_rows

# Kernels are compiled for seconds once on a machine: matrices below this many numbers
# are passed over in a fraction of a millisecond anyway.
FUSED_FROM = 1 << 24
MOST_CLASSES = 1 << 14
# Numbers that are read together, classes of a row that are, warps, and numbers of
# ambiguous rows: the fastest of those tried on an H200, with many classes and with few.
TILE = (1 << 10, 128, 4, 1 << 10)
TILE_FEW = (1 << 9, 32, 4, 1 << 9)
FEW = 256
# A kernel is written out for every part of a row: no more than so many.
MOST_PARTS = 8
# Programs a multiprocessor, copies of the counts that they add to, and rows that are
# listed together.
PROGRAMS = 32
COPIES = 64
SCAN = 1 << 10
# Classes of a tile of the curvature, rows added to it at a time, and programs.
GRAM_CLASSES = 128
GRAM_ROWS = 16
GRAM_PROGRAMS = 2

logger = logging.getLogger("skvibe")


def can_fuse(rows: torch.Tensor) -> bool:
    """Whether the kernels run where these rows lie, and are worth it."""
    return (
        rows.device.type == "cuda"
        and rows.numel() >= FUSED_FROM
        and rows.shape[1] <= MOST_CLASSES
        and _kernels_run(rows.device)
    )


@functools.cache
def _kernels_run(device: torch.device) -> bool:
    """Tried once on a small matrix: Triton needs a compiler, which may be missing."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        agrees = _agrees_with_plain_pass(device)
    except Exception as error:  # whatever Triton raises: plain operations do as well
        logger.info("fused kernels cannot be used: %s", error)
        return False
    if not agrees:
        logger.warning(
            "The fused kernels give wrong sums with this version of Triton; plain "
            "operations are used."
        )
    return agrees


def _agrees_with_plain_pass(device: torch.device) -> bool:
    from skvibe._row_sweep import RowSweep

    rows = torch.arange(60.0, device=device)[:, None]
    log_p = 4.0 * torch.cos(rows * torch.arange(1.0, 21.0, device=device))
    found: list[Any] = []
    for kind in (RowPass, FusedPass):
        sweep = RowSweep(lambda: [log_p], n_rows=len(log_p), lam=2.0)
        sweep._kind = kind
        found.append(sweep(np.linspace(0.0, 1.0, 20), curvature=True))
    plain, fused = found
    return (
        np.allclose(plain.columns, fused.columns, rtol=0, atol=1e-9)
        and abs(plain.value - fused.value) < plain.noise + fused.noise
        and np.allclose(plain.curvature, fused.curvature, rtol=0, atol=1e-3)
    )


class _Found(NamedTuple):
    """What ``sum_rows`` leaves behind of a block."""

    sums: tuple[torch.Tensor, ...]  # see ``FusedPass._add_piece``
    state: torch.Tensor
    codes: torch.Tensor
    lists: tuple[torch.Tensor, ...]  # of ambiguous rows, a program each; see ``_collect``


class FusedPass(RowPass):
    """The running sums of one pass; blocks may be of any size."""

    few_elements = 0

    def split(self, rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
        return (rows,) if len(rows) else ()

    def _start(self, device: torch.device) -> None:
        # Summed on the host: every operation there would cost as much as a kernel.
        n = self.n_classes
        self.flat = torch.zeros(5 + 3 * n, dtype=torch.float64)
        self.sums = named_sums(self.flat, n)
        self.sums["reach"].fill_(-torch.inf)
        self.entries, self.outer = [], None
        self.constants: tuple[torch.Tensor, torch.Tensor] | None = None
        self.pieces: list[tuple[torch.Tensor, ...]] = []
        self.screened: list[tuple] = []  # what was found of a block, its first row
        self.n_rows = self.n_settled = 0

    def _start_keeping(self, device: torch.device) -> None:
        super()._start_keeping(torch.device("cpu"))

    def _keeps(self, device: torch.device) -> bool:
        return not self.dense and self.sweep._radius > 0

    def _keep(
        self, block: torch.Tensor, labels: torch.Tensor | None, start: int
    ) -> bool:
        """Sum all rows; ``finish`` puts the settled ones aside if they are many."""
        self.screened.append((self._sum(block, labels), start))
        return True

    def _screened(self, block: torch.Tensor, labels: torch.Tensor | None) -> None:
        self._sum(block, labels)

    def _full(
        self,
        rows: torch.Tensor,
        weights: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> None:
        self._sum(rows, labels)

    def _sum(self, block: torch.Tensor, labels: torch.Tensor | None) -> _Found:
        if self.constants is None:
            self.constants = self._constants(block.device)
        found = _sum_rows(block, self, labels)
        if self.curvature:
            outer = _gram(block, self.constants[0], *_collect(*found.lists))
            self.outer = outer if self.outer is None else self.outer + outer
        self.pieces.append(found.sums)
        self.n_rows += len(block)
        return found

    def _constants(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What kernels read, and the potentials again in the type they work in."""
        wide = float("inf") if self.keeping is None else self.wide
        head = [self.lam, self.width, wide, self.lam / NATS]
        g = torch.from_numpy(self.potentials)
        # A row of tiles reaches beyond the last class.
        padded = g.new_full((2 * _power_of_two(self.n_classes),), -torch.inf)
        padded[: len(g)] = g
        own = torch.cat([torch.tensor(head, dtype=torch.float64), g / NATS])
        both = torch.cat([own, padded.to(self.working).view(torch.float64)])
        there = both.to(device, non_blocking=True)
        return there[: len(own)], there[len(own) :].view(self.working)

    def _curvature(self) -> torch.Tensor:
        if self.outer is None:  # no row is left
            device = self.sweep.settled.rest()[0].rows.device
            self.outer = torch.zeros(self.n_classes, self.n_classes, device=device)
        return super()._curvature()

    def _solves_there(self) -> bool:
        return self.n_classes >= SOLVE_THERE_FROM and self.outer.device.type == "cuda"

    def _to_host(self, curvature: Any) -> dict[str, Any]:
        n = self.n_classes
        parts = [part for piece in self.pieces for part in piece]
        stays = curvature is None or self._solves_there()
        if curvature is not None and not stays:
            parts.append(curvature)
        host = np.empty(0)
        if parts:
            host = torch.cat([part.flatten() for part in parts]).cpu().numpy()
        if not stays:
            host, curvature = host[: -n * n], host[-n * n :].reshape(n, n)
        self.sums = named_sums(self.flat.numpy(), n)
        n_soft = float(self.n_rows)
        if self.pieces:
            for piece in np.split(host, len(self.pieces)):
                n_soft -= self._add_piece(*np.split(piece, np.cumsum([2 * n, 3, n, n])))
        self.sums["ambiguous"] += n_soft
        self.sums["rows"] += n_soft
        return self.sums | {"curvature": curvature}

    def _add_piece(
        self,
        counts: np.ndarray,
        values: np.ndarray,
        columns: np.ndarray,
        reach: np.ndarray,
        magnitude: np.ndarray,
    ) -> float:
        """Add what was found of a block; returns how many of its rows were clear."""
        sums: dict[str, Any] = self.sums
        settled, clear = counts.reshape(2, -1)
        self.n_settled += int(settled.sum())
        if self.keeping is not None:
            self.keeping.counts += torch.from_numpy(settled)
            self.keeping.value += values[0]
        counts = settled + clear
        self._count(counts, counts.sum(), values[0] + values[1])
        sums["columns"] += columns
        sums["value"] += NATS * values[2]
        if self.first:
            np.maximum(sums["reach"], reach, out=sums["reach"])
            np.maximum(sums["magnitude"], magnitude, out=sums["magnitude"])
        return float(counts.sum())

    def _kept(self, keeping: SettledRows) -> SettledRows | None:
        """Put the settled rows aside, if the others are few."""
        if self.n_rows - self.n_settled > MOST_KEPT * self.n_rows:
            self.sweep.shorten_radius()
            return None
        found = [(one.state, one.codes, start) for one, start in self.screened]
        keeping.unread = functools.partial(_others, self.sweep.blocks, found)
        return keeping


def _others(blocks: Any, found: list[tuple]) -> list[Part]:
    """Copies of the rows that are not settled."""
    parts = []
    filled = (block for block in blocks() if len(block))
    for block, (state, codes, start) in zip(filled, found, strict=True):
        places = torch.nonzero(state)[:, 0]
        rows = take_rows(block, places)
        parts.append(Part(rows, places, codes, start, start + len(block)))
    return parts


def _sum_rows(
    block: torch.Tensor, current: FusedPass, labels: torch.Tensor | None
) -> _Found:
    """The first kernel, and the sums over its programs."""
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    tile, n_programs = _tiles(block)
    first, dense = current.first, current.dense
    per_program = -(-n_rows // (tile["ROWS"] * n_programs)) * tile["ROWS"]
    new = functools.partial(torch.empty, device=block.device)
    state = new(0 if dense else n_rows, dtype=torch.int8)
    codes = new(0 if current.keeping is None else n_rows, dtype=torch.int32)
    counts = new(COPIES, 2, n_classes, dtype=torch.int32).zero_()
    values = new(n_programs, 3, dtype=torch.float64)
    if dense:
        values.zero_()
    reach = new(n_programs if first else 0, n_classes, dtype=torch.float64)
    magnitude = new(n_programs if first else 0, dtype=torch.float64)
    chosen = new(n_programs, per_program, dtype=torch.int32)
    n_chosen = new(n_programs, dtype=torch.int32)
    columns = new(n_programs, n_classes, dtype=torch.float64)
    shifts = new(chosen.shape if current.curvature else 0, dtype=torch.float32)
    _launch(
        kernels.sum_rows,
        (n_programs,),
        block,
        n_rows,
        *current.constants,
        state,
        codes,
        counts,
        COPIES,
        values,
        reach,
        magnitude,
        per_program,
        chosen,
        n_chosen,
        columns,
        shifts,
        state if labels is None else labels,
        FIRST=first,
        DENSE=dense,
        CODES=current.keeping is not None,
        SHIFTS=current.curvature,
        LABELS=labels is not None,
        WORK=getattr(kernels.tl, str(current.working).removeprefix("torch.")),
        SCAN=min(SCAN, _power_of_two(per_program)),
        **tile,
    )
    # Sums of this many integers are exact.
    sums = [counts.sum(0, dtype=torch.float64), values.sum(0), columns.sum(0)]
    if first:
        sums += [reach.amax(0), magnitude.amax(0, keepdim=True)]
    return _Found(tuple(sums), state, codes, (chosen, n_chosen, shifts))


def _collect(
    chosen: torch.Tensor, n_chosen: torch.Tensor, shifts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ambiguous rows' numbers in one list, how many they are, and their shifts."""
    from skvibe import _fused_kernels as kernels

    up_to = n_chosen.cumsum(0, dtype=torch.int32)
    rows, row_shifts = torch.empty_like(chosen), torch.empty_like(shifts)
    with _current(chosen.device):
        kernels.collect[(len(n_chosen),)](
            chosen, shifts, chosen.shape[1], n_chosen, up_to, rows, row_shifts, ROWS=256
        )
    return rows, up_to[-1:], row_shifts


def _gram(
    block: torch.Tensor,
    constants: torch.Tensor,
    chosen: torch.Tensor,
    n_chosen: torch.Tensor,
    shifts: torch.Tensor,
) -> torch.Tensor:
    from skvibe import _fused_kernels as kernels

    n_classes = block.shape[1]
    classes = min(GRAM_CLASSES, max(16, _power_of_two(n_classes)))
    across = -(-n_classes // classes)
    n_tiles = across * (across + 1) // 2
    n_parts = max(1, GRAM_PROGRAMS * _n_multiprocessors(block.device) // n_tiles)
    outer = torch.zeros(n_parts, n_classes, n_classes, device=block.device)
    _launch(
        kernels.gram,
        (n_tiles, n_parts),
        block,
        constants,
        chosen,
        n_chosen,
        shifts,
        outer,
        ROWS=GRAM_ROWS,
        CLASSES=classes,
        num_warps=4 if classes < GRAM_CLASSES else 8,
    )
    # The diagonal is of no use: the curvature's follows from the rest.
    lower = outer.sum(0).tril(-1)
    return lower + lower.T


def _launch(
    kernel: Any, grid: tuple[int, ...], block: torch.Tensor, *args: Any, **options: Any
) -> None:
    row_stride, class_stride = block.stride()
    n_classes = block.shape[1]
    step = 4 if class_stride == 1 and not (row_stride % 4 or n_classes % 4) else 1
    shape = (row_stride // step, class_stride, n_classes // step)
    with _current(block.device):
        kernel[grid](block, *shape, *args, STEP=step, **options)


def _current(device: torch.device) -> Any:
    """Triton launches on the current device, which need not be that of the rows."""
    on_cuda = device.type == "cuda"
    return torch.cuda.device(device) if on_cuda else contextlib.nullcontext()


def _tiles(block: torch.Tensor) -> tuple[dict[str, int], int]:
    """How ``sum_rows`` cuts rows up, and the number of programs that share them."""
    n_rows, n_classes = block.shape
    classes = max(2, _power_of_two(n_classes))
    numbers, width, warps, soft = TILE if n_classes > FEW else TILE_FEW
    width = min(max(width, classes // MOST_PARTS), classes)
    more = max(1, min(4, classes // 1024))
    rows = max(1, more * numbers // width)
    tile = {
        "ROWS": rows,
        "WIDTH": width,
        "CHUNKS": -(-n_classes // width),
        "SOFT": max(1, soft // classes),
        "CLASSES": classes,
        "num_warps": more * warps,
    }
    most = PROGRAMS * _n_multiprocessors(block.device)
    return tile, max(1, min(-(-n_rows // rows), most))


@functools.cache
def _n_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # in tests, by Triton's interpreter
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
