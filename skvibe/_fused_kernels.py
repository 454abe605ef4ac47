"""One pass over the rows of a transport problem on an NVIDIA GPU, in few kernels.

``screen`` reads the matrix once, tells rows apart and counts those that are clear;
``soften`` sums the others in double precision, ``collect`` and ``gram`` their outer
products for the curvature. ``reaches`` looks at the matrix once more in a first pass.
Plain operations would read or write an array of its size nine times.

Sums of floating-point numbers are left behind by every program and added up afterwards,
always in the same order, so that the same input gives the same result bit for bit.
Entries beyond the last class are -inf and vanish.

STEP divides a row's stride and the number of classes, which are handed over divided by
it: the compiler then knows that rows can be read four numbers at a time.

Importing this file needs Triton, which comes with torch where there is CUDA.
"""

import triton
import triton.language as tl

# In ``constants``: lam and the two widths in nats, lam in powers of two, then the
# potentials in powers of two.
POTENTIALS = tl.constexpr(4)
# The lowest exponent of `skvibe._row_pass`, in powers of two.
LOWEST = tl.constexpr(-62.0)


@triton.jit
def screen(
    rows,
    row_steps,
    class_stride,
    class_steps,
    n_rows,
    constants,
    potentials,
    state,
    codes,
    tops,
    labels,
    counts,
    values,
    TOPS: tl.constexpr,
    CODES: tl.constexpr,
    LABELS: tl.constexpr,
    COPIES: tl.constexpr,
    WORK: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    TURNS: tl.constexpr,
):
    """Tell rows apart by how far the best class is ahead of the second.

    Leaves for every row its state (0 settled, 1 clear, 2 ambiguous) and, where asked
    for, its best class (``codes``, ``labels``) and largest exponent (``tops``), in
    ``counts`` the settled and the clear rows by class, and in ``values`` for every
    program the sums of the largest exponents of either.

    Classes are read WIDTH at a time, one after the other by the same threads, which
    keep the two best each has seen: little is left for them to do together.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_classes = class_steps * STEP
    w = tl.arange(0, WIDTH)
    lam = tl.load(constants).to(WORK)
    width, wide = tl.load(constants + 1).to(WORK), tl.load(constants + 2).to(WORK)
    # Integers may be added in any order; copies keep programs out of each other's way.
    counts += (program % COPIES) * 2 * n_classes
    settled_value = tl.zeros([ROWS], tl.float64)
    clear_value = tl.zeros([ROWS], tl.float64)
    for tile in range(program, tl.cdiv(n_rows, ROWS), n_programs):
        i = tile * ROWS + tl.arange(0, ROWS)
        is_row = i < n_rows
        first = (i.to(tl.int64) * (row_steps * STEP))[:, None]
        top_each = tl.full([ROWS, WIDTH], float("-inf"), WORK)
        next_each = tl.full([ROWS, WIDTH], float("-inf"), WORK)
        best_each = tl.zeros([ROWS, WIDTH], tl.int32)
        for turn in range(0, TURNS):
            for part in tl.static_range(PARTS):
                begin = (turn * PARTS + part) * WIDTH
                is_entry = is_row[:, None] & (begin + w < n_classes)[None, :]
                where = first + (begin + w)[None, :] * class_stride
                p = tl.load(rows + where, mask=is_entry, other=0.0).to(WORK)
                s = p * lam + tl.load(potentials + begin + w)[None, :]
                if TOPS:  # NaN would get lost: it counts as infinite
                    s = tl.where(s == s, s, float("inf"))
                next_each = tl.maximum(next_each, tl.minimum(top_each, s))
                best_each = tl.where(s > top_each, begin, best_each)
                top_each = tl.maximum(top_each, s)
        best_each += w[None, :]
        top = tl.max(top_each, axis=1)
        is_top = top_each == top[:, None]
        best = tl.min(tl.where(is_top, best_each, n_classes), axis=1)
        is_best = best_each == best[:, None]
        margin = top - tl.max(tl.where(is_best, next_each, top_each), axis=1)
        is_settled = (margin >= wide) & is_row
        is_clear = (margin >= width) & (margin < wide) & is_row
        settled_value += tl.where(is_settled, top, 0.0).to(tl.float64)
        clear_value += tl.where(is_clear, top, 0.0).to(tl.float64)
        found = tl.where(is_settled, 0, tl.where(is_clear, 1, 2))
        is_counted = is_settled | is_clear
        # Relaxed: in any other order loads would wait for it.
        one = counts + found * n_classes + best
        tl.atomic_add(one, 1, mask=is_counted, sem="relaxed")
        tl.store(state + i, found.to(tl.int8), mask=is_row)
        if TOPS:
            tl.store(tops + i, top, mask=is_row)
        if CODES:
            tl.store(codes + i, best, mask=is_row)
        if LABELS:
            tl.store(labels + i, best.to(tl.int64), mask=is_row)
    tl.store(values + program * 2, tl.sum(settled_value, axis=0))
    tl.store(values + program * 2 + 1, tl.sum(clear_value, axis=0))


@triton.jit
def soften(
    rows,
    row_steps,
    class_stride,
    class_steps,
    n_rows,
    constants,
    state,
    capacity,
    chosen,
    sums,
    shifts,
    labels,
    DENSE: tl.constexpr,
    SHIFTS: tl.constexpr,
    LABELS: tl.constexpr,
    STEP: tl.constexpr,
    SHARE: tl.constexpr,
    SCAN: tl.constexpr,
    SOFT: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Sum the responsibilities of the ambiguous rows (DENSE: all) in double precision.

    Leaves for every program in ``chosen`` how many its rows are, and which, in ``sums``
    those of the logarithms of their masses, in powers of two, and of their
    responsibilities by class, in ``shifts`` what ``gram`` adds to their exponents.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_classes = class_steps * STEP
    # Every program looks at SHARE rows out of each n_programs times as many.
    chosen += program.to(tl.int64) * (capacity + 1)
    n = 0
    for begin in range(0, capacity, SCAN):
        t = begin + tl.arange(0, SCAN)
        i = (program + (t // SHARE) * n_programs) * SHARE + t % SHARE
        is_soft = (i < n_rows) & (t < capacity)
        if not DENSE:
            is_soft = is_soft & (tl.load(state + i, mask=is_soft, other=0) == 2)
        number = n + tl.cumsum(is_soft.to(tl.int32), axis=0)
        tl.store(chosen + number, i, mask=is_soft)
        n += tl.sum(is_soft.to(tl.int32), axis=0)
    tl.store(chosen, n)
    tl.debug_barrier()  # other threads read what is listed

    shifts += program.to(tl.int64) * capacity
    k = tl.arange(0, CLASSES)
    is_class = k < n_classes
    lam = tl.load(constants + 3)
    g = tl.load(constants + POTENTIALS + k, mask=is_class, other=0.0)
    total = tl.zeros([SOFT, CLASSES], tl.float64)
    value = tl.zeros([SOFT], tl.float64)
    for begin in range(0, n, SOFT):
        at = begin + tl.arange(0, SOFT)
        is_row = at < n
        row = tl.load(chosen + 1 + at, mask=is_row, other=0).to(tl.int64)
        is_entry = is_row[:, None] & is_class[None, :]
        where = row[:, None] * (row_steps * STEP) + k[None, :] * class_stride
        p = tl.load(rows + where, mask=is_entry, other=0.0).to(tl.float64)
        s = tl.where(is_entry, p * lam + g[None, :], float("-inf"))
        top = tl.where(is_row, tl.max(s, axis=1), 0.0)
        q = tl.exp2(tl.maximum(s - top[:, None], LOWEST))
        q = tl.where(is_entry, q, 0.0)
        mass = tl.where(is_row, tl.sum(q, axis=1), 1.0)
        total += q * (1.0 / mass)[:, None]
        shift = top + tl.log2(mass)
        value += shift
        if SHIFTS:
            tl.store(shifts + at, -shift.to(tl.float32), mask=is_row)
        if LABELS:
            best = tl.min(tl.where(s == top[:, None], k[None, :], CLASSES), axis=1)
            tl.store(labels + row, best.to(tl.int64), mask=is_row)
    sums += program * (n_classes + 1)
    tl.store(sums, tl.sum(value, axis=0))
    tl.store(sums + 1 + k, tl.sum(total, axis=0), mask=is_class)


@triton.jit
def reaches(
    rows,
    row_steps,
    class_stride,
    class_steps,
    n_rows,
    constants,
    potentials,
    tops,
    reach,
    WORK: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Of every class the largest exponent, less the largest of the same row.

    Axis 0 of the grid runs over parts of the classes, axis 1 over parts of the rows.
    """
    program, n_programs = tl.program_id(1), tl.num_programs(1)
    n_classes = class_steps * STEP
    k = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    lam = tl.load(constants).to(WORK)
    g = tl.load(potentials + k)
    highest = tl.full([ROWS, WIDTH], float("-inf"), WORK)
    for tile in range(program, tl.cdiv(n_rows, ROWS), n_programs):
        i = tile * ROWS + tl.arange(0, ROWS)
        first = (i.to(tl.int64) * (row_steps * STEP))[:, None]
        is_entry = (i < n_rows)[:, None] & (k < n_classes)[None, :]
        where = first + k[None, :] * class_stride
        p = tl.load(rows + where, mask=is_entry, other=float("-inf")).to(WORK)
        top = tl.load(tops + i, mask=i < n_rows, other=0.0)
        highest = tl.maximum(highest, p * lam + g[None, :] - top[:, None])
    at = reach + program * n_classes + k
    tl.store(at, tl.max(highest, axis=0).to(tl.float64), mask=k < n_classes)


