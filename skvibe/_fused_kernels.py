"""One pass over the rows of a transport problem on an NVIDIA GPU, in one to three kernels.

``sum_rows`` reads the matrix once. It tells rows apart, counts those that are clear,
and then sums the others in double precision; while one program does that, others are
still reading, so that it takes no time of its own. ``collect`` and ``gram`` add the
outer products for the curvature. Plain operations would read or write an array of the
matrix' size nine times.

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
def own_rows(program, n_programs, t, ROWS: tl.constexpr):
    """Numbers of a program's rows: its tiles are n_programs apart."""
    return (program + (t // ROWS) * n_programs) * ROWS + t % ROWS


@triton.jit
def sum_rows(
    rows,
    row_steps,
    class_stride,
    class_steps,
    n_rows,
    constants,
    potentials,
    state,
    codes,
    counts,
    n_copies,
    values,
    reach,
    magnitude,
    capacity,
    chosen,
    n_chosen,
    columns,
    shifts,
    labels,
    FIRST: tl.constexpr,
    DENSE: tl.constexpr,
    CODES: tl.constexpr,
    SHIFTS: tl.constexpr,
    LABELS: tl.constexpr,
    WORK: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    SCAN: tl.constexpr,
    SOFT: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """The sums of all rows; rows are told apart by how far the best class is ahead.

    Leaves for every row its state (0 settled, 1 clear, 2 ambiguous) and, where asked
    for, its best class (of an ambiguous one only in ``labels``), in ``counts`` the
    settled and the clear rows by class, and for every program the sums of the largest
    exponents of either, the ambiguous rows' numbers, their sums by class and of the
    logarithms of their masses, and, if FIRST, the reach of every class and the largest
    magnitude. SHIFTS adds, for every ambiguous row, what ``gram`` adds to its exponents.

    Classes are read WIDTH at a time, one after the other by the same threads, which
    keep the two best each has seen: what is left for them to do together is little.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_classes = class_steps * STEP
    w = tl.arange(0, WIDTH)
    if not DENSE:
        lam = tl.load(constants).to(WORK)
        width, wide = tl.load(constants + 1).to(WORK), tl.load(constants + 2).to(WORK)
        # Integers may be added in any order; copies keep programs out of each other's
        # way.
        counts += (program % n_copies) * 2 * n_classes
        settled_value = tl.zeros([ROWS], tl.float64)
        clear_value = tl.zeros([ROWS], tl.float64)
        if FIRST:
            part = tl.arange(0, CLASSES // WIDTH)[:, None]
            highest = tl.full([CLASSES // WIDTH, WIDTH], float("-inf"), WORK)
            largest = tl.zeros([ROWS], WORK)
        for tile in range(program, tl.cdiv(n_rows, ROWS), n_programs):
            i = tile * ROWS + tl.arange(0, ROWS)
            is_row = i < n_rows
            first = (i.to(tl.int64) * (row_steps * STEP))[:, None]
            top_each = tl.full([ROWS, WIDTH], float("-inf"), WORK)
            next_each = tl.full([ROWS, WIDTH], float("-inf"), WORK)
            best_each = tl.zeros([ROWS, WIDTH], tl.int32)
            if FIRST:
                is_bad = tl.zeros([ROWS, WIDTH], tl.int32)
            for c in tl.static_range(CHUNKS):
                k = c * WIDTH + w
                where = first + k[None, :] * class_stride
                is_entry = is_row[:, None] & (k < n_classes)[None, :]
                p = tl.load(rows + where, mask=is_entry, other=0.0).to(WORK)
                s = p * lam + tl.load(potentials + k)[None, :]
                next_each = tl.maximum(next_each, tl.minimum(top_each, s))
                best_each = tl.where(s > top_each, c, best_each)
                top_each = tl.maximum(top_each, s)
                if FIRST:
                    is_bad |= (s != s).to(tl.int32)
            best_each = best_each * WIDTH + w[None, :]
            top = tl.max(top_each, axis=1)
            is_top = top_each == top[:, None]
            best = tl.min(tl.where(is_top, best_each, CLASSES), axis=1)
            is_best = best_each == best[:, None]
            margin = top - tl.max(tl.where(is_best, next_each, top_each), axis=1)
            is_settled = (margin >= wide) & is_row
            is_clear = (margin >= width) & (margin < wide) & is_row
            settled_value += tl.where(is_settled, top, 0.0).to(tl.float64)
            clear_value += tl.where(is_clear, top, 0.0).to(tl.float64)
            found = tl.where(is_settled, 0, tl.where(is_clear, 1, 2))
            is_counted = is_settled | is_clear
            tl.atomic_add(counts + found * n_classes + best, 1, mask=is_counted)
            tl.store(state + i, found.to(tl.int8), mask=is_row)
            if CODES:
                tl.store(codes + i, best, mask=is_row)
            if LABELS:
                tl.store(labels + i, best.to(tl.int64), mask=is_row)
            if FIRST:
                # NaN would get lost: it counts as infinite.
                is_nan = tl.max(is_bad, axis=1) > 0
                size = tl.where(is_nan, float("inf"), tl.abs(top))
                largest = tl.maximum(largest, tl.where(is_row, size, 0.0))
                for c in tl.static_range(CHUNKS):
                    k = c * WIDTH + w
                    where = first + k[None, :] * class_stride
                    is_entry = is_row[:, None] & (k < n_classes)[None, :]
                    p = tl.load(rows + where, mask=is_entry, other=0.0).to(WORK)
                    s = p * lam + tl.load(potentials + k)[None, :] - top[:, None]
                    s = tl.max(tl.where(is_entry, s, float("-inf")), axis=0)
                    highest = tl.where(
                        part == c, tl.maximum(highest, s[None, :]), highest
                    )
        tl.store(values + program * 3, tl.sum(settled_value, axis=0))
        tl.store(values + program * 3 + 1, tl.sum(clear_value, axis=0))
        if FIRST:
            classes = part * WIDTH + w[None, :]
            place = reach + program * n_classes + classes
            tl.store(place, highest.to(tl.float64), mask=classes < n_classes)
            tl.store(magnitude + program, tl.max(largest, axis=0).to(tl.float64))
        tl.debug_barrier()  # the state of rows is read by other threads now

    # List the ambiguous rows.
    chosen += program.to(tl.int64) * capacity
    n = 0
    for begin in range(0, capacity, SCAN):
        i = own_rows(program, n_programs, begin + tl.arange(0, SCAN), ROWS)
        is_soft = (i < n_rows) & (begin + tl.arange(0, SCAN) < capacity)
        if not DENSE:
            is_soft = is_soft & (tl.load(state + i, mask=is_soft, other=0) == 2)
        number = n + tl.cumsum(is_soft.to(tl.int32), axis=0) - 1
        tl.store(chosen + number, i, mask=is_soft)
        n += tl.sum(is_soft.to(tl.int32), axis=0)
    tl.store(n_chosen + program, n)
    tl.debug_barrier()

    # Sum them.
    shifts += program.to(tl.int64) * capacity
    k = tl.arange(0, CLASSES)
    is_class = k < n_classes
    lam_2 = tl.load(constants + 3)
    g_2 = tl.load(constants + POTENTIALS + k, mask=is_class, other=0.0)
    total = tl.zeros([SOFT, CLASSES], tl.float64)
    value = tl.zeros([SOFT], tl.float64)
    for begin in range(0, n, SOFT):
        at = begin + tl.arange(0, SOFT)
        is_row = at < n
        i = tl.load(chosen + at, mask=is_row, other=0).to(tl.int64)
        is_entry = is_row[:, None] & is_class[None, :]
        where = i[:, None] * (row_steps * STEP) + k[None, :] * class_stride
        p = tl.load(rows + where, mask=is_entry, other=0.0).to(tl.float64)
        s = tl.where(is_entry, p * lam_2 + g_2[None, :], float("-inf"))
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
            tl.store(labels + i, best.to(tl.int64), mask=is_row)
    tl.store(columns + program * n_classes + k, tl.sum(total, axis=0), mask=is_class)
    tl.store(values + program * 3 + 2, tl.sum(value, axis=0))


@triton.jit
def collect(
    chosen, shifts, capacity, n_chosen, up_to, rows, row_shifts, ROWS: tl.constexpr
):
    """Put the programs' lists one behind the other; ``up_to`` says where each ends."""
    program = tl.program_id(0)
    first = program.to(tl.int64) * capacity
    n = tl.load(n_chosen + program)
    start = tl.load(up_to + program) - n
    for begin in range(0, n, ROWS):
        at = begin + tl.arange(0, ROWS)
        i = tl.load(chosen + first + at, mask=at < n)
        shift = tl.load(shifts + first + at, mask=at < n)
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
