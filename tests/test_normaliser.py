"""The interpolated normaliser against the sum of its terms in double precision."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skvibe import _normaliser
from skvibe._normaliser import choose_interval, error_bound, log_normaliser
from skvibe.posteriors import corrupted_log_posterior, unit_rows

NU = [1e-3, 0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 1e3]


def inputs(n_rows, n_classes, n_features, nu, noise=1.0, seed=0, centre=0.0):
    """Scale, table and cosines with eta of unit vectors round prototypes, float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n):
        vectors = torch.randn(n, n_features, generator=generator)
        vectors[:, 0] += centre  # features of which none point away from the others
        return vectors

    mu = unit_rows(draw(n_classes))
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    v = unit_rows(mu[labels] + noise * draw(n_rows) / n_features**0.5)
    eta = unit_rows(mu + 0.3 * draw(n_classes) / n_features**0.5)
    scale = nu / (2 + 2 * v @ mu.T).clamp_min(1e-12).sqrt()
    return scale, mu @ eta.T, v @ eta.T


def exact(scale, table, given_cosines):
    terms = table.double()[None] + given_cosines.double()[:, None]
    return torch.logsumexp(terms * scale.double()[:, :, None], dim=2)


@pytest.mark.parametrize("nu", NU)
@pytest.mark.parametrize("n_classes", [32, 100])
@pytest.mark.parametrize(
    "geometry",
    [
        {"n_features": 384, "noise": 1.5},
        {"n_features": 384, "noise": 0.2},
        {"n_features": 4},  # cosines all over [-1, 1]
        {"n_features": 64, "centre": 30.0},  # cosines near 1
    ],
)
def test_error_is_that_of_single_precision(nu, n_classes, geometry):
    scale, table, given_cosines = inputs(300, n_classes, nu=nu, **geometry)
    result = log_normaliser(scale, table, given_cosines, nu)
    reference = exact(scale, table, given_cosines)
    # Rounding of the largest logit, from three operations, and the interpolation.
    rounding = 6e-8 * 3 * (2 * scale.double() + reference.abs() + nu)
    assert ((result - reference).abs() <= _normaliser.TOLERANCE + rounding).all()


@pytest.mark.parametrize("geometry", [{"noise": 1.5}, {"centre": 30.0}])
def test_usual_features_are_interpolated(geometry):
    problem = inputs(2000, 100, 384, 20.0, **geometry)
    low, high, n_nodes = choose_interval(*problem)
    assert n_nodes <= 8
    assert ((problem[0] >= low) & (problem[0] <= high)).float().mean() > 0.95


def test_terms_are_summed_where_products_would_leave_the_range():
    for nu in (100.0, 1e6):
        assert choose_interval(*inputs(200, 100, 384, nu)) is None
    opposite = inputs(200, 100, 4, 20.0)
    interval = choose_interval(*opposite)
    assert interval is None or opposite[0].max() > interval[1]


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 50.0),
    st.floats(1.01, 2.0),
    st.integers(3, 10),
)
def test_bound_on_the_error_holds(seed, low, width, n_nodes):
    # In double precision, where no rounding hides it.
    high = low * width
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 60))
    reach = min(1.0, 60.0 / (4 * high))
    table = torch.from_numpy(rng.uniform(-reach, reach, (n_classes, n_classes)))
    given_cosines = torch.from_numpy(rng.uniform(-reach, reach, (20, n_classes)))
    scale = torch.from_numpy(rng.uniform(low, high, (20, n_classes)))
    result = torch.empty_like(scale)
    _normaliser._interpolate(scale, table, given_cosines, low, high, n_nodes, result)
    error = (result - exact(scale, table, given_cosines)).abs().max().item()
    bound = error_bound(low, high, n_classes, n_nodes)
    if bound < 0.1:
        assert error <= 1.1 * bound + 1e-11


