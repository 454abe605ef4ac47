"""The kernels of a pass on a GPU: on one, or in Triton's interpreter without."""

import numpy as np
import pytest
import torch

# The interpreter of older versions does not go together with NumPy 2.4.
pytest.importorskip("triton", None if torch.cuda.is_available() else "3.7")

from skvibe import _fused_pass
from skvibe._fused_pass import FusedPass, can_fuse
from skvibe._row_pass import RowPass
from skvibe._row_sweep import RowSweep
from skvibe.transport import solve_transport

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Passes near by visit a part of the rows; far off they start anew.
MOVES = (0.0, 0.1, 3.0, 300.0)


@pytest.fixture(autouse=True)
def _clear_rows_are_told_apart_in_small_problems(monkeypatch):
    monkeypatch.setattr(RowPass, "few_elements", 0)


@pytest.fixture(autouse=True)
def _a_few_programs(monkeypatch):
    """As many as are told apart; the interpreter runs them one after the other."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(_fused_pass, "PROGRAMS", 3)
        few = {least: (*sizes[:2], 3) for least, sizes in _fused_pass.SOFT.items()}
        monkeypatch.setattr(_fused_pass, "SOFT", few)
        monkeypatch.setattr(_fused_pass, "_n_multiprocessors", lambda device: 1)
        for tiles in (_fused_pass._screen_tiles, _fused_pass._soft_tiles):
            tiles.cache_clear()


def scores(n_rows, n_classes, turned=False, dtype=torch.float32, share=0.9):
    """Rows of which most, but not all, prefer one class by far."""
    rng = np.random.default_rng(0)
    log_p = 3.0 * rng.normal(size=(n_rows, n_classes))
    sure = rng.random(n_rows) < share
    log_p[sure, rng.integers(n_classes, size=sure.sum())] += 30.0
    log_p = torch.from_numpy(log_p).to(DEVICE, dtype)
    return log_p.T.contiguous().T if turned else log_p


def sweep_of(kind, *blocks, lam=2.0, **options):
    n_rows = sum(len(block) for block in blocks)
    sweep = RowSweep(lambda: list(blocks), n_rows=n_rows, lam=lam, **options)
    sweep._kind = kind
    return sweep


def assert_same_sums(one, two):
    assert one.value == pytest.approx(two.value, abs=one.noise + two.noise)
    np.testing.assert_allclose(one.columns, two.columns, atol=1e-12)
    if one.curvature is not None:
        # On a GPU products of single precision numbers are of TF32.
        curvatures = (torch.as_tensor(x.curvature).cpu() for x in (one, two))
        torch.testing.assert_close(*curvatures, rtol=2e-3, atol=1e-6)
    assert (one.reach is None) == (two.reach is None)
    if one.reach is not None:
        np.testing.assert_allclose(one.reach, two.reach, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 64, 100, 140, 300])
@pytest.mark.parametrize("turned", [False, True])
def test_sums_are_those_of_plain_operations(n_classes, turned):
    log_p = scores(400, n_classes, turned)
    plain, fused = (sweep_of(kind, log_p) for kind in (RowPass, FusedPass))
    rng = np.random.default_rng(1)
    g = rng.normal(size=n_classes)
    for move in MOVES:
        h = g + move * rng.normal(size=n_classes)
        assert_same_sums(fused(h, curvature=True), plain(h, curvature=True))
    assert fused._ambiguous[2.0] == pytest.approx(plain._ambiguous[2.0], abs=0.02)


@pytest.mark.parametrize("n_classes", [10, 100])
@pytest.mark.parametrize("move", MOVES)
def test_labels_are_the_largest_exponents(n_classes, move):
    log_p = scores(400, n_classes)
    log_p[:3] = log_p[:3].round()  # ties: the first one
    fused = sweep_of(FusedPass, log_p)
    g = np.zeros(n_classes)
    fused(g)
    h = g + move * np.random.default_rng(2).normal(size=n_classes)
    labels = torch.full((400,), -1, dtype=torch.int64, device=DEVICE)
    sums = fused.labels(h, labels)
    s = 2.0 * log_p.double() + torch.from_numpy(h).to(DEVICE)
    assert torch.equal(labels, s.argmax(dim=1))
    expected = torch.softmax(s, dim=1).mean(dim=0).cpu()
    np.testing.assert_allclose(sums.columns, expected, atol=1e-13)


def test_settled_rows_are_visited_once():
    blocks = scores(600, 10, share=1.0).split(250)
    fused, plain = (sweep_of(kind, *blocks, lam=25.0) for kind in (FusedPass, RowPass))
    g = np.zeros(10)
    for n_passes, move in [(1, 0.0), (1, 0.5), (1, 5.0), (2, 300.0)]:
        h = g + move * np.arange(10) / 9
        assert_same_sums(fused(h, curvature=True), plain(h, curvature=True))
        assert fused.n_passes == n_passes
        if n_passes == 1:
            assert fused.settled.n_left() < 120
            assert len(fused.settled.rest()) == 3


def test_all_rows_may_be_settled():
    log_p = torch.eye(12, device=DEVICE).repeat(20, 1) * 200.0
    plain, fused = (sweep_of(kind, log_p) for kind in (RowPass, FusedPass))
    for move in (0.0, 0.5):
        g = move * np.arange(12.0)
        assert_same_sums(fused(g, curvature=True), plain(g, curvature=True))
    assert fused.n_passes == 1
    assert fused.settled.n_left() == 0


def test_too_many_rows_are_not_put_aside():
    fused = sweep_of(FusedPass, scores(300, 7, share=0.0), lam=0.5)
    for _ in range(6):
        fused(np.zeros(7))
        assert fused.settled is None
    assert fused.n_passes == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_are_read_as_they_are(dtype):
    log_p = scores(200, 20, dtype=dtype)
    g = np.random.default_rng(3).normal(size=20)
    plain, fused = (sweep_of(kind, log_p) for kind in (RowPass, FusedPass))
    assert_same_sums(fused(g), plain(g))


def test_large_exponents_are_worked_on_in_double_precision():
    log_p = scores(200, 10, dtype=torch.float64) * 1e5
    plain, fused = (sweep_of(kind, log_p) for kind in (RowPass, FusedPass))
    g = np.random.default_rng(3).normal(size=10)
    one, two = fused(g, curvature=True), plain(g, curvature=True)
    assert_same_sums(one, two)
    assert one.noise < 1e-6


# NumPy, which the interpreter calculates with, warns of what is refused.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_classes", [4, 100])
def test_what_is_no_probability_is_refused(value, n_classes):
    log_p = scores(50, n_classes)
    if np.isneginf(value):
        log_p[7] = value  # one class may be out of reach, not all
    else:
        log_p[7, 1] = value
    with pytest.raises(ValueError, match="log_p must hold numbers below"):
        sweep_of(FusedPass, log_p)(np.zeros(n_classes))


def test_classes_out_of_reach_of_some_rows():
    log_p = scores(300, 12)
    log_p[::3, 4] = -torch.inf
    plain, fused = (sweep_of(kind, log_p) for kind in (RowPass, FusedPass))
    g = np.random.default_rng(4).normal(size=12)
    assert_same_sums(fused(g, curvature=True), plain(g, curvature=True))


@pytest.mark.parametrize("n_classes", [5, 20])
def test_a_whole_solve_agrees(n_classes, monkeypatch):
    log_p = torch.log_softmax(scores(600, n_classes) / 8, dim=1)
    prior = np.full(n_classes, 1 / n_classes)
    plain = solve_transport(log_p.cpu(), prior, tol=1e-8, lam=10.0)
    monkeypatch.setattr("skvibe._row_sweep.can_fuse", lambda rows: True)
    fused, again = (solve_transport(log_p, prior, tol=1e-8, lam=10.0) for _ in "ab")
    assert fused.converged
    assert torch.equal(fused.labels.cpu(), plain.labels)
    assert torch.equal(fused.potentials, again.potentials)
    assert fused.value == pytest.approx(plain.value, abs=1e-9)


def test_processors_and_small_matrices_do_without():
    assert not can_fuse(torch.empty(1 << 13, 1 << 13, device="meta"))
    assert not can_fuse(torch.zeros(10, 10, device=DEVICE))


@pytest.fixture
def as_if_on_cuda(monkeypatch):
    """The first trial of the kernels, wherever they run."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    _fused_pass._kernels_run.cache_clear()
    yield
    _fused_pass._kernels_run.cache_clear()


def test_kernels_are_tried_first(as_if_on_cuda):
    assert _fused_pass._kernels_run(DEVICE)


def test_kernels_that_do_not_compile_are_done_without(
    as_if_on_cuda, monkeypatch, caplog
):
    def fails(*args):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(_fused_pass, "_screen", fails)
    with caplog.at_level("INFO", logger="skvibe"):
        assert not _fused_pass._kernels_run(DEVICE)
    assert "C compiler" in caplog.text


@pytest.mark.parametrize("kernel", ["_soften", "_gram"])
def test_kernels_with_wrong_sums_are_done_without(
    kernel, as_if_on_cuda, monkeypatch, caplog
):
    original = getattr(_fused_pass, kernel)

    def wrong(*args):
        found = original(*args)
        return (1.001 * found[0], *found[1:]) if kernel == "_soften" else 1.1 * found

    monkeypatch.setattr(_fused_pass, kernel, wrong)
    assert not _fused_pass._kernels_run(DEVICE)
    assert "wrong sums" in caplog.text
