"""The E-step: entropic optimal transport between rows and classes.

``Q = argmax_Q tr(Q' ln P) + H(Q) / lam`` over plans whose rows sum to 1/N and whose
columns sum to a prior (Sabolić, Grcić, Šegvić, ICCV 2025). The solution is
``Q_ik = softmax_k(lam ln P_ik + g_k) / N``: rows hold by construction and only the K
potentials g are unknown. They are found by a damped Newton method on the dual.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from skvibe._checks import check_integer, check_option, check_real
from skvibe._row_pass import CLASS_MAJOR_BELOW, MAX_BLOCK_ROWS, RowSums, split_rows
from skvibe._row_sweep import RowSweep
from skvibe._semidual import SemidualResult, solve_semidual
from skvibe._settled_rows import OutOfReach, RowsAside

__all__ = [
    "OutOfReach",
    "RowSums",
    "RowSweep",
    "RowsAside",
    "SemidualResult",
    "TransportResult",
    "solve_semidual",
    "solve_transport",
    "transport_rows",
]


@dataclass(frozen=True)
class TransportResult:
    """Solution of a transport problem between N rows and K classes.

    Tensors if ``log_p`` was a tensor (on its device), arrays if it was an array.

    Attributes
    ----------
    labels : tensor or ndarray of shape (N,), int64
        Most probable class of each row, ``argmax`` of the plan's row (of several
        equal ones the first).
    plan : tensor or ndarray of shape (N, K), or None
        Transport plan; every row sums to 1/N. None unless asked for.
    potentials : tensor or ndarray of shape (K,), float64
        Column potentials g, normalised to ``<g, prior> = 0``. They are all that is
        needed for new rows (`transport_rows`) or a warm start (``init``).
    error : float
        L1 distance of the plan's column sums to the prior, at these potentials.
    converged : bool
        Whether ``error <= tol``.
    n_iter : int
        Iterations of the solver. Near the solution "torch" visits a part of the rows
        only, those whose class the potentials could still change.
    n_passes : int
        Iterations of "torch", and the final one, that visited every row.
    value : float
        Optimum per row, in units of ``log_p``: the dual objective
        ``(mean_i logsumexp_k(lam log_p_ik + g_k) - <g, prior>) / lam``, at the solution
        equal to ``sum_ik Q_ik log_p_ik + (H(Q) - ln N) / lam``.
    """

    labels: Any
    plan: Any
    potentials: Any
    error: float
    converged: bool
    n_iter: int
    n_passes: int
    value: float


def solve_transport(
    log_p: torch.Tensor | npt.ArrayLike,
    prior: torch.Tensor | npt.ArrayLike,
    *,
    lam: float = 25.0,
    tol: float | None = None,
    max_iter: int | None = None,
    solver: str = "torch",
    init: torch.Tensor | npt.ArrayLike | None = None,
    return_plan: bool = False,
    aside: RowsAside | None = None,
) -> TransportResult:
    """Assign rows to classes by entropic optimal transport.

    Maximises ``sum_ik Q_ik log_p_ik + H(Q) / lam`` over plans Q >= 0 whose rows each
    sum to 1/N and whose columns sum to ``prior``.

    Parameters
    ----------
    log_p : tensor or array-like of shape (N, K)
        Log-probabilities (or any scores) of the classes in natural units (nats); -inf
        where a row cannot take a class. Floating-point tensors of any device and
        type are read as they are; results do not depend on their precision beyond the
        rounding of the data. For K below 64 a tensor whose transpose is contiguous
        is read fastest.
    prior : tensor or array-like of shape (K,)
        Share of each class: positive, summing to 1.
    lam : float, default=25.0
        Inverse temperature; the larger, the harder the assignment.
    tol : float, default=None
        L1 error of the column sums to reach. None means ``min(1e-6, 0.1 / N)``: less
        than a tenth of a row changes hands.
    max_iter : int, default=None
        Iterations allowed. None means 1,000 for ``solver="torch"`` and
        10,000 for ``solver="pot"``.
    solver : {"torch", "pot"}, default="torch"
        "torch" is the damped Newton method of this package; "pot" runs POT's
        log-domain Sinkhorn algorithm in float64 on the CPU, for comparison: it holds
        several copies of the matrix and needs hundreds of times as long.
    init : tensor or array-like of shape (K,), default=None
        Potentials to start from, as in an earlier result.
    return_plan : bool, default=False
        Whether to form the N x K plan.
    aside : RowsAside, default=None
        Sums over rows that are no part of ``log_p``, for ``solver="torch"``: rows known
        to belong to one class at all potentials within ``aside.radius`` of
        ``aside.potentials``. N counts them, too.

    Returns
    -------
    TransportResult
        Labels, plan, potentials, error, converged, n_iter, n_passes and value.

    Raises
    ------
    ValueError
        If ``log_p`` has NaN, +inf, a row or a column without a finite entry, or if
        ``prior``, ``init`` or a parameter is out of range.
    OutOfReach
        If the solution, or the way to it, is not within the radius of ``aside``.

    Warns
    -----
    ConvergenceWarning
        If ``tol`` was not reached; the potentials with the smallest error are returned.

    See Also
    --------
    transport_rows : Responsibilities of given rows.
    RowSweep, solve_semidual : The two halves, for rows in chunks or in several places.

    Notes
    -----
    Extra memory is one label per row and a cache-sized working block; the plan is
    formed only if asked for. Same input, same result, bit for bit, on one machine
    with the same number of threads.

    References
    ----------
    .. [1] Sabolić, Grcić, Šegvić, "Seal Your Backdoor with Variational Defense",
       ICCV 2025.
    .. [2] Cuturi, "Sinkhorn distances", NeurIPS 2013.
    .. [3] Cuturi, Peyré, "Semidual regularized optimal transport", SIAM Review 60,
       2018, :doi:`10.1137/18M1208654`.

    Examples
    --------
    Three of four rows prefer class 0, but it may have only half of them:

    >>> import numpy as np
    >>> from skvibe.transport import solve_transport
    >>> log_p = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    >>> result = solve_transport(log_p, [0.5, 0.5])
    >>> result.labels
    array([0, 0, 1, 1])
    >>> result.converged
    True
    """
    check_option("solver", solver, ("torch", "pot"))
    lam = check_real("lam", lam, low=0.0, closed="()")
    source = _Source(log_p)
    prior = _check_prior(prior, source.n_classes)
    if init is not None:
        init = _check_vector("init", init, source.n_classes)
    n_rows = source.n_rows
    if aside is not None:
        if solver == "pot":
            raise ValueError('aside needs solver="torch", got solver="pot".')
        n_rows += int(aside.counts.sum())
    if tol is None:
        tol = min(1e-6, 0.1 / n_rows)
    tol = check_real("tol", tol, low=0.0, closed="()")
    if max_iter is None:
        max_iter = 1_000 if solver == "torch" else 10_000
    max_iter = check_integer("max_iter", max_iter, low=1)
    solve = _solve_torch if solver == "torch" else _solve_pot
    with torch.no_grad():
        # Rows counted as one-hot may hide 2 / 64 of tol while the solver is at work.
        precision = min(tol, 1.0) / 64
        sweep = RowSweep(
            source.blocks, n_rows=n_rows, lam=lam, precision=precision, aside=aside
        )
        potentials, n_iter = solve(source, sweep, prior, tol, max_iter, init)
        labels = source.new_labels()
        sums = sweep.labels(potentials, labels)
        plan = None
        if return_plan:
            plan = _responsibilities(source, potentials, lam, 1.0 / n_rows)
    error = float(np.abs(sums.columns - prior).sum())
    converged = error <= tol
    if not converged:
        warnings.warn(
            f"The transport problem was not solved to tol={tol:g}: the column error "
            f"is {error:.3g} after {n_iter} iterations. Raise max_iter or tol, or "
            "lower lam; a prior that gives a class more than the rows that can take "
            "it allow has no solution.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return TransportResult(
        labels=source.hand_back(labels),
        plan=None if plan is None else source.hand_back(plan),
        potentials=source.hand_back(torch.from_numpy(potentials)),
        error=error,
        converged=converged,
        n_iter=n_iter,
        n_passes=sweep.n_passes,
        value=float(sums.value - potentials @ prior) / lam,
    )


def transport_rows(
    log_p: torch.Tensor | npt.ArrayLike,
    potentials: torch.Tensor | npt.ArrayLike,
    lam: float = 25.0,
) -> torch.Tensor | np.ndarray:
    """Responsibilities of rows at given potentials.

    Parameters
    ----------
    log_p : tensor or array-like of shape (n, K)
        Log-probabilities of the classes for any rows, those solved for or new ones.
    potentials : tensor or array-like of shape (K,)
        Column potentials of a `TransportResult`.
    lam : float, default=25.0
        Inverse temperature the potentials were found for.

    Returns
    -------
    tensor or ndarray of shape (n, K)
        ``softmax(lam * log_p + potentials)`` of each row: N times the row of the plan.
        Of the type of ``log_p`` (float32 at least), computed in float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``potentials`` are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.transport import transport_rows
    >>> transport_rows(np.log([[0.5, 0.5], [0.6, 0.4]]), [0.0, 0.0], lam=2.0).round(3)
    array([[0.5  , 0.5  ],
           [0.692, 0.308]])
    """
    lam = check_real("lam", lam, low=0.0, closed="()")
    source = _Source(log_p)
    potentials = _check_vector("potentials", potentials, source.n_classes)
    with torch.no_grad():
        return source.hand_back(_responsibilities(source, potentials, lam, 1.0))


def _solve_torch(
    source: _Source,
    sweep: RowSweep,
    prior: np.ndarray,
    tol: float,
    max_iter: int,
    init: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    found = solve_semidual(sweep, prior, tol=0.95 * tol, max_sweeps=max_iter, init=init)
    return found.potentials, found.n_sweeps


def _solve_pot(
    source: _Source,
    sweep: RowSweep,
    prior: np.ndarray,
    tol: float,
    max_iter: int,
    init: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    """POT's log-domain Sinkhorn; of its solvers the only one safe at large lam."""
    from ot.bregman import sinkhorn_log

    # POT itself would turn a row or column without a finite entry into NaN.
    solve_semidual(sweep, prior, max_sweeps=1)
    lam = sweep.lam
    log_p = torch.cat([block.double().cpu() for block in source.blocks()]).numpy()
    cost = log_p.max(axis=1, keepdims=True) - log_p
    rows = np.full(source.n_rows, 1.0 / source.n_rows)
    start = None
    if init is not None:  # POT goes on from the rows' potentials
        start = (-np.log(source.n_rows) - logsumexp(init - lam * cost, axis=1), init)
    with np.errstate(all="ignore"):
        _, log = sinkhorn_log(
            rows,
            prior,
            cost,
            reg=1.0 / lam,
            numItermax=max_iter,
            stopThr=tol / np.sqrt(source.n_classes),  # of the Euclidean norm
            log=True,
            warn=False,
            warmstart=start,
        )
    potentials = np.asarray(log["log_v"])
    return potentials - prior @ potentials, int(log["niter"]) + 1