def test_double_precision_is_never_interpolated():
    problem = [x.double() for x in inputs(100, 64, 32, 20.0)]
    result = log_normaliser(*problem, 20.0)
    torch.testing.assert_close(result, exact(*problem), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("nu", [20.0, 60.0])
@pytest.mark.parametrize("n_classes", [5, 100])
def test_where_a_gradient_is_wanted_the_sum_is_differentiable(nu, n_classes):
    problem = inputs(50, n_classes, 32, nu)
    plain = log_normaliser(*problem, nu)
    wanted = [x.clone().requires_grad_() for x in problem]
    result = log_normaliser(*wanted, nu)
    torch.testing.assert_close(result.detach(), plain, rtol=1e-5, atol=2e-5)
    result.sum().backward()
    # d/ds is the mean of the terms' slopes.
    double = [x.double().requires_grad_() for x in problem]
    exact_sum = torch.logsumexp(
        (double[1][None] + double[2][:, None]) * double[0][:, :, None], dim=2
    )
    exact_sum.sum().backward()
    for ours, theirs in zip(wanted, double, strict=True):
        torch.testing.assert_close(
            ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3
        )


def test_blocks_and_repeats_give_the_same():
    scale, table, given_cosines = inputs(3000, 100, 64, 20.0)
    whole = log_normaliser(scale, table, given_cosines, 20.0)
    assert torch.equal(whole, log_normaliser(scale, table, given_cosines, 20.0))
    parts = [
        log_normaliser(s, table, b, 20.0)
        for s, b in zip(scale.split(700), given_cosines.split(700), strict=True)
    ]
    # Each chooses its own interval: equal but for the error allowed.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)


def test_posterior_of_many_classes_is_normalised():
    generator = torch.Generator().manual_seed(0)
    v, mu, eta = (unit_rows(torch.randn(40, 32, generator=generator)) for _ in "123")
    total = torch.zeros(40, 40)
    for y in range(40):
        given = torch.full((40,), y)
        log_p = corrupted_log_posterior(v @ mu.T, v @ eta.T, mu @ eta.T, given, 20.0)
        total += log_p.exp()
    torch.testing.assert_close(total, torch.ones(40, 40), rtol=0, atol=2e-5)


def test_no_rows():
    empty = torch.empty(0, 100)
    assert log_normaliser(empty, torch.eye(100), empty, 20.0).shape == (0, 100)


def test_nothing_of_more_than_the_matrix_is_held():
    from torch.profiler import ProfilerActivity, profile

    problem = inputs(40_000, 64, 16, 20.0)
    activities = [ProfilerActivity.CPU]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own
        with profile(activities=activities, profile_memory=True) as recorded:
            log_normaliser(*problem, 20.0)
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    matrix = problem[0].numel() * 4
    assert matrix <= peak < 1.7 * matrix  # the result and a few blocks


# -- the parts -------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 32, 1000])
@pytest.mark.parametrize("n_nodes", [3, 4, 8, 12])
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.2), (3.0, 4.5), (10.0, 30.0)])
def test_bound_on_the_error_is_that_of_both_kinds_of_terms(
    n_classes, n_nodes, low, high
):
    # Chebyshev's error for a degree J - 1: 2 (x / 2)^J / J! times the maximum.
    ratio = (high - low) / 2 / low
    chebyshev = 2.0 / (2.0**n_nodes * math.factorial(n_nodes))
    x = ratio * math.log(n_classes)
    above = chebyshev * x**n_nodes * math.exp(2 * x)
    t = np.linspace(0, 60, 60_001)
    below = chebyshev * n_classes * np.max(np.exp(-t) * (ratio * t) ** n_nodes)
    bound = error_bound(low, high, n_classes, n_nodes)
    assert bound == pytest.approx(above + below, rel=1e-6)


def test_no_interval_and_one_class_have_no_error():
    assert error_bound(2.0, 2.0, 50, 3) == 0.0
    assert error_bound(2.0, 3.0, 1, 12) < error_bound(2.0, 3.0, 2, 12)


@pytest.mark.parametrize("width", [1.001, 1.1, 1.3, 1.6, 2.0, 4.0, 50.0])
@pytest.mark.parametrize("n_classes", [32, 1000])
def test_fewest_nodes_within_the_tolerance(width, n_classes):
    found = _normaliser.nodes_needed(2.0, 2.0 * width, n_classes)
    enough = [
        n for n in range(3, 13) if error_bound(2.0, 2.0 * width, n_classes, n) <= 1e-6
    ]
    assert found == (enough[0] if enough else 13)


def test_spread_is_the_largest_difference_within_a_row():
    logits = torch.tensor([[0.0, 3.0, 1.0], [-5.0, -4.0, -9.5], [100.0, 100.0, 100.0]])
    assert _normaliser._spread(logits) == 5.5


@pytest.mark.parametrize("outliers", [0, 500, 5_000, 40_000])
def test_interval_leaves_out_few_pairs_and_those_are_summed(outliers):
    scale, table, given_cosines = inputs(4000, 100, 384, 20.0)
    generator = torch.Generator().manual_seed(1)
    scale = 11.0 + 2.0 * torch.rand(scale.shape, generator=generator)
    chosen = torch.randperm(scale.numel(), generator=generator)[:outliers]
    scale.view(-1)[chosen] = 18.0
    low, high, n_nodes = choose_interval(scale, table, given_cosines)
    assert n_nodes == _normaliser.nodes_needed(low, high, 100) <= 12
    outside = ((scale < low) | (scale > high)).float().mean().item()
    assert outside <= 0.045
    assert 10.9 < low < 11.1
    # Few far away are left out, many are taken in.
    assert (high > 18.0) == (outliers > 20_000)
    result = log_normaliser(scale, table, given_cosines, 36.0)
    reference = exact(scale, table, given_cosines)
    torch.testing.assert_close(result.double(), reference, rtol=1e-6, atol=1e-5)


