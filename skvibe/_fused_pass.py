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

from skvibe._row_pass import NATS, RowPass, named_sums
from skvibe._settled_rows import MOST_KEPT, Part, SettledRows, take_rows

# Kernels are compiled for seconds once on a machine: matrices below this many numbers
# are passed over in a fraction of a millisecond anyway.
FUSED_FROM = 1 << 24
MOST_CLASSES = 1 << 14
# Numbers of a tile, numbers a warp takes of it, programs a multiprocessor: the fastest
# of those tried on an H100, with many classes and with few.
SCREEN = (1 << 12, 1 << 11, 64)
SCREEN_FEW = (1 << 11, 1 << 9, 64)
FEW = 256
SOFTEN = (1 << 10, 1 << 8, 32)
# Copies of the counts that programs add to, and rows that are listed together.
COPIES = 64
PART = 1 << 10
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


class _Screened(NamedTuple):
    """What ``screen`` leaves behind."""

    state: torch.Tensor
    codes: torch.Tensor
    counts: torch.Tensor  # settled and clear rows, by class
    values: torch.Tensor  # sums of their largest exponents
    extremes: tuple[torch.Tensor, ...]  # of a first pass: reach and magnitude


class FusedPass(RowPass):
    """The running sums of one pass; blocks may be of any size."""

    few_elements = 0

    def split(self, rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
        return (rows,) if len(rows) else ()

    def _start(self, device: torch.device) -> None:
        self._start_sums(device)
        wide = float("inf") if self.keeping is None else self.wide
        head = [self.lam, self.width, wide, self.lam / NATS]
        g = torch.from_numpy(self.potentials)
        constants = torch.cat([torch.tensor(head, dtype=torch.float64), g, g / NATS])
        self.constants = constants.to(device)
        # Summed on the host: every operation here would cost as much as a kernel.
        self.pieces: list[tuple[torch.Tensor, ...]] = []
        self.n_rows = self.n_settled = 0
        self.found: list[tuple] = []  # blocks, what was found, their first row

    def _keeps(self, device: torch.device) -> bool:
        return not self.dense and self.sweep._radius > 0

    def _keep(
        self, block: torch.Tensor, labels: torch.Tensor | None, start: int
    ) -> bool:
        """Sum all rows; ``finish`` puts the settled ones aside if they are many."""
        self.found.append((block, self._sum_screened(block, labels), start))
        return True

    def _screened(self, block: torch.Tensor, labels: torch.Tensor | None) -> None:
        self._sum_screened(block, labels)

    def _sum_screened(
        self, block: torch.Tensor, labels: torch.Tensor | None
    ) -> _Screened:
        found = _screen(block, self.constants, self.working, self.first)
        if labels is not None:
            labels.copy_(found.codes)
        chosen, n_chosen = _collect(found.state)
        soft = self._soft(block, chosen, n_chosen, labels)
        self.pieces.append((found.counts, found.values, *soft, *found.extremes))
        self.n_rows += len(block)
        return found

    def _full(
        self,
        rows: torch.Tensor,
        weights: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> None:
        n_rows = len(rows)
        chosen = torch.arange(n_rows, dtype=torch.int32, device=rows.device)
        n_chosen = torch.full((1,), n_rows, dtype=torch.int32, device=rows.device)
        none = self.flat.new_zeros(2, self.n_classes)
        soft = self._soft(rows, chosen, n_chosen, labels)
        self.pieces.append((none, none[:, 0], *soft))
        self.n_rows += n_rows

    def _soft(
        self,
        block: torch.Tensor,
        chosen: torch.Tensor,
        n_chosen: torch.Tensor,
        labels: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the ambiguous rows: by class, and of the value in powers of two."""
        found = _soften(block, self.constants, chosen, n_chosen, labels)
        columns, value, shifts = found
        if self.curvature:
            self.outer += _gram(block, self.constants, chosen, n_chosen, shifts)
        return columns, value

    def _to_host(self, curvature: Any) -> dict[str, Any]:
        n = self.n_classes
        parts = [self.flat, *(part for piece in self.pieces for part in piece)]
        stays = curvature is None or self._solves_there()
        if curvature is not None and not stays:
            parts.append(curvature)
        host = torch.cat([part.flatten().double() for part in parts]).cpu().numpy()
        if not stays:
            host, curvature = host[: -n * n], host[-n * n :].reshape(n, n)
        self.sums = named_sums(host, n)
        n_soft = float(self.n_rows)
        if self.pieces:
            for piece in np.split(host[len(self.flat) :], len(self.pieces)):
                n_soft -= self._add_piece(
                    *np.split(piece, np.cumsum([2 * n, 2, n, 1, n]))
                )
        self.sums["ambiguous"] += n_soft
        self.sums["rows"] += n_soft
        return self.sums | {"curvature": curvature}

    def _add_piece(
        self,
        counts: np.ndarray,
        values: np.ndarray,
        columns: np.ndarray,
        value: np.ndarray,
        reach: np.ndarray,
        magnitude: np.ndarray,
    ) -> float:
        """Add what was found of a block; returns how many of its rows were clear."""
        sums: dict[str, Any] = self.sums
        settled, clear = counts.reshape(2, -1)
        self.n_settled += int(settled.sum())
        counts = settled + clear
        self._count(counts, counts.sum(), values.sum())
        sums["columns"] += columns
        sums["value"] += NATS * value
        if self.first:
            np.maximum(sums["reach"], reach, out=sums["reach"])
            np.maximum(sums["magnitude"], magnitude, out=sums["magnitude"])
        return float(counts.sum())

    def _kept(self, keeping: SettledRows) -> SettledRows | None:
        """Copy the rows that are not settled, if they are few."""
        if self.n_rows - self.n_settled > MOST_KEPT * self.n_rows:
            self.sweep.shorten_radius()
            return None
        for block, found, start in self.found:
            places = torch.nonzero(found.state[: len(block)])[:, 0]
            rows = take_rows(block, places)
            stop = start + len(block)
            keeping.parts.append(Part(rows, places, found.codes, start, stop))
            keeping.counts += found.counts[0]
            keeping.value += found.values[0]
        return keeping


def _screen(
    block: torch.Tensor, constants: torch.Tensor, work: torch.dtype, first: bool
) -> _Screened:
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    tile, n_programs = _tiles(block, *(SCREEN if n_classes > FEW else SCREEN_FEW))
    new = functools.partial(torch.empty, device=block.device)
    state = new(-(-n_rows // PART) * PART, dtype=torch.int8).zero_()
    codes = new(n_rows, dtype=torch.int32)
    counts = new(COPIES, 2, n_classes, dtype=torch.int32).zero_()
    values = new(n_programs, 2, dtype=torch.float64)
    reach = new(n_programs if first else 1, n_classes, dtype=torch.float64)
    magnitude = new(n_programs if first else 1, dtype=torch.float64)
    _launch(
        kernels.screen,
        (n_programs,),
        block,
        n_rows,
        constants,
        state,
        codes,
        counts,
        COPIES,
        values,
        reach,
        magnitude,
        FIRST=first,
        WORK=kernels.tl.float32 if work is torch.float32 else kernels.tl.float64,
        **tile,
    )
    extremes = (reach.amax(0), magnitude.amax(0)) if first else ()
    return _Screened(state, codes, counts.sum(0), values.sum(0), extremes)


def _collect(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of the ambiguous rows, in order, and how many there are."""
    from skvibe import _fused_kernels as kernels

    each = (state.view(-1, PART) == 2).sum(1, dtype=torch.int32)
    up_to = each.cumsum(0, dtype=torch.int32)
    chosen = torch.empty(len(state), dtype=torch.int32, device=state.device)
    with _current(state.device):
        kernels.collect[(len(each),)](state, up_to - each, chosen, ROWS=PART)
    return chosen, up_to[-1:]


def _soften(
    block: torch.Tensor,
    constants: torch.Tensor,
    chosen: torch.Tensor,
    n_chosen: torch.Tensor,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    tile, n_programs = _tiles(block, *SOFTEN)
    new = functools.partial(torch.empty, dtype=torch.float64, device=block.device)
    columns, values = new(n_programs, n_classes), new(n_programs)
    shifts = new(n_rows)
    _launch(
        kernels.soften,
        (n_programs,),
        block,
        constants,
        chosen,
        n_chosen,
        columns,
        values,
        shifts,
        shifts if labels is None else labels,
        LABELS=labels is not None,
        **tile,
    )
    return columns.sum(0), values.sum(0), shifts


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


def _tiles(
    block: torch.Tensor, n_numbers: int, a_warp: int, programs: int
) -> tuple[dict[str, int], int]:
    """Size of a tile for a kernel, and the number of programs that share the tiles."""
    n_rows, n_classes = block.shape
    classes = max(2, _power_of_two(n_classes))
    rows = max(1, n_numbers // classes)
    warps = max(1, min(16, classes * rows // a_warp))
    n_programs = programs * _n_multiprocessors(block.device)
    tile = {"ROWS": rows, "CLASSES": classes, "num_warps": warps}
    return tile, max(1, min(-(-n_rows // rows), n_programs))


@functools.cache
def _n_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # in tests, by Triton's interpreter
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