def _responsibilities(
    source: _Source, potentials: np.ndarray, lam: float, total: float
) -> torch.Tensor:
    """Rows of ``total * softmax(lam * log_p + potentials)``, block by block."""
    out = source.new_matrix()
    start = 0
    for rows in source.blocks():
        # Double precision and temporaries: an eighth of a sweep's block.
        for block in split_rows(rows, shrink=8):
            stop = start + len(block)
            out[start:stop] = _softmax(block, potentials, lam).mul_(total)
            start = stop
    return out


def _softmax(block: torch.Tensor, potentials: np.ndarray, lam: float) -> torch.Tensor:
    g = torch.as_tensor(potentials, dtype=torch.float64, device=block.device)
    turn = block.shape[1] < CLASS_MAJOR_BELOW
    axis = 0 if turn else 1
    rows = block.T if turn else block
    s = torch.empty(rows.shape, dtype=torch.float64, device=block.device)
    s.copy_(rows)  # add would convert them elsewhere first
    torch.add(g[:, None] if turn else g, s, alpha=lam, out=s)
    s.sub_(s.amax(axis, keepdim=True))
    # exp is tens of times slower where it underflows; below here it is zero anyway.
    nothing = s < -700.0
    s.clamp_(min=-700.0).exp_().masked_fill_(nothing, 0.0)
    s.div_(s.sum(axis, keepdim=True))
    return s.T if turn else s


