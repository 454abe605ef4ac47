"""The Newton ascent, step by step, against the formulas it is made of."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from skvibe import _semidual
from skvibe._semidual import _Ascent, _judge, _OutOfSweeps, _Point, solve_semidual

PRIOR = np.array([0.5, 0.3, 0.2])


def dense_sweep(log_p, lam, noise=1e-15):
    """Sums over rows by the definition; it notes what it is asked for."""
    log_p = np.asarray(log_p, dtype=float)
    calls = []

    def sweep(potentials, *, curvature, sharpness):
        assert curvature
        calls.append((potentials, sharpness))
        s = sharpness * lam * log_p + potentials
        top = s.max(axis=1, keepdims=True)
        mass = np.exp(s - top).sum(axis=1, keepdims=True)
        q = np.exp(s - top) / mass
        first = len(calls) == 1
        return SimpleNamespace(
            value=float((top + np.log(mass)).mean()),
            columns=q.mean(axis=0),
            curvature=np.diag(q.mean(axis=0)) - q.T @ q / len(q),
            noise=noise,
            reach=(s - top).max(axis=0) if first else None,
        )

    sweep.calls = calls
    return sweep


def rows(n=60, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=(n, 3))


def ascent(sweep=None, tol=1e-9, max_sweeps=100):
    return _Ascent(sweep or dense_sweep(rows(), 2.0), PRIOR, tol, max_sweeps)


def point(error=1.0, **fields):
    zero = np.zeros(3)
    values = {
        "potentials": zero,
        "objective": 0.0,
        "gradient": zero,
        "columns": PRIOR,
        "curvature": np.eye(3),
        "noise": 1e-15,
        "error": error,
    }
    return _Point(**(values | fields))


# -- a sweep -------------------------------------------------------------------------


def test_a_potential_is_normalised_and_its_sums_are_named():
    sweep = dense_sweep(rows(), 2.0)
    state = ascent(sweep)
    found, reach = state._evaluate(np.array([1.0, -2.0, 5.0]))
    np.testing.assert_allclose(found.potentials, [0.1, -2.9, 4.1])  # less <g, prior>
    s = 2.0 * rows() + found.potentials
    q = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    assert found.objective == pytest.approx(-np.log(np.exp(s).sum(axis=1)).mean())
    np.testing.assert_allclose(found.columns, q.mean(axis=0))
    np.testing.assert_allclose(found.gradient, PRIOR - q.mean(axis=0))
    assert found.error == pytest.approx(np.abs(PRIOR - q.mean(axis=0)).sum())
    assert reach is not None
    assert state.n_sweeps == 1
    assert state._evaluate(np.zeros(3), 0.5)[1] is None
    assert [sharpness for _, sharpness in sweep.calls] == [1.0, 0.5]


def test_the_best_potential_is_kept_and_only_of_the_problem_itself():
    state = ascent()
    found, _ = state._evaluate(np.zeros(3))
    assert (state.best.error, state.best.n_sweeps) == (found.error, 1)
    state._evaluate(np.array([-99.0, 0.0, 0.0]))  # worse
    assert state.best.n_sweeps == 1
    # Another lam: as good as it may be, it is not the answer.
    state.best = state.best._replace(error=1.9)
    state._evaluate(np.zeros(3), 1e-9)
    assert state.best.error == 1.9
    state._evaluate(found.potentials)
    assert (state.best.error, state.best.n_sweeps) == (found.error, 4)


def test_errors_that_are_no_numbers_count_as_infinite():
    sums = {"value": 0.0, "curvature": np.eye(3), "noise": 0.0, "reach": None}
    for bad in (np.nan, np.inf):
        answer = SimpleNamespace(columns=np.array([bad, 0.3, 0.2]), **sums)
        state = ascent(lambda g, answer=answer, **options: answer)
        assert state._evaluate(np.zeros(3))[0].error == np.inf
        assert state.best.error == np.inf
        assert state.best.n_sweeps == 0


@pytest.mark.parametrize("allowed", [1, 2, 5])
def test_no_more_sweeps_than_allowed(allowed):
    state = ascent(max_sweeps=allowed)
    for _ in range(allowed):
        state._evaluate(np.zeros(3))
    with pytest.raises(_OutOfSweeps):
        state._evaluate(np.zeros(3))
    sweep = dense_sweep(rows(), 30.0)
    found = solve_semidual(sweep, PRIOR, tol=1e-13, max_sweeps=allowed)
    assert len(sweep.calls) == found.n_sweeps == allowed
    errors = [np.abs(PRIOR - columns(rows(), 30.0, g)).sum() for g, _ in sweep.calls]
    assert found.error == pytest.approx(min(errors))


def columns(log_p, lam, potentials):
    s = lam * log_p + potentials
    q = np.exp(s - s.max(axis=1, keepdims=True))
    return (q / q.sum(axis=1, keepdims=True)).mean(axis=0)


# -- the start -----------------------------------------------------------------------


def test_a_class_that_no_row_prefers_starts_where_it_draws_level():
    log_p = rows() - [0.0, 0.0, 50.0]
    sweep = dense_sweep(log_p, 2.0)
    found = ascent(sweep)._start(None)
    assert len(sweep.calls) == 2
    s = 2.0 * log_p + found.potentials
    # In the row where it is nearest, the third class is as good as the best.
    assert (s[:, 2] - s[:, :2].max(axis=1)).max() == pytest.approx(0.0)
    # Given potentials are taken as they are, and so are those at which all are met.
    sweep = dense_sweep(log_p, 2.0)
    found = ascent(sweep)._start(np.array([0.0, 0.0, 10.0]))
    assert len(sweep.calls) == 1
    np.testing.assert_allclose(found.potentials, [-2.0, -2.0, 8.0])
    sweep = dense_sweep(rows(), 2.0)
    ascent(sweep)._start(None)
    assert len(sweep.calls) == 1
    np.testing.assert_array_equal(sweep.calls[0][0], np.zeros(3))


def test_a_class_that_no_row_can_take_is_named():
    log_p = rows()
    log_p[:, 1] = -np.inf
    for init in (None, np.zeros(3)):
        with pytest.raises(ValueError, match=r"class\(es\) \[1\]"):
            ascent(dense_sweep(log_p, 2.0))._start(init)


# -- a step --------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [1e-12, 1e-3, 1.0, 50.0])
def test_a_step_solves_the_damped_system(damping):
    rng = np.random.default_rng(1)
    q = rng.dirichlet(np.ones(3), size=20)
    shares = q.mean(axis=0)
    hessian = np.diag(shares) - q.T @ q / 20
    gradient = PRIOR - shares
    step = ascent()._step(
        point(gradient=gradient, columns=shares, curvature=hessian), damping
    )
    larger = np.maximum(PRIOR, shares)
    # The gauge (a constant added to all potentials) is fixed by the last term.
    system = hessian + damping * np.diag(larger)
    system += np.outer(larger, larger) / larger.sum()
    np.testing.assert_allclose(system @ step, gradient, rtol=1e-9, atol=1e-12)
    assert abs(step @ larger) < 1e-9 * (1 + np.abs(step).max())


def test_a_step_that_cannot_be_computed_is_none():
    state = ascent()
    indefinite = point(gradient=np.ones(3), curvature=-9 * np.eye(3))
    assert state._step(indefinite, 1e-3) is None
    nan = point(gradient=np.array([np.nan, 0, 0]))
    assert state._step(nan, 1e-3) is None
    huge = point(gradient=np.full(3, 1e308), curvature=np.eye(3) * 1e-9)
    with np.errstate(over="ignore"):
        assert state._step(huge, 1e-300) is None


def test_a_sinkhorn_step_gives_each_class_its_share_of_the_weights():
    state = ascent()
    before = state._evaluate(np.array([0.0, 2.0, -1.0]))[0]
    after = state._sinkhorn(before)
    expected = before.potentials + np.log(PRIOR / before.columns)
    np.testing.assert_allclose(after.potentials, expected - PRIOR @ expected)
    # Sinkhorn's step never lowers the dual.
    assert after.objective > before.objective
    empty = point(columns=np.array([0.0, 0.6, 0.4]))
    found = state._sinkhorn(empty).potentials
    expected = np.log(PRIOR / [1e-18, 0.6, 0.4])
    np.testing.assert_allclose(found, expected - PRIOR @ expected)


# -- its judgement -------------------------------------------------------------------

STEP = np.array([1.0, 0.0, 0.0])
BEFORE = point(gradient=np.array([0.4, 0.0, 0.0]), curvature=0.2 * np.eye(3))
PREDICTED = 0.4 - 0.5 * 0.2


@pytest.mark.parametrize(
    ("gain", "accepted"),
    [(1.0, True), (0.3, True), (2e-4, True), (1e-4, False), (-1.0, False)],
)
def test_a_step_counts_if_the_dual_rises(gain, accepted):
    trial = point(objective=gain * PREDICTED)
    found, ratio = _judge(BEFORE, trial, STEP)
    assert found == accepted
    assert ratio == pytest.approx(gain)


@pytest.mark.parametrize(
    ("slope", "error", "accepted"),
    [
        (0.4, 2.0, True),
        (-0.36, 2.0, True),  # 0.9 of the slope it began with, turned round
        (-0.361, 2.0, False),
        (-0.361, 1.0, False),
        (-0.361, 0.99, True),  # its error is smaller
    ],
)
def test_below_rounding_the_slopes_decide(slope, error, accepted):
    # A tenth of what is predicted is the sum of both noises, or a little less.
    noisy = BEFORE._replace(noise=0.01)
    trial = point(error, objective=-1.0, gradient=np.array([slope, 0, 0]), noise=0.0201)
    found, ratio = _judge(noisy, trial, STEP)
    assert found == accepted
    assert ratio == pytest.approx(min(1.0, 0.5 * (0.4 + slope) / PREDICTED))
    # With less noise the dual itself is asked, and it has fallen.
    found, ratio = _judge(noisy, trial._replace(noise=0.0199), STEP)
    assert not found
    assert ratio == pytest.approx(-1.0 / PREDICTED)


def test_what_is_no_number_is_rejected():
    for bad in (np.nan, np.inf, -np.inf):
        assert _judge(BEFORE, point(objective=bad), STEP) == (False, 0.0)
        assert _judge(BEFORE, point(error=abs(bad)), STEP) == (False, 0.0)


# -- Newton's loop -------------------------------------------------------------------


def scripted(monkeypatch, verdicts, errors=None, steps=None):
    """An ascent whose steps are judged as told; the dampings it asked for."""
    state, dampings = ascent(), []
    verdicts, errors = iter(verdicts), iter(errors or [])

    def step(point, damping):
        dampings.append(damping)
        return None if steps is not None and not next(steps) else np.zeros(3)

    monkeypatch.setattr(state, "_step", step)
    trial = lambda g, sharpness: (point(next(errors, 1.0), potentials=g), None)  # noqa: E731
    monkeypatch.setattr(state, "_evaluate", trial)
    monkeypatch.setattr(_semidual, "_judge", lambda *of: next(verdicts))
    return state, dampings


def test_damping_is_nielsen_s(monkeypatch):
    verdicts = [
        (True, 1.0),  # as predicted: a fifth
        (True, 0.5),  # half of it: as before
        (True, 0.0),  # hardly a gain: doubled
        (False, -1.0),  # rejected: doubled, then by four, by eight ...
        (False, -1.0),
        (False, -1.0),
        (True, 0.6),  # ... and from two again
        (False, -1.0),
        (True, 1.0),
    ]
    errors = [1.0] * 8 + [0.0]
    state, dampings = scripted(monkeypatch, verdicts, errors)
    end = state._newton(point(), 1e-3, damping=1e-3)
    assert end.error == 0.0
    factors = [0.2, 1.0, 2.0, 2.0, 4.0, 8.0, 1 - 0.2**3, 2.0]
    np.testing.assert_allclose(dampings, 1e-3 * np.cumprod([1.0, *factors]))


def test_damping_stays_above_zero(monkeypatch):
    verdicts = [(True, 1.0)] * 40
    state, dampings = scripted(monkeypatch, verdicts, [1.0] * 39 + [0.0])
    state._newton(point(), 1e-3, damping=1e-3)
    assert dampings[-1] == 1e-15
    assert len(dampings) == 40


def test_rejected_steps_end_the_loop(monkeypatch):
    state, dampings = scripted(monkeypatch, [(False, 0.0)] * 99)
    start = point()
    assert state._newton(start, 1e-3, damping=1e-30) is start
    assert len(dampings) == _semidual.MAX_REJECTED == 16
    # One success, and they are counted anew.
    verdicts = [(False, 0.0)] * 15 + [(True, 0.5)] + [(False, 0.0)] * 99
    state, dampings = scripted(monkeypatch, verdicts)
    state._newton(start, 1e-3, damping=1e-60)
    # From 1e-15 thirteen rejections lead beyond the largest damping.
    assert len(dampings) == 15 + 1 + 13
    # As does a damping that has grown beyond the largest.
    state, dampings = scripted(monkeypatch, [(False, 0.0)] * 99)
    state._newton(start, 1e-3, damping=1e11)
    assert dampings == [1e11, 2e11, 8e11]


def test_steps_that_cannot_be_computed_are_rejected(monkeypatch):
    state, dampings = scripted(
        monkeypatch, [(True, 0.5)], [0.0], steps=iter([False, False, True])
    )
    assert state._newton(point(), 1e-3, damping=1e-3).error == 0.0
    np.testing.assert_allclose(dampings, [1e-3, 2e-3, 8e-3])


def test_patience_ends_where_there_is_no_headway(monkeypatch):
    for errors, n_steps in [
        ([0.9] * 30, 5),
        ([0.06] * 30, 5),
        ([0.05] * 30, 30),  # to a twentieth: it goes on
    ]:
        state, dampings = scripted(
            monkeypatch, [(True, 0.5)] * 31, [*errors, 0.0][: n_steps + 1]
        )
        verdict = state._newton(point(), 1e-3, patience=5)
        assert len(dampings) == n_steps + (verdict.error == 0.0)
    # Without patience it goes on as well.
    state, dampings = scripted(monkeypatch, [(True, 0.5)] * 31, [0.9] * 30 + [0.0])
    state._newton(point(), 1e-3)
    assert len(dampings) == 31


def test_potentials_on_their_way_to_infinity_end_the_loop(monkeypatch):
    state, dampings = scripted(monkeypatch, [(True, 0.5)] * 9, [1.0, 0.0])
    far = point(potentials=np.array([0.0, -1.01e13, 0.0]))
    assert state._newton(far, 1e-3) is far
    assert not dampings
    near = point(potentials=np.array([0.0, -1e13, 0.0]))
    state._newton(near, 1e-3)
    assert dampings


def test_a_point_within_tolerance_is_left_alone(monkeypatch):
    state, dampings = scripted(monkeypatch, [])
    start = point(1e-3)
    assert state._newton(start, 1e-3) is start
    assert not dampings


# -- the path ------------------------------------------------------------------------


@pytest.mark.parametrize("solved_from", [4, 8, 16, 99])
def test_path_goes_from_the_first_easy_lam_to_lam_itself(monkeypatch, solved_from):
    """Every stage starts from three times the potentials of the one before."""
    state, started, solved = ascent(), [], []

    def evaluate(potentials, sharpness=1.0):
        started.append((potentials.copy(), sharpness))
        return point(0.5, potentials=potentials, objective=0.0), None

    def newton(start, tol, sharpness=1.0, patience=None, damping=1e-3):
        solved.append((sharpness, tol, patience))
        easy = sharpness <= 3.0**-solved_from * 1.01
        moved = start.potentials + 1.0
        return start._replace(error=3e-3 if easy else 1.0, potentials=moved)

    monkeypatch.setattr(state, "_evaluate", evaluate)
    monkeypatch.setattr(state, "_newton", newton)
    end = state._along_path(point(0.1, objective=-1.0))
    tried = [length for length in (4, 8, 16) if length <= solved_from] or [4]
    if solved_from == 99:
        tried = [4, 8, 16]
    first = tried[-1]
    powers = [*tried, *range(first - 1, 0, -1), 0]
    np.testing.assert_allclose([s for s, _, _ in solved], 3.0 ** -np.array(powers))
    assert [tol for _, tol, _ in solved] == [3e-3] * (len(powers) - 1) + [state.tol]
    assert [p for _, _, p in solved] == [20] * (len(powers) - 1) + [80]
    # From zero at each first stage, then three times what the stage before found.
    expected, g = [], 0.0
    for i in range(len(powers)):
        g = 0.0 if i < len(tried) else 3.0 * g
        expected.append(g)
        g += 1.0
    np.testing.assert_allclose([g[0] for g, _ in started], expected)
    np.testing.assert_allclose(end.potentials, g)


@pytest.mark.parametrize(
    ("error", "objective", "taken"),
    [(0.5, -2.0, False), (0.5, 0.0, True), (0.05, -2.0, True), (0.1, -2.0, True)],
)
def test_the_end_of_the_path_is_taken_unless_it_is_worse(
    monkeypatch, error, objective, taken
):
    state = ascent()
    end = point(error, objective=objective, potentials=np.full(3, 7.0))
    monkeypatch.setattr(state, "_evaluate", lambda *of: (end, None))
    monkeypatch.setattr(state, "_newton", lambda start, *of, **options: start)
    before = point(0.1, objective=-1.0)
    assert (state._along_path(before) is end) == taken


# -- the whole -----------------------------------------------------------------------


def flow(monkeypatch, errors, init=None):
    """What a solve does if its parts end with these errors."""
    state, done, errors = ascent(tol=1e-6), [], iter(errors)

    def newton(start, tol, sharpness=1.0, patience=None, damping=1e-3):
        done.append(("newton", tol, patience, damping))
        return point(next(errors))

    def path(start):
        done.append("path")
        return point(next(errors))

    def sinkhorn(start):
        done.append("sinkhorn")
        return start

    monkeypatch.setattr(state, "_start", lambda init: point(1.0))
    monkeypatch.setattr(state, "_newton", newton)
    monkeypatch.setattr(state, "_along_path", path)
    monkeypatch.setattr(state, "_sinkhorn", sinkhorn)
    improving = iter([True, True, False])
    monkeypatch.setattr(state, "_is_improving", lambda: next(improving))
    state.run(init)
    return done


def test_order_of_what_is_tried(monkeypatch):
    cold, warm = ("newton", 1e-6, 20, 1e-3), ("newton", 1e-6, 20, 8e-3)
    again = ("newton", 1e-6, None, 1e-3)
    assert flow(monkeypatch, [1e-6]) == [cold]
    assert flow(monkeypatch, [1e-6], np.zeros(3)) == [warm]
    assert flow(monkeypatch, [1.0, 1e-6]) == [cold, "path"]
    rounds = [*["sinkhorn"] * 10, again]
    assert flow(monkeypatch, [1.0, 1.0, 1e-6]) == [cold, "path", *rounds]
    assert flow(monkeypatch, [1.0] * 9) == [cold, "path", *rounds, *rounds]


def test_two_rounds_without_a_gain_are_the_last():
    state = ascent()
    for error, going_on in [(1.0, True), (1.0, True), (0.98, True), (0.98, True)]:
        state.best = state.best._replace(error=error)
        assert state._is_improving() == going_on
    state.best = state.best._replace(error=0.9703)  # 0.99 x 0.98 = 0.9702
    assert not state._is_improving()
    state = ascent()
    state.best = state.best._replace(error=1.0)
    assert [state._is_improving() for _ in range(4)] == [True, True, False, False]


def test_defaults():
    defaults = inspect.signature(solve_semidual).parameters
    assert defaults["tol"].default == 1e-6
    assert defaults["max_sweeps"].default == 1000
    assert defaults["init"].default is None


@pytest.mark.parametrize("lam", [0.1, 2.0, 40.0])
@pytest.mark.parametrize("init", [None, np.array([3.0, 0.0, -3.0])])
def test_solution_is_the_stationary_point(lam, init):
    sweep = dense_sweep(rows(200, 3), lam)
    found = solve_semidual(sweep, PRIOR, tol=1e-11, init=init)
    assert found.error <= 1e-11
    assert found.n_sweeps == len(sweep.calls) <= 20
    shares = columns(rows(200, 3), lam, found.potentials)
    np.testing.assert_allclose(shares, PRIOR, atol=1e-11)
    assert abs(found.potentials @ PRIOR) < 1e-12
    assert solve_semidual(dense_sweep(rows(200, 3), lam), PRIOR).error <= 1e-6