def test_interval_is_none_for_no_pairs_and_beyond_the_range():
    scale, table, given_cosines = inputs(500, 64, 384, 20.0)
    assert choose_interval(scale[:0], table, given_cosines[:0]) is None
    spread = _normaliser._spread(table) + _normaliser._spread(given_cosines)
    for reach, usable in [(59.0, True), (61.0, False)]:
        narrow = torch.full_like(scale, reach / spread)
        assert (choose_interval(narrow, table, given_cosines) is not None) == usable
    # A single slope: the fewest nodes.
    low, high, n_nodes = choose_interval(narrow / 2, table, given_cosines)
    s = float(narrow[0, 0]) / 2
    assert low == pytest.approx(0.999 * s)
    assert high == pytest.approx(1.001 * s)
    assert n_nodes == 3


def test_every_class_is_in_the_sample_of_the_interval(monkeypatch):
    # Some classes have other slopes; every fortieth pair would miss most of them.
    monkeypatch.setattr(_normaliser, "SAMPLE", 800)
    scale, table, given_cosines = inputs(500, 64, 384, 20.0)
    for k in range(8):
        other = torch.full_like(scale, 12.0)
        other[:, k::8] = 14.0
        low, high, _ = choose_interval(other, table, given_cosines)
        assert high == pytest.approx(1.001 * 14.0)
        assert low == pytest.approx(0.999 * 12.0)


@pytest.mark.parametrize("n_classes", [2, 63, 64])
@pytest.mark.parametrize("nu", [1e-3, 39.0, 40.0, 41.0, 1e4])
def test_term_by_term_in_double_precision(n_classes, nu):
    scale, table, given_cosines = (
        x.double() for x in inputs(40, n_classes, 16, nu / 2, noise=0.5)
    )
    out = torch.empty_like(scale)
    _normaliser._sum(scale, table, given_cosines, nu, out)
    reference = exact(scale, table, given_cosines)
    # Terms of less than exp(-80) of the largest are taken for that.
    torch.testing.assert_close(out, reference, rtol=1e-13, atol=1e-12)
    row, l = torch.arange(40), torch.arange(40) % n_classes
    pairs = _normaliser._sum_pairs(scale[row, l], table[l], given_cosines, nu)
    torch.testing.assert_close(pairs, reference[row, l], rtol=1e-13, atol=1e-12)
    again = _normaliser._sum_differentiable(scale, table, given_cosines, nu)
    torch.testing.assert_close(again, reference, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("n_classes", [10, 100])
def test_rows_are_worked_in_blocks(n_classes, monkeypatch):
    problem = inputs(100, n_classes, 64, 20.0)
    whole = log_normaliser(*problem, 20.0)
    sizes = []
    for name in ("_sum", "_interpolate"):
        part = getattr(_normaliser, name)

        def counted(scale, *rest, part=part):
            sizes.append(len(scale))
            return part(scale, *rest)

        monkeypatch.setattr(_normaliser, name, counted)
    monkeypatch.setattr(_normaliser, "CPU_BLOCK", 7 * n_classes + 1)
    blocks = log_normaliser(*problem, 20.0)
    assert sizes == [7] * 14 + [2]
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-5)
    sizes.clear()
    monkeypatch.setattr(_normaliser, "CPU_BLOCK", 1)
    torch.testing.assert_close(log_normaliser(*problem, 20.0), whole, rtol=0, atol=1e-5)
    assert sizes == [1] * 100


@pytest.mark.parametrize(("n_classes", "interpolated"), [(31, False), (32, True)])
def test_few_classes_are_summed(n_classes, interpolated, monkeypatch):
    asked = []
    monkeypatch.setattr(
        _normaliser, "choose_interval", lambda *of: asked.append(1) and None
    )
    log_normaliser(*inputs(50, n_classes, 64, 20.0), 20.0)
    assert bool(asked) == interpolated


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_one_gradient_is_enough(wanted):
    problem = inputs(20, 40, 16, 20.0)
    problem[wanted].requires_grad_()
    assert log_normaliser(*problem, 20.0).requires_grad
    with torch.no_grad():
        assert not log_normaliser(*problem, 20.0).requires_grad