@triton.jit
def collect(chosen, shifts, capacity, up_to, rows, row_shifts, ROWS: tl.constexpr):
    """Put the programs' lists one behind the other; ``up_to`` says where each ends."""
    program = tl.program_id(0)
    chosen += program.to(tl.int64) * (capacity + 1)
    shifts += program.to(tl.int64) * capacity
    n = tl.load(chosen)
    start = tl.load(up_to + program) - n
    for begin in range(0, n, ROWS):
        at = begin + tl.arange(0, ROWS)
        i = tl.load(chosen + 1 + at, mask=at < n)
        shift = tl.load(shifts + at, mask=at < n)
        tl.store(rows + start + at, i, mask=at < n)
        tl.store(row_shifts + start + at, shift, mask=at < n)


@triton.jit
def gram(
    rows,
    row_steps,
    class_stride,
    class_steps,
    constants,
    chosen,
    n_chosen,
    shifts,
    outer,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Sum q_i q_i' over the chosen rows, a tile of the lower triangle a program.

    Axis 0 of the grid runs over the tiles, axis 1 over parts of the rows. Only the
    curvature comes from it, for which the ten bits of TF32 are plenty.
    """
    tile, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    n_classes = class_steps * STEP
    # The tile's row and column in the triangle, counted row by row.
    down = ((tl.sqrt(8.0 * tile + 1.0) - 1.0) / 2.0).to(tl.int32)
    down -= (down * (down + 1) // 2 > tile).to(tl.int32)
    down += ((down + 1) * (down + 2) // 2 <= tile).to(tl.int32)
    k = down * CLASSES + tl.arange(0, CLASSES)
    l = (tile - down * (down + 1) // 2) * CLASSES + tl.arange(0, CLASSES)
    is_k, is_l = k < n_classes, l < n_classes
    lam = tl.load(constants + 3).to(tl.float32)
    potentials = constants + POTENTIALS
    g_k = tl.load(potentials + k, mask=is_k, other=0.0).to(tl.float32)
    g_l = tl.load(potentials + l, mask=is_l, other=0.0).to(tl.float32)
    n = tl.load(n_chosen).to(tl.int32)
    total = tl.zeros([CLASSES, CLASSES], tl.float32)
    for tile_of_rows in range(part, tl.cdiv(n, ROWS), n_parts):
        at = tile_of_rows * ROWS + tl.arange(0, ROWS)
        is_row = (at < n)[:, None]
        i = tl.load(chosen + at, mask=at < n, other=0).to(tl.int64)[:, None]
        first = rows + i * (row_steps * STEP)
        shift = tl.load(shifts + at, mask=at < n, other=0.0)[:, None]
        there = first + k[None, :] * class_stride
        p = tl.load(there, mask=is_row & is_k[None, :], other=float("-inf"))
        q_k = tl.exp2(p.to(tl.float32) * lam + (g_k[None, :] + shift))
        there = first + l[None, :] * class_stride
        p = tl.load(there, mask=is_row & is_l[None, :], other=float("-inf"))
        q_l = tl.exp2(p.to(tl.float32) * lam + (g_l[None, :] + shift))
        total = tl.dot(tl.trans(q_k), q_l, total, input_precision="tf32")
    at = part.to(tl.int64) * n_classes * n_classes
    where = at + k[:, None] * n_classes + l[None, :]
    tl.store(outer + where, total, mask=is_k[:, None] & is_l[None, :])
