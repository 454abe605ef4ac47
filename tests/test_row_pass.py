"""One pass over the rows, part by part, against its definition."""

import math

import numpy as np
import pytest
import torch

from skvibe._row_pass import RowPass, split_rows
from skvibe._row_sweep import RowSweep
from skvibe._settled_rows import Part, SettledRows, take_rows

NARROW, WIDE = 7, 80  # rows along the last axis, and along the first


@pytest.fixture(autouse=True)
def _clear_rows_are_told_apart_in_small_problems(monkeypatch):
    monkeypatch.setattr(RowPass, "few_elements", 0)


def scores(n_rows, n_classes, seed=0, spread=3.0, share=0.7):
    """Rows of which most, but not all, prefer one class by far."""
    rng = np.random.default_rng(seed)
    log_p = spread * rng.normal(size=(n_rows, n_classes))
    sure = rng.random(n_rows) < share
    log_p[sure, rng.integers(n_classes, size=sure.sum())] += 30.0
    return torch.from_numpy(log_p.astype(np.float32))


def sweep_over(*blocks, lam=2.0, **options):
    n_rows = sum(len(block) for block in blocks)
    return RowSweep(lambda: list(blocks), n_rows=n_rows, lam=lam, **options)


def one_pass(sweep, g, curvature=False, final=False):
    return RowPass(sweep, np.asarray(g, dtype=float), sweep.lam, curvature, final)


def exact(log_p, g, lam=2.0):
    """Exponents in double precision, and the responsibilities."""
    s = lam * log_p.numpy().astype(np.float64) + g
    q = np.exp(s - s.max(axis=1, keepdims=True))
    return s, q / q.sum(axis=1, keepdims=True)


