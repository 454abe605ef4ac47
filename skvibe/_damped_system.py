"""The K x K system of a Newton step, solved where the curvature lies."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg.lapack import dposv


def solve_damped(
    curvature: np.ndarray | torch.Tensor,
    root: np.ndarray,
    damping: float,
    gradient: np.ndarray,
) -> np.ndarray | None:
    """Solve (H + damping * diag(root^2) + gauge) d = gradient for d.

    Parameters
    ----------
    curvature : ndarray or tensor of float64 of shape (K, K)
        Positive semi-definite H, whose rows sum to zero.
    root : ndarray of shape (K,)
        Square roots of the scale of each unknown, positive. The system is scaled by
        them, and the gauge is the part of ones, weighted by the scales.
    damping : float
        Positive.
    gradient : ndarray of shape (K,)
        Sums to zero.

    Returns
    -------
    ndarray of shape (K,) or None
        None if the system is singular or the solution not finite.
    """
    if isinstance(curvature, np.ndarray):
        scale = np.outer(root, root)
        matrix = curvature / scale
        matrix += scale / (root @ root)
        matrix.flat[:: len(root) + 1] += damping
        _, step, failed = dposv(matrix, gradient / root, lower=1, overwrite_a=True)
    else:
        step, failed = _solve_there(curvature, root, damping, gradient)
    step = step / root
    return None if failed or not np.isfinite(step).all() else step


def _solve_there(
    curvature: torch.Tensor, root: np.ndarray, damping: float, gradient: np.ndarray
) -> tuple[np.ndarray, bool]:
    both = torch.from_numpy(np.stack([root, gradient / root])).to(curvature)
    scale = torch.outer(both[0], both[0])
    matrix = curvature / scale
    matrix += scale.div_(float(root @ root))
    matrix.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve(both[1][:, None], factor)[:, 0]
    # One transfer: the solution, and whether there is one.
    found = torch.cat([step, failed[None].to(step)]).cpu().numpy()
    return found[:-1], bool(found[-1])


def quadratic_form(curvature: np.ndarray | torch.Tensor, step: np.ndarray) -> float:
    """Compute d' H d."""
    if isinstance(curvature, np.ndarray):
        return float(step @ curvature @ step)
    there = torch.from_numpy(step).to(curvature)
    return float(there @ (curvature @ there))
