"""Entropic transport: against POT, against the optimality conditions, at the edges."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning

from skvibe import transport
from skvibe._row_pass import RowPass
from skvibe.transport import (
    RowsAside,
    RowSweep,
    TransportResult,
    solve_semidual,
    solve_transport,
    transport_rows,
)

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def exact_plan(log_p, potentials, lam):
    """The plan that potentials stand for, in float64, row sums 1/N."""
    exponent = lam * np.asarray(log_p, dtype=np.float64) + potentials
    plan = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return plan / plan.sum(axis=1, keepdims=True) / len(plan)


def column_error(plan, prior):
    return np.abs(plan.sum(axis=0, dtype=np.float64) - prior).sum()


def posterior(n_rows, n_classes, seed=0, dtype=np.float32, strength=10.0):
    """Log-posteriors of unit vectors round unit prototypes, some labels wrong."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes, 16))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    y = rng.integers(n_classes, size=n_rows)
    x = centres[y] + 0.3 * rng.standard_normal((n_rows, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    logits = strength * x @ centres.T
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    given = np.where(rng.random(n_rows) < 0.1, 0, y)
    log_p += np.where(given[:, None] == np.arange(n_classes), -0.1, -6.0)
    return log_p.astype(dtype)


def soft_prior(n_classes, seed=0, spread=0.1):
    logits = spread * np.random.default_rng(seed).standard_normal(n_classes)
    return np.exp(logits) / np.exp(logits).sum()


@st.composite
def problems(draw):
    """N 1-500, K 2-50, lam 0.1-200, tiny shares, log_p down to -1e4, ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows = draw(st.one_of(st.integers(1, 20), st.integers(1, 500)))
    n_classes = draw(st.one_of(st.just(2), st.integers(2, 50)))
    lam = draw(st.floats(0.1, 200.0))
    depth = 10.0 ** draw(st.floats(-2.0, 4.0))
    log_p = -depth * rng.random((n_rows, n_classes))
    if draw(st.booleans()):
        log_p = np.round(log_p)
    if draw(st.booleans()):  # a class that no row prefers
        log_p[:, draw(st.integers(0, n_classes - 1))] = -1e4
    if draw(st.integers(0, 9)) == 0:
        log_p[:] = log_p[0]
    prior = rng.dirichlet(np.full(n_classes, 10.0 ** draw(st.floats(-1.0, 2.0))))
    if draw(st.booleans()):
        prior[draw(st.integers(0, n_classes - 1))] = 10.0 ** -draw(st.integers(3, 15))
    prior = np.maximum(prior, 1e-16)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return log_p.astype(dtype), prior / prior.sum(), lam


@given(problems())
@settings(SETTINGS, max_examples=300)
def test_solution_has_the_form_and_the_marginals_of_the_optimum(problem):
    # softmax(lam log_p + g) / N with the right columns is the unique optimum.
    log_p, prior, lam = problem
    tol = 1e-9
    result = solve_transport(log_p, prior, lam=lam, tol=tol, return_plan=True)
    plan = exact_plan(log_p, result.potentials, lam)
    # Exponents near a million leave ten digits to float64 itself.
    rounding = 1e-15 * np.abs(result.potentials).max()
    assert result.converged
    assert result.error <= tol
    assert column_error(plan, prior) == pytest.approx(
        result.error, rel=1e-3, abs=1e-12 + rounding
    )
    np.testing.assert_allclose(result.plan, plan, atol=1e-7 / len(plan))
    np.testing.assert_array_equal(result.labels, plan.argmax(axis=1))
    assert abs(prior @ result.potentials) <= 1e-9 + rounding


def test_value_is_the_objective_at_the_solution():
    log_p, prior = posterior(2000, 10), soft_prior(10)
    result = solve_transport(log_p, prior, lam=5.0, tol=1e-10)
    plan = exact_plan(log_p, result.potentials, 5.0)
    entropy = -np.sum(plan * np.log(np.maximum(plan, 1e-300)))
    objective = np.sum(plan * log_p) + (entropy - np.log(2000)) / 5.0
    assert result.value == pytest.approx(objective, abs=1e-6)


@st.composite
def mild_problems(draw):
    """Problems on which Sinkhorn's algorithm ends in reasonable time."""
    log_p, prior, lam = draw(problems())
    spread = lam * float(log_p.max() - log_p.min())
    return log_p, prior, lam * min(1.0, draw(st.floats(1.0, 60.0)) / spread) + 1e-9


@given(mild_problems())
@settings(SETTINGS, max_examples=60)
def test_agrees_with_pot(problem):
    from ot.bregman import sinkhorn_log

    log_p, prior, lam = problem
    ours = solve_transport(log_p, prior, lam=lam, tol=1e-9, return_plan=True)
    rows = np.full(len(log_p), 1.0 / len(log_p))
    cost = log_p.max(axis=1, keepdims=True).astype(np.float64) - log_p
    reference = sinkhorn_log(
        rows, prior, cost, 1.0 / lam, numItermax=5000, stopThr=1e-9, warn=False
    )
    assert column_error(ours.plan, prior) <= 1e-6
    if column_error(reference, prior) <= 1e-8:  # else POT has not finished
        np.testing.assert_allclose(ours.plan, reference, atol=1e-6)


def test_pot_finishes_on_an_ordinary_problem_and_agrees():
    log_p, prior = posterior(200, 5, dtype=np.float64), soft_prior(5)
    ours = solve_transport(log_p, prior, lam=2.0, tol=1e-9, return_plan=True)
    pot = solve_transport(
        log_p, prior, lam=2.0, tol=1e-9, solver="pot", return_plan=True
    )
    assert isinstance(pot, TransportResult)
    assert pot.converged
    assert pot.n_iter > ours.n_iter
    np.testing.assert_allclose(ours.plan, pot.plan, atol=1e-9)
    np.testing.assert_array_equal(ours.labels, pot.labels)
    np.testing.assert_allclose(ours.potentials, pot.potentials, atol=1e-5)
    again = solve_transport(
        log_p, prior, lam=2.0, tol=1e-9, solver="pot", init=pot.potentials
    )
    assert again.n_iter < 0.2 * pot.n_iter
    assert again.converged


def test_pot_that_runs_out_of_iterations_says_so():
    log_p, prior = posterior(200, 5, dtype=np.float64), soft_prior(5)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = solve_transport(log_p, prior, solver="pot", max_iter=5)
    assert not result.converged
    plan = exact_plan(log_p, result.potentials, 25.0)
    assert result.error == pytest.approx(column_error(plan, prior), rel=1e-9)


@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_six_decades_of_lam(lam, dtype):
    log_p, prior = posterior(2000, 10, dtype=dtype), soft_prior(10)
    result = solve_transport(log_p, prior, lam=lam)
    assert result.converged
    plan = exact_plan(log_p, result.potentials, lam)
    assert column_error(plan, prior) <= min(1e-6, 0.1 / 2000) + 1e-9


def nearly_starved(log_p, prior):
    prior[3] = 1e-8
    return log_p, prior / prior.sum()


def dominant(log_p, prior):
    prior[3] = 9.0
    return log_p, prior / prior.sum()


def far_class(log_p, prior):
    log_p[:, 4] -= 1e4
    return log_p, prior


def forbidden(log_p, prior):
    log_p[np.random.default_rng(0).random(log_p.shape) < 0.3] = -np.inf
    return log_p, prior


def all_tied(log_p, prior):
    return np.zeros_like(log_p), prior


def few_rows(log_p, prior):
    return log_p[:7], prior


def one_row(log_p, prior):
    return log_p[:1], prior


CASES = [nearly_starved, dominant, far_class, forbidden, all_tied, few_rows, one_row]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_classes", [10, 80])  # either layout
def test_hard_cases_converge(case, n_classes):
    log_p, prior = case(posterior(1500, n_classes), soft_prior(n_classes))
    result = solve_transport(log_p, prior, tol=1e-9)
    assert result.converged
    plan = exact_plan(log_p, result.potentials, 25.0)
    assert column_error(plan, prior) <= 1.001e-9 + 1e-15 * abs(result.potentials).max()
    np.testing.assert_array_equal(result.labels, plan.argmax(axis=1))


def test_more_classes_than_rows_at_a_thousand_classes():
    log_p, prior = posterior(300, 400, strength=20.0), soft_prior(400)
    assert solve_transport(log_p, prior).converged


@pytest.mark.parametrize("infeasible", ["one-hot", "one row"])
def test_without_a_solution_the_result_is_finite_and_honest(infeasible):
    log_p, prior = posterior(400, 6), soft_prior(6)
    if infeasible == "one-hot":  # rows that leave no choice, and in other shares
        log_p[log_p < log_p.max(axis=1, keepdims=True)] = -np.inf
    else:  # a class that a single row can take
        log_p[1:, 4] = -np.inf
    with pytest.warns(ConvergenceWarning, match="no solution"):
        result = solve_transport(log_p, prior, return_plan=True)
    assert not result.converged
    assert np.isfinite(result.potentials).all()
    assert np.isfinite(result.plan).all()
    plan = exact_plan(log_p, result.potentials, 25.0)
    assert result.error == pytest.approx(column_error(plan, prior), rel=1e-6)
    reachable = (np.isfinite(log_p).sum(axis=0) / len(log_p))[4]
    if infeasible == "one row":
        assert result.error >= 2 * (prior[4] - reachable) - 1e-9
        # ... and no more than a row away from the best there is.
        assert result.error <= 2 * (prior[4] - reachable) + 2 / 400


def test_out_of_passes_is_reported_with_the_error_of_what_is_returned():
    log_p, prior = posterior(500, 8), soft_prior(8)
    with pytest.warns(ConvergenceWarning, match="Raise max_iter or tol"):
        result = solve_transport(log_p, prior, max_iter=2)
    assert result.n_iter == 2
    assert not result.converged
    plan = exact_plan(log_p, result.potentials, 25.0)
    assert result.error == pytest.approx(column_error(plan, prior), rel=1e-9)


def test_impossible_precision_is_reported():
    log_p, prior = posterior(500, 8), soft_prior(8)
    with pytest.warns(ConvergenceWarning, match="tol=1e-30"):
        result = solve_transport(log_p, prior, tol=1e-30)
    assert result.error < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_that_of_the_data_not_of_the_arithmetic(dtype):
    log_p = torch.from_numpy(posterior(3000, 10)).to(dtype)
    result = solve_transport(log_p, soft_prior(10), tol=1e-9)
    plan = exact_plan(log_p.double().numpy(), result.potentials.numpy(), 25.0)
    assert result.converged
    assert column_error(plan, soft_prior(10)) <= 1.001e-9


def test_single_precision_data_give_the_result_of_their_double():
    log_p, prior = posterior(3000, 10), soft_prior(10)
    single = solve_transport(log_p, prior, tol=1e-10)
    double = solve_transport(log_p.astype(np.float64), prior, tol=1e-10)
    np.testing.assert_allclose(single.potentials, double.potentials, atol=1e-6)
    np.testing.assert_array_equal(single.labels, double.labels)


def test_default_tolerance_moves_no_label():
    log_p, prior = posterior(5000, 10), soft_prior(10)
    usual = solve_transport(log_p, prior)
    exact = solve_transport(log_p, prior, tol=1e-12)
    assert np.mean(usual.labels != exact.labels) == 0


def test_ties_go_to_the_first_class():
    result = solve_transport(np.zeros((6, 3)), np.full(3, 1 / 3))
    np.testing.assert_array_equal(result.labels, np.zeros(6))


def test_tensor_in_tensor_out_array_in_array_out():
    array, prior = posterior(50, 4), soft_prior(4)
    result = solve_transport(array, prior, return_plan=True)
    for value in (result.labels, result.plan, result.potentials):
        assert isinstance(value, np.ndarray)
    assert (result.labels.dtype, result.plan.dtype) == (np.int64, np.float32)
    assert result.potentials.dtype == np.float64
    tensor = torch.tensor(array, requires_grad=True)
    same = solve_transport(tensor, torch.tensor(prior), return_plan=True)
    for value in (same.labels, same.plan, same.potentials):
        assert isinstance(value, torch.Tensor)
        assert not value.requires_grad
    assert same.plan.dtype == torch.float32
    np.testing.assert_array_equal(same.potentials.numpy(), result.potentials)
    np.testing.assert_array_equal(same.plan.numpy(), result.plan)
    assert solve_transport(array, prior).plan is None


def test_rows_of_the_plan_sum_to_one_over_n():
    log_p, prior = posterior(300, 70, dtype=np.float64), soft_prior(70)
    plan = solve_transport(log_p, prior, return_plan=True).plan
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 300, rtol=1e-14)


@pytest.mark.parametrize("n_classes", [10, 80])
def test_storage_does_not_matter(n_classes):
    log_p, prior = posterior(3000, n_classes), soft_prior(n_classes)
    expected = solve_transport(log_p, prior, tol=1e-9)
    read_only = log_p.copy()
    read_only.flags.writeable = False
    stored = [
        read_only,
        np.asfortranarray(log_p),
        np.repeat(log_p, 2, axis=0)[::2],
        log_p[::-1].copy()[::-1],
        torch.from_numpy(log_p).T.contiguous().T,
        log_p.tolist(),
    ]
    for other in stored:
        result = solve_transport(other, prior, tol=1e-9)
        np.testing.assert_allclose(result.potentials, expected.potentials, atol=1e-4)
        np.testing.assert_array_equal(result.labels, expected.labels)


def test_integer_scores_are_welcome():
    scores = np.random.default_rng(0).integers(-5, 0, size=(40, 3))
    whole = solve_transport(scores, soft_prior(3), lam=1.0)
    real = solve_transport(scores.astype(float), soft_prior(3), lam=1.0)
    np.testing.assert_array_equal(whole.potentials, real.potentials)
    assert solve_transport(torch.tensor(scores), soft_prior(3), lam=1.0).converged


def test_nothing_of_the_callers_changes():
    log_p, prior = posterior(500, 8), soft_prior(8)
    before = log_p.copy(), prior.copy()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    init = np.zeros(8)
    solve_transport(log_p, prior, init=init, return_plan=True)
    np.testing.assert_array_equal(log_p, before[0])
    np.testing.assert_array_equal(prior, before[1])
    np.testing.assert_array_equal(init, 0.0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_the_same_bits_every_time():
    log_p, prior = posterior(30_000, 10), soft_prior(10)
    first, second = (solve_transport(log_p, prior, return_plan=True) for _ in "12")
    assert first.potentials.tobytes() == second.potentials.tobytes()
    assert first.plan.tobytes() == second.plan.tobytes()
    assert first.error == second.error


def test_warm_start_takes_few_passes():
    log_p, prior = posterior(20_000, 10), soft_prior(10)
    cold = solve_transport(log_p, prior)
    rng = np.random.default_rng(0)
    moved = (log_p * 1.05 + 0.05 * rng.standard_normal(10)).astype(np.float32)
    warm = solve_transport(moved, prior, init=cold.potentials)
    assert cold.n_iter <= 20
    assert warm.n_iter <= 6
    assert warm.converged
    assert solve_transport(log_p, prior, init=cold.potentials).n_iter == 1


def test_sums_of_shares_of_the_rows_solve_the_whole():
    # What processes holding parts of the rows would exchange: sums, and one maximum.
    log_p, prior = torch.from_numpy(posterior(5000, 12)), soft_prior(12)
    parts = [
        RowSweep(lambda rows=rows: [rows], n_rows=5000, lam=25.0)
        for rows in log_p.split([700, 4300])
    ]
    calls = []

    def reduced(potentials, **options):
        one, two = (part(potentials, **options) for part in parts)
        calls.append(1)
        reach = None if one.reach is None else np.maximum(one.reach, two.reach)
        return one._replace(
            value=one.value + two.value,
            columns=one.columns + two.columns,
            curvature=one.curvature + two.curvature,
            reach=reach,
        )

    shared = solve_semidual(reduced, prior, tol=1e-9)
    whole = solve_transport(log_p, prior, tol=1e-9)
    assert shared.n_sweeps == len(calls) == whole.n_iter
    assert shared.error <= 1e-9
    np.testing.assert_allclose(shared.potentials, whole.potentials, atol=1e-6)


def test_rows_may_be_computed_chunk_by_chunk():
    log_p, prior = torch.from_numpy(posterior(5000, 12)), soft_prior(12)

    def computed():
        for rows in log_p.split(333):
            yield rows + 0.0

    sweep = RowSweep(computed, n_rows=5000, lam=25.0, precision=1e-12)
    found = solve_semidual(sweep, prior, tol=1e-9)
    plan = exact_plan(log_p, found.potentials, 25.0)
    assert column_error(plan, prior) == pytest.approx(found.error, abs=1e-11)
    assert found.error <= 1e-9


@pytest.mark.parametrize("n_classes", [7, 80, 300])  # each has its own way
@pytest.mark.parametrize("lam", [0.3, 25.0])
def test_sums_are_those_of_the_definition(n_classes, lam):
    log_p = posterior(4000, n_classes)
    g = np.random.default_rng(1).standard_normal(n_classes)
    blocks = [torch.from_numpy(log_p)]
    sums = RowSweep(lambda: blocks, n_rows=4000, lam=lam)(g, curvature=True)
    exponent = lam * log_p.astype(np.float64) + g
    top = exponent.max(axis=1)
    q = exact_plan(log_p, g, lam) * 4000
    value = (top + np.log(np.exp(exponent - top[:, None]).sum(axis=1))).mean()
    assert sums.value == pytest.approx(value, abs=max(sums.noise, 1e-12))
    np.testing.assert_allclose(sums.columns, q.mean(axis=0), atol=1e-11)
    expected = np.diag(q.mean(axis=0)) - q.T @ q / 4000
    np.testing.assert_allclose(sums.curvature, expected, atol=1e-6)
    assert np.linalg.eigvalsh(sums.curvature).min() > -1e-15
    np.testing.assert_allclose(
        sums.reach, (exponent - top[:, None]).max(axis=0), atol=1e-3
    )


def test_curvature_is_the_derivative_of_the_columns():
    log_p = torch.from_numpy(posterior(500, 6, dtype=np.float64))
    sweep = RowSweep(lambda: [log_p], n_rows=500, lam=5.0)
    g, h = np.linspace(-1, 1, 6), 1e-5
    curvature = sweep(g, curvature=True).curvature
    for k in range(6):
        step = h * np.eye(6)[k]
        slope = (sweep(g + step).columns - sweep(g - step).columns) / (2 * h)
        np.testing.assert_allclose(curvature[k], slope, atol=1e-6)
        rise = (sweep(g + step).value - sweep(g - step).value) / (2 * h)
        assert rise == pytest.approx(sweep(g).columns[k], abs=1e-2)


@pytest.mark.parametrize("n_classes", [7, 80])
def test_accelerators_fixed_places_give_the_same_sums(n_classes, monkeypatch):
    # On an accelerator the host must not wait for counts: same rows, same sums.
    log_p = torch.from_numpy(posterior(4000, n_classes))
    prior = soft_prior(n_classes)
    usual = solve_transport(log_p, prior, tol=1e-9)
    plain = RowSweep(lambda: [log_p], n_rows=4000, lam=5.0)(np.zeros(n_classes))
    monkeypatch.setattr(RowSweep, "fixed_places", staticmethod(lambda device: True))
    sweep = RowSweep(lambda: [log_p], n_rows=4000, lam=5.0)
    sums = sweep(np.zeros(n_classes))
    np.testing.assert_allclose(sums.columns, plain.columns, atol=1e-12)
    assert sweep._capacity > 0.125  # there were too few, and the pass ran again
    fixed = solve_transport(log_p, prior, tol=1e-9)
    # Other sums, other rounding: the same solution to the tolerance asked for.
    assert abs(fixed.n_iter - usual.n_iter) <= 2
    np.testing.assert_allclose(
        transport_rows(log_p, fixed.potentials),
        transport_rows(log_p, usual.potentials),
        atol=1e-5,
    )
    np.testing.assert_array_equal(fixed.labels, usual.labels)


@pytest.mark.parametrize("n_classes", [7, 80])
@pytest.mark.parametrize("lam", [25.0, 60.0])
def test_rows_put_aside_change_no_sum(n_classes, lam):
    # Passes near the last one over all rows visit a part of them only.
    log_p = torch.from_numpy(posterior(8000, n_classes, strength=40.0))
    for storage in (log_p, log_p.T.contiguous().T):
        sweep = RowSweep(lambda rows=storage: [rows], n_rows=8000, lam=lam)
        rng = np.random.default_rng(0)
        g = rng.standard_normal(n_classes)
        sweep(g)
        assert sweep.settled.n_left() < 0.2 * 8000
        labels = torch.empty(8000, dtype=torch.int64)
        for size in (0.1, 3.0, 30.0, 400.0):
            h = g + size * rng.random(n_classes)
            for again in (True, False):
                fresh = RowSweep(lambda: [log_p], n_rows=8000, lam=lam)
                n_passes = sweep.n_passes
                sums, other = sweep(h, curvature=again), fresh(h, curvature=again)
                assert sweep.n_passes == n_passes or size == 400
                np.testing.assert_allclose(sums.columns, other.columns, atol=4e-12)
                assert sums.value == pytest.approx(other.value, abs=2 * sums.noise)
                if again:
                    np.testing.assert_allclose(
                        sums.curvature, other.curvature, atol=1e-6
                    )
            exact = lam * log_p.double() + torch.from_numpy(h)
            labelled = sweep.labels(h, labels)
            assert torch.equal(labels, exact.argmax(dim=1))
            expected = torch.softmax(exact, dim=1).mean(dim=0)
            np.testing.assert_allclose(labelled.columns, expected, atol=1e-13)


def test_rows_aside_are_for_the_own_solver_only():
    aside = RowsAside(25.0, np.zeros(2), 10.0, np.array([3.0, 1.0]), 0.0)
    with pytest.raises(ValueError, match="aside needs solver"):
        solve_transport(np.zeros((4, 2)), [0.5, 0.5], solver="pot", aside=aside)


@pytest.mark.parametrize("n_classes", [3, 70])
def test_few_rows_are_summed_without_telling_them_apart(n_classes, monkeypatch):
    log_p, prior = torch.from_numpy(posterior(400, n_classes)), soft_prior(n_classes)
    found = {}
    for elements in (0, RowPass.few_elements):
        monkeypatch.setattr(RowPass, "few_elements", elements)
        found[elements] = solve_transport(log_p, prior, tol=1e-9)
        assert found[elements].converged
    apart, together = found.values()
    assert torch.equal(apart.labels, together.labels)
    torch.testing.assert_close(apart.potentials, together.potentials, atol=1e-5, rtol=0)


def test_too_many_rows_are_not_put_aside():
    log_p = torch.from_numpy(posterior(4000, 7))
    sweep = RowSweep(lambda: [log_p], n_rows=4000, lam=1.0)
    for _ in range(6):
        sweep(np.zeros(7))
        assert sweep.settled is None
    assert sweep.n_passes == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_cuda_agrees_and_never_waits_within_a_pass(monkeypatch):
    from skvibe._row_pass import RowPass

    add = RowPass.add

    def strict_add(self, block, labels=None, start=0):
        if not self.sums:
            self._start(block.device)  # takes the potentials to the device
        torch.cuda.set_sync_debug_mode("error")
        try:
            add(self, block, labels, start)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    log_p, prior = torch.from_numpy(posterior(50_000, 100)), soft_prior(100)
    host = solve_transport(log_p, prior, tol=1e-9)
    monkeypatch.setattr(RowPass, "add", strict_add)
    device = solve_transport(log_p.cuda(), prior, tol=1e-9)
    assert device.labels.is_cuda
    assert device.converged
    assert torch.equal(device.labels.cpu(), host.labels)


def test_new_rows_get_the_plans_rows():
    log_p, prior = posterior(200, 6, dtype=np.float64), soft_prior(6)
    result = solve_transport(log_p, prior, return_plan=True)
    q = transport_rows(log_p[:50], result.potentials, lam=25.0)
    np.testing.assert_allclose(q, 200 * result.plan[:50], rtol=1e-12)
    tensor = torch.from_numpy(posterior(200, 6))
    q = transport_rows(tensor, torch.from_numpy(result.potentials))
    assert q.dtype == torch.float32
    np.testing.assert_allclose(q.sum(dim=1).numpy(), 1.0, rtol=1e-6)
    blocked = transport_rows([[0.0, -np.inf]], [0.0, 3.0], lam=2.0)
    np.testing.assert_array_equal(blocked, [[1.0, 0.0]])


@pytest.mark.parametrize("n_classes", [7, 80])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lam", [0.3, 25.0, 400.0])
def test_responsibilities_are_a_softmax(n_classes, dtype, lam):
    log_p = posterior(300, n_classes, dtype=dtype)
    log_p[0, 1:] = -np.inf
    g = np.random.default_rng(1).standard_normal(n_classes)
    expected = softmax(lam * log_p.astype(np.float64) + g, axis=1)
    expected[expected < np.exp(-700)] = 0.0
    rtol = 1e-6 if dtype is np.float32 else 1e-12
    found = transport_rows(log_p, g, lam=lam)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-45)
    plan = solve_transport(
        log_p, np.full(n_classes, 1 / n_classes), lam=1.0, return_plan=True
    )
    potentials = np.asarray(plan.potentials)
    expected = softmax(log_p.astype(np.float64) + potentials, axis=1) / 300
    np.testing.assert_allclose(plan.plan, expected, rtol=rtol, atol=1e-45)


@pytest.mark.parametrize("solver", ["torch", "pot"])
def test_errors_say_what_is_wrong_with_log_p(solver):
    def solve(change, n_rows=20):
        log_p = posterior(n_rows, 4)
        change(log_p)
        return solve_transport(log_p, np.full(4, 0.25), solver=solver)

    def set_row(value):
        return lambda log_p: log_p.__setitem__(3, value)

    def set_entry(value):
        return lambda log_p: log_p.__setitem__((3, 2), value)

    with pytest.raises(ValueError, match="a row that is -inf throughout"):
        solve(set_row(-np.inf))
    with pytest.raises(ValueError, match="NaN"):
        solve(set_entry(np.nan))
    with pytest.raises(ValueError, match=r"\+inf"):
        solve(set_entry(np.inf))
    with pytest.raises(ValueError, match=r"class\(es\) \[2\].*drop these columns"):
        solve(lambda log_p: log_p.__setitem__((slice(None), 2), -np.inf))


@pytest.mark.parametrize(
    ("n_rows", "tol"), [(100, 1e-6), (100_000, 1e-6), (400_000, 2.5e-7)]
)
def test_without_a_tolerance_less_than_a_tenth_of_a_row_changes_hands(
    n_rows, tol, monkeypatch
):
    asked = []

    def solve(sweep, prior, *, tol, max_sweeps, init):
        asked.append((tol, max_sweeps, sweep.precision))
        return solve_semidual(sweep, prior, tol=tol, max_sweeps=max_sweeps, init=init)

    monkeypatch.setattr(transport, "solve_semidual", solve)
    log_p = np.zeros((n_rows, 2), dtype=np.float32)
    result = solve_transport(log_p, [0.5, 0.5])
    assert result.error <= tol
    # Rounding of the sums, and rows counted as one-hot, take their part of it.
    ((asked_tol, max_sweeps, precision),) = asked
    assert asked_tol == pytest.approx(0.95 * tol)
    assert precision == pytest.approx(tol / 64)
    assert max_sweeps == 1000


def test_errors_say_what_is_wrong_with_the_parameters():
    log_p, prior = posterior(20, 4), soft_prior(4)

    def raises(match, kind=ValueError, log_p=log_p, prior=prior, **options):
        with pytest.raises(kind, match=match):
            solve_transport(log_p, prior, **options)

    raises("prior must be positive", prior=[0.5, 0.5, 0.0, 0.0])
    raises("prior must sum to 1", prior=[0.5, 0.5, 0.5, 0.5])
    raises("prior must be finite", prior=[0.5, 0.5, np.nan, 0.5])
    raises("prior must have one number for each of the 4", prior=[0.5, 0.5])
    raises("init must have one number", init=np.zeros(3))
    raises("init must be finite", init=[0.0, 0.0, 0.0, np.nan])
    raises("lam", lam=0.0)
    raises("lam", lam=-1.0)
    raises("lam", lam=np.inf)
    raises("lam", TypeError, lam="25")
    raises("tol", tol=0.0)
    raises("max_iter", max_iter=0)
    raises("max_iter", TypeError, max_iter=1.5)
    raises("solver must be one of", solver="cvx")
    raises("shape", log_p=log_p[0])
    raises("at least one row and two classes", log_p=log_p[:, :1], prior=[1.0])
    raises("at least one row and two classes", log_p=log_p[:0])
    raises("real numbers", log_p=np.array([["a", "b"]]), prior=[0.5, 0.5])
    with pytest.raises(ValueError, match="potentials must have one number"):
        transport_rows(log_p, [0.0])


def peak_of_tensors(run):
    """Most bytes of tensors held at a time beyond those held before."""
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own
        with profile(
            activities=[ProfilerActivity.CPU], profile_memory=True
        ) as recorded:
            run()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize(("n_rows", "n_classes"), [(100_000, 40), (20_000, 300)])
def test_extra_memory_is_a_fraction_of_the_matrix(n_rows, n_classes):
    log_p = torch.from_numpy(posterior(n_rows, n_classes))
    prior = soft_prior(n_classes)
    tracemalloc.start()
    solve_transport(log_p, prior)
    of_arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    of_tensors = peak_of_tensors(lambda: solve_transport(log_p, prior))
    matrix = log_p.numel() * log_p.element_size()
    assert 0 < of_tensors + of_arrays < 0.5 * matrix