# -- blocks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "shrink", "size"),
    [
        ((300_000, 4), 1, 65_536),  # no more rows than sums are exact for
        ((70_000, 8), 1, 32_768),
        ((70_000, 8), 2, 16_384),
        ((70_000, 8), 8, 4_096),
        ((10, 100_000), 1, 2),
        ((3, 300_000), 1, 1),
    ],
)
def test_rows_are_cut_into_blocks_that_fit_the_cache(shape, shrink, size):
    blocks = split_rows(torch.empty(shape), shrink=shrink)
    assert {len(block) for block in blocks[:-1]} <= {size}
    assert len(blocks) == -(-shape[0] // size)
    assert sum(len(block) for block in blocks) == shape[0]


def test_accelerators_get_larger_blocks():
    rows = torch.empty(40_000, 1000, device="meta")
    assert len(split_rows(rows)[0]) == (1 << 24) // 1000


def test_labels_are_cut_with_their_rows():
    rows, labels = torch.zeros(50_000, 8), torch.arange(50_000)
    start = 0
    split = one_pass(sweep_over(rows), np.zeros(8))._split_together
    for block, part in split(rows, labels):
        assert torch.equal(part, labels[start : start + len(block)])
        start += len(block)
        assert len(block) <= 16_384
    assert start == 50_000
    assert all(part is None for _, part in split(rows, None))


@pytest.mark.parametrize("turned", [False, True])
def test_rows_are_taken_in_the_order_of_storage(turned):
    block = torch.arange(24.0).reshape(6, 4)
    block = block.T.contiguous().T if turned else block
    taken = take_rows(block, torch.tensor([4, 1, 1]))
    assert torch.equal(taken, block[[4, 1, 1]])
    assert (taken.stride(0) == 1) == turned


# -- widths and types ----------------------------------------------------------------


@pytest.mark.parametrize("precision", [1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("final", [False, True])
def test_rows_are_clear_by_the_precision_and_the_rounding(precision, final):
    sweep = sweep_over(scores(10, NARROW), precision=precision)
    sweep._magnitude = 50.0
    current = one_pass(sweep, 3 * np.arange(NARROW) - 9.0, final=final)
    # Exponents are as large as lam |log_p| + |g| and the 43 below which none counts.
    rounding = 4 * torch.finfo(torch.float32).eps * (2.0 * 50.0 + 9.0 + 43.0)
    assert current.rounding == pytest.approx(rounding)
    assert current.precision == (min(precision, 1e-14) if final else precision)
    least = math.log(NARROW / current.precision) + rounding
    assert least <= current.width < least + 0.25
    assert 4 * current.width == round(4 * current.width)
    assert current.working is torch.float32


def test_large_exponents_are_worked_on_in_double_precision():
    sweep = sweep_over(scores(10, NARROW))
    eps = torch.finfo(torch.float32).eps
    bound = (0.25 / (4 * eps) - 43.0) / 2.0  # lam is 2
    for magnitude, dtype in [(0.999, torch.float32), (1.001, torch.float64)]:
        sweep._magnitude = bound * magnitude
        current = one_pass(sweep, np.zeros(NARROW))
        assert current.working is dtype
    assert current.rounding < 1e-8


@pytest.mark.parametrize(("n_classes", "axis"), [(2, 0), (63, 0), (64, 1), (100, 1)])
def test_few_classes_lie_along_the_first_axis(n_classes, axis):
    sweep = sweep_over(scores(10, n_classes))
    assert one_pass(sweep, np.zeros(n_classes)).axis == axis


def test_most_rows_ambiguous_are_not_screened():
    sweep = sweep_over(scores(10, NARROW))
    for share, dense in [(0.0, False), (0.5, False), (0.51, True)]:
        sweep._ambiguous[2.0] = share
        assert one_pass(sweep, np.zeros(NARROW)).dense == dense
    # What was seen at another lam says nothing.
    assert not RowPass(sweep, np.zeros(NARROW), 3.0, False, False).dense


@pytest.mark.parametrize("share", [0.0, 0.5, 0.51])
@pytest.mark.parametrize("radius", [0.0, 8.0])
def test_only_what_is_not_dense_is_screened(share, radius, monkeypatch):
    screened, screen = [], RowPass._screened

    def spy(self, block, labels):
        screened.append(len(block))
        screen(self, block, labels)

    monkeypatch.setattr(RowPass, "_screened", spy)
    sweep = sweep_over(scores(500, NARROW, share=0.95, spread=1.0))
    sweep._radius = radius
    sweep(np.zeros(NARROW))
    assert (sweep.settled is not None) == (radius > 0)
    sweep._ambiguous[2.0] = share
    screened.clear()
    settled = sweep.settled
    sweep(np.zeros(NARROW))
    if settled is None:
        assert bool(screened) == (share <= 0.5)
    else:
        # The share is of all rows; those that are ambiguous are among those left.
        assert bool(screened) == (share * 500 <= 0.5 * settled.n_left())


# -- clear rows ----------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [NARROW, WIDE])
def test_a_row_is_clear_if_all_other_classes_are_below_the_width(n_classes):
    current = one_pass(sweep_over(scores(4, n_classes)), np.zeros(n_classes))
    width = current.width
    block = torch.full((5, n_classes), -2 * width)
    block[:, 3] = 0.0
    block[1, 5] = -width  # just clear
    block[2, 5] = -width + 0.25
    block[3, 5] = 0.0  # a tie
    block[4, :] = 0.0
    s = block.T.contiguous() if current.axis == 0 else block.clone()
    assert current._clear(s, width).tolist() == [True, True, False, False, False]
    rows = s.T if current.axis == 0 else s
    assert (rows[:2].sort(dim=1).values[:, :-1] == -width).all()
    one_hot = (s + 1.0).clamp_(min=0.0)
    assert current._start(torch.device("cpu")) is None
    assert current._codes(one_hot)[:2].tolist() == [3, 3]
    weight = torch.tensor([1.0, 1, 0, 0, 0])
    sums = current._sum_rows(one_hot, weight)
    assert sums.tolist() == [2.0 * (k == 3) for k in range(n_classes)]


@pytest.mark.parametrize("n_classes", [NARROW, WIDE])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_sums_and_counts_of_a_pass(n_classes, fixed, dense, monkeypatch):
    monkeypatch.setattr(RowSweep, "fixed_places", staticmethod(lambda device: fixed))
    log_p = scores(600, n_classes)
    g = np.random.default_rng(1).normal(size=n_classes)
    sweep = sweep_over(log_p[:250], log_p[250:])
    sweep._capacity = 1.0
    sweep._radius = 0.0
    if dense:
        sweep._ambiguous[2.0] = 1.0
    sums = sweep(g, curvature=True)
    s, q = exact(log_p, g)
    top = s.max(axis=1)
    values = top + np.log(np.exp(s - top[:, None]).sum(axis=1))
    assert sums.value == pytest.approx(values.mean(), abs=1e-5)
    np.testing.assert_allclose(sums.columns, q.mean(axis=0), atol=1e-11)
    expected = np.diag(q.mean(axis=0)) - q.T @ q / 600
    np.testing.assert_allclose(sums.curvature, expected, atol=1e-6)
    np.testing.assert_allclose(sums.curvature.sum(axis=1), 0.0, atol=1e-15)
    np.testing.assert_array_equal(sums.curvature, sums.curvature.T)
    if not dense:
        reach = (s - top[:, None]).max(axis=0)
        np.testing.assert_allclose(sums.reach, reach, atol=1e-4)
        # A row is ambiguous if another class is within the width, and only then.
        second = np.sort(s, axis=1)[:, -2]
        width = one_pass(sweep, g).width
        near = np.abs(top - second - width) < 0.01
        share = sweep._ambiguous[2.0]
        assert share == pytest.approx(
            np.mean(top - second < width), abs=near.mean() + 1e-12
        )
        magnitude = np.abs(top).max() + np.abs(g).max()
        assert sweep._magnitude == pytest.approx(magnitude / 2.0, rel=1e-5)
    # The reach is only told by the first pass.
    assert sweep(g).reach is None
    assert sweep(g).curvature is None
    assert sums.noise == pytest.approx(one_pass(sweep, g).precision, abs=1e-3)


def test_places_of_an_accelerator_and_what_they_weigh():
    sweep = sweep_over(scores(10, NARROW))
    sweep.fixed_places = lambda device: True
    clear = torch.tensor([True, False, True, True, False, True, True, True])
    for capacity, n_places, lacking in [(0.25, 2, 0.0), (0.5, 4, 0.0), (0.1, 1, 0.25)]:
        sweep._capacity = capacity
        current = one_pass(sweep, np.zeros(NARROW))
        current._start(torch.device("cpu"))
        chosen, weights = current._pick(clear)
        assert len(chosen) == n_places
        assert chosen[:2].tolist() == [1, 4][:n_places]
        assert weights.tolist() == [1.0, 1.0, 0.0, 0.0][:n_places]
        assert current.sums["ambiguous"].item() == 2
        # The share that there was no room for: the pass must be run again.
        assert current.sums["overflow"].item() == lacking
    sweep._capacity = 0.01
    again = one_pass(sweep, np.zeros(NARROW))
    again._start(torch.device("cpu"))
    again._pick(clear)
    again.sums["rows"] += 8
    again.sums["magnitude"] += 1.0
    assert again.finish() is None
    assert sweep._capacity == pytest.approx(1.5 * 2 / 8)


def test_a_first_pass_that_was_too_coarse_is_run_again():
    # Exponents of 1e7 in single precision are right to 1 only.
    log_p = scores(50, NARROW) * 1e6
    sweep = sweep_over(log_p, lam=1.0)
    sums = sweep(np.zeros(NARROW))
    assert sweep.n_passes == 2
    np.testing.assert_allclose(
        sums.columns, exact(log_p, 0.0, 1.0)[1].mean(axis=0), atol=1e-11
    )
    assert sums.noise < 1e-5
    sweep(np.zeros(NARROW))
    assert sweep.n_passes == 2 + (sweep.settled is None)


def test_rows_are_needed():
    with pytest.raises(ValueError, match="no rows"):
        RowSweep(list, n_rows=1, lam=1.0)(np.zeros(3))


# -- the curvature -------------------------------------------------------------------


@pytest.mark.parametrize(("share", "sparse"), [(0.09, True), (0.11, False)])
@pytest.mark.parametrize("n_classes", [255, 256])
def test_outer_products_of_sparse_rows(n_classes, share, sparse):
    rng = np.random.default_rng(0)
    q = rng.random((200, n_classes)).astype(np.float32)
    q[rng.random(q.shape) > share] = 1e-11  # negligible
    current = one_pass(
        sweep_over(scores(4, n_classes)), np.zeros(n_classes), curvature=True
    )
    current._start(torch.device("cpu"))
    for part in (q[:70], q[70:]):
        current._add_outer(torch.from_numpy(part))
    assert bool(current.entries) == (sparse and n_classes == 256)
    assert current.n_kept == (200 if current.entries else 0)
    curvature = current._curvature()
    assert curvature.dtype is torch.float64
    np.testing.assert_allclose(curvature.sum(dim=1), 0.0, atol=1e-9)
    outer = -4 * curvature.fill_diagonal_(0)  # the sweep is of four rows
    expected = q.T @ q
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(outer, expected, rtol=1e-5, atol=1e-5)


# -- rows put aside ------------------------------------------------------------------


def test_settled_rows_hold_within_their_radius():
    g = np.array([0.0, 1.0, 2.0])
    counts = torch.tensor([3.0, 0.0, 5.0], dtype=torch.float64)
    kept = SettledRows(2.0, g, 4.0, counts, torch.tensor(10.0, dtype=torch.float64))
    assert kept.holds_at(2.0, g)
    assert kept.holds_at(2.0, g + np.array([-1.0, 3.0, 0.0]))  # four apart
    assert not kept.holds_at(2.0, g + np.array([-1.0, 3.01, 0.0]))
    assert kept.holds_at(2.0, g + 1e9)  # a constant moves no row
    assert not kept.holds_at(2.1, g)
    found, value = kept.sums_at(g + np.array([1.0, -9.0, 0.5]))
    assert torch.equal(found, counts)
    assert value.item() == 10.0 + 3 * 1.0 + 5 * 0.5
    assert kept.n_left() == 0
    for places in ([4, 2], [], [7]):
        at = torch.tensor(places, dtype=torch.int64)
        kept.parts.append(Part(torch.zeros(len(at), 3), at, at, 0, 9))
    assert kept.n_left() == 3


@pytest.mark.parametrize("n_classes", [NARROW, WIDE])
def test_rows_left_are_those_that_a_potential_in_reach_could_change(n_classes):
    log_p = 3 * scores(2000, n_classes, spread=2.0, share=0.95)
    g = np.random.default_rng(2).normal(size=n_classes)
    sweep = sweep_over(log_p[:900], log_p[900:])
    sweep._radius = 8.0
    sweep(g)
    kept = sweep.settled
    s, _ = exact(log_p, g)
    gaps = np.sort(s, axis=1)[:, -1] - np.sort(s, axis=1)[:, -2]
    wide = math.ceil(4 * (math.log(n_classes / 1e-14) + 1e-4)) / 4 + 8.0 + 0.25
    places = [part.start + part.places.numpy() for part in kept.parts]
    assert [(part.start, part.stop) for part in kept.parts] == [(0, 900), (900, 2000)]
    left = np.concatenate(places)
    certain = np.abs(gaps - wide) > 0.3
    expected = np.flatnonzero((gaps < wide) & certain)
    np.testing.assert_array_equal(
        np.intersect1d(left, np.flatnonzero(certain)), expected
    )
    labels = np.concatenate([part.labels.numpy() for part in kept.parts])
    aside = np.setdiff1d(np.arange(2000), left)
    np.testing.assert_array_equal(labels[aside], s.argmax(axis=1)[aside])
    counts = np.bincount(s.argmax(axis=1)[aside], minlength=n_classes)
    np.testing.assert_array_equal(kept.counts.numpy(), counts)
    assert kept.value.item() == pytest.approx(s.max(axis=1)[aside].sum(), rel=1e-6)
    rows = torch.cat([part.rows for part in kept.parts])
    assert torch.equal(rows, log_p[torch.from_numpy(left)])
    assert kept.radius == 8.0
    assert kept.lam == 2.0


def test_radius_is_halved_until_enough_rows_settle_and_then_given_up():
    log_p = scores(2000, NARROW, spread=3.0)
    log_p[:500] *= 0.01  # a quarter of the rows is never settled
    sweep = sweep_over(log_p)
    radii = []
    for _ in range(6):
        radii.append(sweep._radius)
        sweep(np.zeros(NARROW))
        assert sweep.settled is None
    assert radii == [32.0, 16.0, 8.0, 4.0, 0.0, 0.0]


@pytest.mark.parametrize(("share", "settled"), [(0.2, True), (0.201, False)])
def test_a_fifth_of_the_rows_may_be_left(share, settled):
    log_p = torch.full((1000, NARROW), -500.0)
    log_p[:, 2] = 0.0
    log_p[: int(1000 * share)] = 0.0
    sweep = sweep_over(log_p)
    sweep(np.zeros(NARROW))
    assert (sweep.settled is not None) == settled