class _Source:
    """The rows of ``log_p`` as blocks of a tensor, whatever it was given as."""

    def __init__(self, log_p: Any):
        self.is_tensor = isinstance(log_p, torch.Tensor)
        if self.is_tensor:
            log_p = log_p.detach()
            if not log_p.is_floating_point():
                log_p = log_p.double()
        else:
            log_p = np.asarray(log_p)
            if log_p.dtype.kind not in "fiub":
                raise ValueError(f"log_p must hold real numbers, got {log_p.dtype}.")
            if log_p.dtype not in (np.float16, np.float32, np.float64):
                log_p = log_p.astype(np.float64)
        if log_p.ndim != 2:
            raise ValueError(f"log_p must have shape (N, K), got {tuple(log_p.shape)}.")
        if log_p.shape[0] == 0 or log_p.shape[1] < 2:
            raise ValueError(
                "log_p must have at least one row and two classes, got shape "
                f"{tuple(log_p.shape)}."
            )
        self.log_p = log_p
        self.n_rows, self.n_classes = log_p.shape

    def blocks(self) -> Iterable[torch.Tensor]:
        if self.is_tensor:
            # Apple's accelerator has no float64: its rows are summed on the host.
            on_host = self.log_p.device.type == "mps"
            if not on_host:
                return [self.log_p]
            return (rows.cpu() for rows in self.log_p.split(MAX_BLOCK_ROWS))
        if self.log_p.flags.writeable and self.log_p.flags.c_contiguous:
            return [torch.from_numpy(self.log_p)]
        # Read-only (memory-mapped) or strided: a copy of one block at a time.
        return (
            torch.from_numpy(np.array(self.log_p[start : start + MAX_BLOCK_ROWS]))
            for start in range(0, self.n_rows, MAX_BLOCK_ROWS)
        )

    @property
    def device(self) -> torch.device:
        if self.is_tensor and self.log_p.device.type != "mps":
            return self.log_p.device
        return torch.device("cpu")

    def new_labels(self) -> torch.Tensor:
        return torch.empty(self.n_rows, dtype=torch.int64, device=self.device)

    def new_matrix(self) -> torch.Tensor:
        dtype = torch.float32
        if self.log_p.dtype in (torch.float64, np.dtype(np.float64)):
            dtype = torch.float64
        shape = (self.n_rows, self.n_classes)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def hand_back(self, tensor: torch.Tensor) -> Any:
        """Return a result in the kind and on the device ``log_p`` came in."""
        if not self.is_tensor:
            return tensor.cpu().numpy()
        if self.log_p.device.type == "mps" and tensor.dtype is torch.float64:
            tensor = tensor.float()
        return tensor.to(self.log_p.device)


def _check_vector(name: str, values: Any, n_classes: int) -> np.ndarray:
    """Return ``values`` as float64 array of shape (K,)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    values = np.array(values, dtype=np.float64)
    if values.shape != (n_classes,):
        raise ValueError(
            f"{name} must have one number for each of the {n_classes} columns of "
            f"log_p, got shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite.")
    return values


def _check_prior(prior: Any, n_classes: int) -> np.ndarray:
    prior = _check_vector("prior", prior, n_classes)
    if prior.min() <= 0:
        raise ValueError(
            "prior must be positive: drop the columns of classes that have no share."
        )
    if abs(prior.sum() - 1.0) > 1e-4:
        raise ValueError(f"prior must sum to 1, got {prior.sum():.6g}.")
    return prior / prior.sum()
