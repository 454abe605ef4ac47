"""One pass over the rows of a transport problem on an NVIDIA GPU, in four kernels.

``screen`` reads the matrix once and counts the rows that are clear, ``collect`` lists
the others; ``soften`` sums these in double precision, ``gram`` their outer products for
the curvature. Plain operations would read or write an array of the matrix' size nine
times.

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
# potentials in nats and again in powers of two.
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
    state,
    codes,
    counts,
    n_copies,
    values,
    reach,
    magnitude,
    FIRST: tl.constexpr,
    WORK: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Tell rows apart by how far the best class is ahead of the second.

    Leaves for every row its state (0 settled, 1 clear, 2 ambiguous) and its best class
    (if it is not ambiguous), in ``counts`` the settled and the clear rows by class, and
    for every program the sums of their largest exponents and, if FIRST, the reach of
    every class and the largest magnitude.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_classes = class_steps * STEP
    k = tl.arange(0, CLASSES)
    is_class = k < n_classes
    lam = tl.load(constants).to(WORK)
    width, wide = tl.load(constants + 1).to(WORK), tl.load(constants + 2).to(WORK)
    # Beyond the last class nothing is read, and whatever is there becomes -inf or NaN,
    # which a maximum passes over.
    g = tl.load(constants + POTENTIALS + k, mask=is_class, other=float("-inf"))
    g = g.to(WORK)
    # Integers may be added in any order; copies keep programs out of each other's way.
    counts += (program % n_copies) * 2 * n_classes
    settled_value = tl.zeros([ROWS], tl.float64)
    clear_value = tl.zeros([ROWS], tl.float64)
    highest = tl.full([CLASSES], float("-inf"), WORK)
    largest = tl.zeros([ROWS], WORK)
    for tile in range(program, tl.cdiv(n_rows, ROWS), n_programs):
        i = tile * ROWS + tl.arange(0, ROWS)
        is_row = i < n_rows
        first = tl.minimum(i, n_rows - 1).to(tl.int64) * (row_steps * STEP)
        where = first[:, None] + k[None, :] * class_stride
        p = tl.load(rows + where, mask=is_class[None, :])
        s = p.to(WORK) * lam + g[None, :]
        top = tl.max(s, axis=1)
        best = tl.min(tl.where(s == top[:, None], k[None, :], CLASSES), axis=1)
        is_best = k[None, :] == best[:, None]
        margin = top - tl.max(tl.where(is_best, float("-inf"), s), axis=1)
        is_settled = (margin >= wide) & is_row
        is_clear = (margin >= width) & (margin < wide) & is_row
        settled_value += tl.where(is_settled, top, 0.0).to(tl.float64)
        clear_value += tl.where(is_clear, top, 0.0).to(tl.float64)
        found = tl.where(is_settled, 0, tl.where(is_clear, 1, 2))
        is_counted = is_settled | is_clear
        tl.atomic_add(counts + found * n_classes + best, 1, mask=is_counted)
        tl.store(state + i, found.to(tl.int8), mask=is_row)
        tl.store(codes + i, best, mask=is_row)
        if FIRST:
            highest = tl.maximum(highest, tl.max(s - top[:, None], axis=0))
            # NaN would get lost: it counts as infinite.
            is_nan = (s != s) & is_class[None, :]
            is_bad = tl.max(is_nan.to(tl.int32), axis=1) > 0
            largest = tl.maximum(largest, tl.where(is_bad, float("inf"), tl.abs(top)))
    tl.store(values + program * 2, tl.sum(settled_value, axis=0))
    tl.store(values + program * 2 + 1, tl.sum(clear_value, axis=0))
    if FIRST:
        at = program * n_classes + k
        tl.store(reach + at, highest.to(tl.float64), mask=is_class)
        tl.store(magnitude + program, tl.max(largest, axis=0).to(tl.float64))


@triton.jit
def collect(state, before, chosen, ROWS: tl.constexpr):
    """List the ambiguous rows; ``before`` says how many there are before each part."""
    part = tl.program_id(0)
    i = part * ROWS + tl.arange(0, ROWS)
    is_soft = tl.load(state + i) == 2
    number = tl.cumsum(is_soft.to(tl.int32), axis=0) - 1
    tl.store(chosen + tl.load(before + part) + number, i, mask=is_soft)


@triton.jit
def soften(
    rows,
    row_steps,
    class_stride,
    class_steps,
    constants,
    chosen,
    n_chosen,
    columns,
    values,
    shifts,
    labels,
    LABELS: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Sum the responsibilities of the chosen rows in double precision.

    Leaves for every program the sums by class and of the logarithms of the masses,
    and for every chosen row what ``gram`` adds to its exponents, in powers of two.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_classes = class_steps * STEP
    k = tl.arange(0, CLASSES)
    is_class = k < n_classes
    lam = tl.load(constants + 3)
    g = tl.load(constants + POTENTIALS + n_classes + k, mask=is_class, other=0.0)
    n = tl.load(n_chosen).to(tl.int32)
    total = tl.zeros([CLASSES], tl.float64)
    value = tl.zeros([ROWS], tl.float64)
    for tile in range(program, tl.cdiv(n, ROWS), n_programs):
        at = tile * ROWS + tl.arange(0, ROWS)
        is_row = at < n
        i = tl.load(chosen + at, mask=is_row, other=0).to(tl.int64)
        is_entry = is_row[:, None] & is_class[None, :]
        where = i[:, None] * (row_steps * STEP) + k[None, :] * class_stride
        p = tl.load(rows + where, mask=is_entry, other=0.0).to(tl.float64)
        s = tl.where(is_entry, p * lam + g[None, :], float("-inf"))
        top = tl.where(is_row, tl.max(s, axis=1), 0.0)
        q = tl.exp2(tl.maximum(s - top[:, None], LOWEST))
        q = tl.where(is_entry, q, 0.0)
        mass = tl.where(is_row, tl.sum(q, axis=1), 1.0)
        total += tl.sum(q * (1.0 / mass)[:, None], axis=0)
        shift = top + tl.log2(mass)
        value += shift
        tl.store(shifts + at, -shift, mask=is_row)
        if LABELS:
            best = tl.min(tl.where(s == top[:, None], k[None, :], CLASSES), axis=1)
            tl.store(labels + i, best.to(tl.int64), mask=is_row)
    tl.store(columns + program * n_classes + k, total, mask=is_class)
    tl.store(values + program, tl.sum(value, axis=0))


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
    potentials = constants + POTENTIALS + n_classes
    g_k = tl.load(potentials + k, mask=is_k, other=0.0).to(tl.float32)
    g_l = tl.load(potentials + l, mask=is_l, other=0.0).to(tl.float32)
    n = tl.load(n_chosen).to(tl.int32)
    total = tl.zeros([CLASSES, CLASSES], tl.float32)
    for tile_of_rows in range(part, tl.cdiv(n, ROWS), n_parts):
        at = tile_of_rows * ROWS + tl.arange(0, ROWS)
        is_row = (at < n)[:, None]
        i = tl.load(chosen + at, mask=at < n, other=0).to(tl.int64)[:, None]
        first = rows + i * (row_steps * STEP)
        shift = tl.load(shifts + at, mask=at < n, other=0.0).to(tl.float32)[:, None]
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
