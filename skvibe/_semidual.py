"""Damped Newton ascent on the semi-dual of entropic optimal transport.

Rows are constrained exactly, so the dual has one unknown g per class:

    D(g) = <g, prior> - mean_i logsumexp_k(lam log_p_ik + g_k),

smooth and concave, with gradient ``prior - c`` (c the column means of Q) and minus
the Hessian ``H = mean_i [diag(Q_i) - Q_i Q_i']``. The rows are seen through a
``sweep`` alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skvibe._damped_system import quadratic_form, solve_damped
from skvibe._settled_rows import OutOfReach

DAMPING = 1e-3
# From the solution of a problem before this one undamped steps mostly overshoot.
WARM_DAMPING = 8e-3
MAX_DAMPING = 1e12
MAX_REJECTED = 16
MAX_OUT_OF_REACH = 3  # steps that lead where the sums are not known
PATIENCE = 20  # sweeps after which a start that made no headway is given up
# Continuation in lam: factor between stages, their number (the smallest one whose
# first stage is easy) and the column error each is solved to.
PATH_FACTOR = 3.0
PATH_LENGTHS = (4, 8, 16)
PATH_TOL = 3e-3
# Potentials further apart than this are on their way to infinity.
DIVERGED = 1e13


# Sums over rows at a potential: skvibe.transport.RowSums, or anything like it.
_Sweep = Callable[..., Any]


class SemidualResult(NamedTuple):
    """Potentials found, their column error and the number of sweeps spent."""

    potentials: np.ndarray
    error: float
    n_sweeps: int


class _Point(NamedTuple):
    """A potential with what a sweep said about it."""

    potentials: np.ndarray
    objective: float
    gradient: np.ndarray
    columns: np.ndarray
    curvature: Any
    noise: float
    error: float


class _OutOfSweeps(Exception):
    pass


def solve_semidual(
    sweep: _Sweep,
    prior: np.ndarray,
    *,
    tol: float = 1e-6,
    max_sweeps: int = 1000,
    init: np.ndarray | None = None,
) -> SemidualResult:
    """Maximise the semi-dual, seen through sums over rows.

    Parameters
    ----------
    sweep : callable
        ``sweep(g, curvature=True, sharpness=1.0)`` returns the sums of
        `skvibe.transport.RowSums` at potential g; ``sharpness`` multiplies lam.
        Everything about the rows is in there, so rows may live anywhere.
    prior : ndarray of shape (K,)
        Column marginal, positive, summing to one.
    tol : float
        L1 error of the column marginal to reach.
    max_sweeps : int
        Sweeps allowed.
    init : ndarray of shape (K,), optional
        Potentials to start from.

    Returns
    -------
    SemidualResult
        The potentials with the smallest error met, normalised to <g, prior> = 0.

    Notes
    -----
    Steps are Levenberg-Marquardt's with Nielsen's damping, scaled by the marginals;
    a step counts if it raises D or, where the rise is below rounding, if the slopes at
    its two ends say so. If no headway is made, the problem is solved along increasing
    lam; if Newton stalls at that, Sinkhorn's step, which always raises D, goes on.
    """
    return _Ascent(sweep, prior, tol, max_sweeps).run(init)


class _Ascent:
    """The state of a solve: sweeps spent and the best potentials met."""

    def __init__(self, sweep: _Sweep, prior: np.ndarray, tol: float, max_sweeps: int):
        self.sweep, self.prior, self.tol = sweep, prior, tol
        self.max_sweeps = max_sweeps
        self.n_sweeps = self.n_out_of_reach = 0
        self.best = SemidualResult(np.zeros_like(prior), np.inf, 0)

    def run(self, init: np.ndarray | None) -> SemidualResult:
        try:
            point = self._start(init)
            damping = DAMPING if init is None else WARM_DAMPING
            point = self._newton(point, self.tol, patience=PATIENCE, damping=damping)
            if point.error > self.tol:
                point = self._along_path(point)
            while point.error > self.tol and self._is_improving():
                for _ in range(10):
                    point = self._sinkhorn(point)
                point = self._newton(point, self.tol)
        except _OutOfSweeps:
            pass
        return self.best._replace(n_sweeps=self.n_sweeps)

    def _start(self, init: np.ndarray | None) -> _Point:
        point, reach = self._evaluate(
            np.zeros_like(self.prior) if init is None else init
        )
        if reach is None:
            return point
        unreachable = np.flatnonzero(np.isneginf(reach))
        if len(unreachable):
            raise ValueError(
                f"log_p is -inf in every row for class(es) {unreachable.tolist()}, yet "
                "prior asks for a share of the rows: drop these columns or give them "
                "finite values."
            )
        if init is None and reach.min() < 0:
            # A class that no row prefers: start where it draws level with one.
            point, _ = self._evaluate(-reach)
        return point

    def _evaluate(
        self, potentials: np.ndarray, sharpness: float = 1.0
    ) -> tuple[_Point, np.ndarray | None]:
        if self.n_sweeps >= self.max_sweeps:
            raise _OutOfSweeps
        self.n_sweeps += 1
        potentials = potentials - self.prior @ potentials
        sums = self.sweep(potentials, curvature=True, sharpness=sharpness)
        gradient = self.prior - sums.columns
        error = float(np.abs(gradient).sum())
        if not np.isfinite(error):
            error = np.inf
        if sharpness == 1.0 and error < self.best.error:
            self.best = SemidualResult(potentials, error, self.n_sweeps)
        point = _Point(
            potentials,
            -sums.value,  # <g, prior> = 0
            gradient,
            sums.columns,
            sums.curvature,
            sums.noise,
            error,
        )
        return point, sums.reach

    def _newton(
        self,
        point: _Point,
        tol: float,
        sharpness: float = 1.0,
        patience: int | None = None,
        damping: float = DAMPING,
    ) -> _Point:
        """Damped Newton steps until tol, or until they lead nowhere."""
        growth, rejected, spent = 2.0, 0, 0
        first_error = point.error
        while point.error > tol:
            if patience and spent >= patience and point.error > 0.05 * first_error:
                break
            if rejected >= MAX_REJECTED or damping > MAX_DAMPING:
                break
            if np.abs(point.potentials).max() > DIVERGED:
                break
            trial, accepted, ratio = None, False, 0.0
            step = self._step(point, damping)
            if step is not None:
                spent += 1
                trial = self._try(point.potentials + step, sharpness)
                if trial is not None:
                    accepted, ratio = _judge(point, trial, step)
            if trial is not None and accepted:
                point, rejected = trial, 0
                damping *= max(0.2, 1.0 - (2.0 * ratio - 1.0) ** 3)
                damping, growth = max(damping, 1e-15), 2.0
            else:
                rejected += 1
                damping, growth = damping * growth, growth * 2.0
        return point

    def _try(self, potentials: np.ndarray, sharpness: float) -> _Point | None:
        """What a sweep says there; None where a step was too long for it."""
        try:
            return self._evaluate(potentials, sharpness)[0]
        except OutOfReach:
            self.n_out_of_reach += 1
            if self.n_out_of_reach > MAX_OUT_OF_REACH:
                raise
            return None

    def _step(self, point: _Point, damping: float) -> np.ndarray | None:
        """Solve (H + damping * diag(scale)) d = gradient, orthogonal to the gauge.

        The scale is the larger of the two marginals: H alone vanishes on a class that
        has no rows yet.
        """
        root = np.sqrt(np.maximum(self.prior, point.columns))
        return solve_damped(point.curvature, root, damping, point.gradient)

    def _along_path(self, point: _Point) -> _Point:
        """Solve for smaller lam first, then follow the solution up to lam itself."""
        for length in PATH_LENGTHS:
            found = self._stage(np.zeros_like(self.prior), length)
            if found.error <= PATH_TOL:
                break
        for power in range(length - 1, 0, -1):
            found = self._stage(found.potentials * PATH_FACTOR, power)
        potentials = found.potentials * PATH_FACTOR
        start, _ = self._evaluate(potentials)
        if start.error > point.error and start.objective < point.objective:
            start = point
        return self._newton(start, self.tol, patience=4 * PATIENCE)

    def _stage(self, potentials: np.ndarray, power: int) -> _Point:
        scale = PATH_FACTOR**-power
        start, _ = self._evaluate(potentials, scale)
        return self._newton(start, PATH_TOL, scale, patience=PATIENCE)

    def _sinkhorn(self, point: _Point) -> _Point:
        step = np.log(self.prior) - np.log(np.maximum(point.columns, 1e-18))
        return self._evaluate(point.potentials + step)[0]

    def _is_improving(self) -> bool:
        """False once two rounds of the last resort gained less than a hundredth."""
        history = self.__dict__.setdefault("_history", [])
        history.append(self.best.error)
        return len(history) < 3 or history[-1] < 0.99 * history[-3]


def _judge(point: _Point, trial: _Point, step: np.ndarray) -> tuple[bool, float]:
    """Whether to accept a step, and the ratio of its real to its predicted gain."""
    if not np.isfinite(trial.error) or not np.isfinite(trial.objective):
        return False, 0.0
    before = point.gradient @ step
    predicted = before - 0.5 * quadratic_form(point.curvature, step)
    if predicted > 10.0 * (point.noise + trial.noise):
        ratio = (trial.objective - point.objective) / predicted
        return ratio > 1e-4, ratio
    # The gain drowns in rounding. D is concave: its slopes tell as much.
    after = trial.gradient @ step
    accepted = after >= -0.9 * before or trial.error < point.error
    return accepted, min(1.0, 0.5 * (before + after) / predicted)
