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
# Numbers that are read together, classes of a row that are, how often in a row that is
# written out, and warps, from so many classes on: the fastest tried on an H200.
SCREEN = {
    0: (1 << 13, 16, 1, 4),
    32: (1 << 9, 32, 4, 2),
    256: (1 << 10, 128, 8, 4),
}
# Programs a multiprocessor, and copies of the counts that they add to.
PROGRAMS = 64
COPIES = 64
# Numbers of ambiguous rows that are summed together, numbers a warp takes of them, and
# programs a multiprocessor, from so many classes on; rows that a program looks at in
# turn, and rows that are listed together.
SOFT = {
    0: (1 << 9, 1 << 7, 32),
    64: (1 << 8, 1 << 7, 32),
    256: (1 << 10, 1 << 8, 32),
}
SHARE = 1 << 5
SCAN = 1 << 10
# Numbers of a tile of ``reaches``, classes of it, and programs a multiprocessor.
REACH = (1 << 11, 128, 32)
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
    """What the kernels leave behind of a block."""

    sums: tuple[torch.Tensor, ...]  # see ``FusedPass._add_piece``
    state: torch.Tensor
    codes: torch.Tensor
    chosen: torch.Tensor
    shifts: torch.Tensor


class FusedPass(RowPass):
    """The running sums of one pass; blocks may be of any size."""

    few_elements = 0

    def split(self, rows: torch.Tensor, shrink: int = 1) -> tuple[torch.Tensor, ...]:
        return (rows,) if len(rows) else ()

    def _start(self, device: torch.device) -> None:
        # Summed on the host: every operation there would cost as much as a kernel.
        self.sums = named_sums(np.zeros(5 + 3 * self.n_classes), self.n_classes)
        self.sums["reach"].fill(-np.inf)
        self.entries = []
        self.outers: list[torch.Tensor] = []  # one at most
        self.constants: Any = None
        self.pieces: list[tuple[torch.Tensor, ...]] = []
        self.screened: list[tuple] = []  # what was found of a block, its first row
        self.n_rows, self.n_clear = 0, 0.0

    def _start_keeping(self, device: torch.device) -> None:
        super()._start_keeping(torch.device("cpu"))

    def _keeps(self, device: torch.device) -> bool:
        return not self.dense and self.sweep._radius > 0

    def _keep(
        self, block: torch.Tensor, labels: torch.Tensor | None, start: int
    ) -> bool:
        """Sum all rows; ``finish`` puts the settled ones aside if they are many."""
        found = self._sum(block, labels)
        self.screened.append((found.state, found.codes, start))
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
            listed = _collect(found.chosen, found.shifts)
            outer = _gram(block, self.constants[0], *listed)
            self.outers = [sum(self.outers, outer)]
        self.pieces.append(found.sums)
        self.n_rows += len(block)
        return found

    def _constants(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What kernels read, and the potentials in the type they work in."""
        n, g = self.n_classes, self.potentials
        # As many as a tile has classes, behind which the others are aligned as well.
        size = max(4, _power_of_two(n))
        n_doubles = size // (2 if self.working is torch.float32 else 1)
        host = np.empty(n_doubles + 4 + n)
        own = host[:n_doubles].view(str(self.working).removeprefix("torch."))
        own[:n], own[n:] = g, -np.inf
        wide = np.inf if self.keeping is None else self.wide
        host[n_doubles : n_doubles + 4] = self.lam, self.width, wide, self.lam / NATS
        host[n_doubles + 4 :] = g / NATS
        there = torch.from_numpy(host).to(device, non_blocking=True)
        return there[n_doubles:], there[:n_doubles].view(self.working)

    def _count(self, counts: Any, n_rows: Any, value: Any) -> None:
        super()._count(np.asarray(counts), float(n_rows), float(value))

    def _curvature(self) -> torch.Tensor:
        if not self.outers and self.sweep.settled is not None:  # no row is left
            device = self.sweep.settled.rest()[0].rows.device
            shape = (self.n_classes, self.n_classes)
            self.outers = [torch.zeros(shape, device=device)]
        self.outer = self.outers[0]
        return super()._curvature()

    def _solves_there(self) -> bool:
        return self.n_classes >= SOLVE_THERE_FROM and self.outer.device.type == "cuda"

    def _to_host(self, curvature: Any) -> dict[str, Any]:
        parts = [part for piece in self.pieces for part in piece]
        comes_along = curvature is not None and not self._solves_there()
        if comes_along:
            parts.append(curvature.flatten())
        host = torch.cat(parts).cpu().numpy() if parts else np.empty(0)
        n_numbers = sum(len(part) for part in self.pieces[0]) if self.pieces else 0
        for i in range(len(self.pieces)):
            self._add_piece(host[i * n_numbers : (i + 1) * n_numbers])
        if comes_along:
            there = len(self.pieces) * n_numbers
            curvature = host[there:].reshape(curvature.shape)
        n_soft = self.n_rows - self.n_clear
        self.sums["ambiguous"] += n_soft
        self.sums["rows"] += n_soft
        return self.sums | {"curvature": curvature}

    def _add_piece(self, piece: np.ndarray) -> None:
        """Add what was found of a block: see ``_Found``."""
        n, sums = self.n_classes, self.sums
        settled, counts = piece[:n], piece[:n] + piece[n : 2 * n]
        settled_value, clear_value, soft_value = piece[2 * n : 2 * n + 3]
        n_clear = counts.sum()
        self.n_clear += n_clear
        self._count(counts, n_clear, settled_value + clear_value)
        sums["value"] += NATS * soft_value
        sums["columns"] += piece[2 * n + 3 : 3 * n + 3]
        if self.keeping is not None:
            self.keeping.counts += torch.from_numpy(settled)
            self.keeping.value += settled_value
        if self.first:
            extremes = piece[3 * n + 3 :]
            np.maximum(sums["magnitude"], extremes[0], out=sums["magnitude"])
            np.maximum(sums["reach"], extremes[1:], out=sums["reach"])

    def _kept(self, keeping: SettledRows) -> SettledRows | None:
        """Put the settled rows aside, if the others are few."""
        n_left = self.n_rows - float(keeping.counts.sum())
        if n_left > MOST_KEPT * self.n_rows:
            self.sweep.shorten_radius()
            return None
        keeping.unread = functools.partial(_others, self.sweep.blocks, self.screened)
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
    """What the kernels find of a block, summed over their programs."""
    n_rows, n_classes = block.shape
    new = functools.partial(torch.empty, device=block.device)
    state = new(0 if current.dense else n_rows, dtype=torch.int8)
    codes = new(0 if current.keeping is None else n_rows, dtype=torch.int32)
    extremes: tuple[torch.Tensor, ...] = ()
    clear: tuple[torch.Tensor, ...]
    if current.dense:
        clear = (new(2 * n_classes + 2, dtype=torch.float64).zero_(),)
    else:
        clear, extremes = _screen(block, current, state, codes, labels)
    soft, chosen, shifts = _soften(block, current, state, labels)
    return _Found((*clear, soft, *extremes), state, codes, chosen, shifts)


def _screen(
    block: torch.Tensor,
    current: FusedPass,
    state: torch.Tensor,
    codes: torch.Tensor,
    labels: torch.Tensor | None,
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Numbers of settled and clear rows by class, and the sums of their exponents.

    Of a first pass the largest magnitude and the reach as well.
    """
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    tile, n_programs = _screen_tiles(n_rows, n_classes, block.device)
    new = functools.partial(torch.empty, device=block.device)
    first = current.first
    tops = new(n_rows if first else 0, dtype=current.working)
    counts = new(COPIES, 2 * n_classes, dtype=torch.int32).zero_()
    values = new(n_programs, 2, dtype=torch.float64)
    work = {"WORK": getattr(kernels.tl, str(current.working).removeprefix("torch."))}
    _launch(
        kernels.screen,
        (n_programs,),
        block,
        n_rows,
        *current.constants,
        state,
        codes,
        tops,
        state if labels is None else labels,
        counts,
        values,
        TOPS=first,
        CODES=current.keeping is not None,
        LABELS=labels is not None,
        COPIES=COPIES,
        **work,
        **tile,
    )
    # Sums of this many integers are exact.
    found = counts.sum(0, dtype=torch.float64), values.sum(0)
    if not first:
        return found, ()
    magnitude = tops.abs().amax(0, keepdim=True).double()
    return found, (magnitude, _reaches(block, current.constants, tops, work))


def _soften(
    block: torch.Tensor,
    current: FusedPass,
    state: torch.Tensor,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over the ambiguous rows, their numbers, and what ``gram`` asks for."""
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    tile, n_programs = _soft_tiles(n_rows, n_classes, block.device)
    capacity = -(-n_rows // (SHARE * n_programs)) * SHARE
    new = functools.partial(torch.empty, device=block.device)
    chosen = new(n_programs, 1 + capacity, dtype=torch.int32)
    sums = new(n_programs, 1 + n_classes, dtype=torch.float64)
    shifts = new(n_programs, capacity if current.curvature else 0, dtype=torch.float32)
    _launch(
        kernels.soften,
        (n_programs,),
        block,
        n_rows,
        current.constants[0],
        state,
        capacity,
        chosen,
        sums,
        shifts,
        state if labels is None else labels,
        DENSE=current.dense,
        SHIFTS=current.curvature,
        LABELS=labels is not None,
        SHARE=SHARE,
        SCAN=min(SCAN, _power_of_two(capacity)),
        **tile,
    )
    return sums.sum(0), chosen, shifts


def _reaches(
    block: torch.Tensor,
    constants: tuple[torch.Tensor, torch.Tensor],
    tops: torch.Tensor,
    work: dict[str, Any],
) -> torch.Tensor:
    from skvibe import _fused_kernels as kernels

    n_rows, n_classes = block.shape
    numbers, width, programs = REACH
    width = min(width, max(2, _power_of_two(n_classes)))
    rows = numbers // width
    across = -(-n_classes // width)
    most = -(-programs * _n_multiprocessors(block.device) // across)
    n_parts = min(-(-n_rows // rows), most)
    reach = torch.empty(n_parts, n_classes, dtype=torch.float64, device=block.device)
    _launch(
        kernels.reaches,
        (across, n_parts),
        block,
        n_rows,
        *constants,
        tops,
        reach,
        ROWS=rows,
        WIDTH=width,
        **work,
    )
    return reach.amax(0)


def _collect(
    chosen: torch.Tensor, shifts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ambiguous rows' numbers in one list, how many they are, and their shifts."""
    from skvibe import _fused_kernels as kernels

    n_programs, capacity = shifts.shape
    up_to = chosen[:, 0].cumsum(0, dtype=torch.int32)
    rows, row_shifts = torch.empty_like(chosen), torch.empty_like(shifts)
    with _current(chosen.device):
        kernels.collect[(n_programs,)](
            chosen, shifts, capacity, up_to, rows, row_shifts, ROWS=256
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


@functools.lru_cache(maxsize=64)
def _screen_tiles(
    n_rows: int, n_classes: int, device: torch.device
) -> tuple[dict[str, int], int]:
    """How ``screen`` cuts rows up, and the number of programs that share them."""
    classes = max(2, _power_of_two(n_classes))
    numbers, width, parts, warps = _fitting(SCREEN, n_classes)
    width = min(width, classes)
    parts = min(parts, classes // width)
    tile = {
        "ROWS": numbers // width,
        "WIDTH": width,
        "PARTS": parts,
        "TURNS": -(-n_classes // (parts * width)),
        "num_warps": warps,
    }
    return tile, _n_programs(-(-n_rows // tile["ROWS"]), PROGRAMS, device)


@functools.lru_cache(maxsize=64)
def _soft_tiles(
    n_rows: int, n_classes: int, device: torch.device
) -> tuple[dict[str, int], int]:
    """The same for ``soften``."""
    numbers, a_warp, programs = _fitting(SOFT, n_classes)
    classes = max(2, _power_of_two(n_classes))
    rows = max(1, numbers // classes)
    warps = max(1, min(16, rows * classes // a_warp))
    tile = {"SOFT": rows, "CLASSES": classes, "num_warps": warps}
    return tile, _n_programs(-(-n_rows // SHARE), programs, device)


def _n_programs(n_tiles: int, most: int, device: torch.device) -> int:
    """As many as there are tiles, at most so many a multiprocessor."""
    return max(1, min(n_tiles, most * _n_multiprocessors(device)))


def _fitting(table: dict[int, tuple], n_classes: int) -> tuple:
    return table[max(least for least in table if least <= n_classes)]


@functools.cache
def _n_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # in tests, by Triton's interpreter
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
