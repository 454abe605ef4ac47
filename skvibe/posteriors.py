"""The two posteriors of the model, as functions of unit vectors.

Notation, once: a row has the unit feature vector v, the given label y and the hidden
clean label l. mu_l are the clean prototypes, eta_y the corrupted prototypes, all of
unit length. The *clean posterior* is p(l | x), a von Mises-Fisher mixture; the
*corrupted posterior* p(y | l, x) says how a row of clean label l gets the label y.

Every function here works on a block of rows and never mixes rows, so blocks may be
processed in any order or place.

References
----------
.. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
   Defense", ICCV 2025 (sections 3.2 and E.2).
"""

import torch

from skvibe._narrow_product import is_for_onednn, product_with
from skvibe._normaliser import CLASS_MAJOR_BELOW, log_normaliser

# |mu + v| below this is rounding: in single precision 2 + 2 cos is off by some 1e-7,
# and a smaller divisor would throw logits far out of [-nu, nu].
_SMALLEST_H = 1e-3
_BLOCK = 1 << 18
# Squares of entries that matter are normal numbers, in single precision too, for norms
# from the inverse of this up to this.
_LARGEST_NORM = 1e15


def unit_rows(vectors: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length; a zero row stays zero.

    Parameters
    ----------
    vectors : torch.Tensor of shape (..., n_features)
        Of any length, without unit.

    Returns
    -------
    torch.Tensor of shape (..., n_features)
        Of length 1 or 0. Differentiable.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import unit_rows
    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    wants_grad = torch.is_grad_enabled() and vectors.requires_grad
    if vectors.ndim != 2 or wants_grad or vectors.numel() == 0:
        return _scaled_twice(vectors)
    # Block by block: no temporary of the size of the data.
    out = torch.empty_like(vectors)
    n_rows = max(1, _BLOCK // vectors.shape[1])
    for block, unit in zip(vectors.split(n_rows), out.split(n_rows), strict=True):
        if block.device.type == "cpu":
            _scale(block, unit)
        else:  # which would have to wait for the host
            unit.copy_(_scaled_twice(block))
    return out


def _scale(vectors: torch.Tensor, out: torch.Tensor) -> None:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    torch.div(vectors, norms, out=out)
    ordinary = ((norms > 1 / _LARGEST_NORM) & (norms < _LARGEST_NORM))[:, 0]
    if not ordinary.all():
        out[~ordinary] = _scaled_twice(vectors[~ordinary])


def _scaled_twice(vectors: torch.Tensor) -> torch.Tensor:
    # By the largest entry first: squares of very large or small ones leave the range.
    with torch.no_grad():
        # Without a copy of the absolute values.
        largest = torch.maximum(
            vectors.amax(dim=-1, keepdim=True), -vectors.amin(dim=-1, keepdim=True)
        )
        largest = torch.where(largest > 0, largest, 1.0)
    return torch.nn.functional.normalize(vectors / largest, dim=-1)


def cosines_with(
    vectors: torch.Tensor, rows: torch.Tensor, n_classes: int | None = None
) -> torch.Tensor:
    """Products of unit rows with a few unit vectors, as fast as the device allows.

    Parameters
    ----------
    vectors : torch.Tensor of shape (n_vectors, n_features)
        Prototypes.
    rows : torch.Tensor of shape (n_rows, n_features)
        Feature vectors.
    n_classes : int, default=None
        Number of classes, where vectors are not one a class.

    Returns
    -------
    torch.Tensor of shape (n_rows, n_vectors)
        ``rows @ vectors.T``, within rounding. With few classes it is stored as the
        other functions of this module read it fastest: rows along the last axis.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import cosines_with
    >>> cosines_with(torch.eye(2), torch.tensor([[0.6, 0.8]]))
    tensor([[0.6000, 0.8000]])
    """
    turn = (n_classes or len(vectors)) < CLASS_MAJOR_BELOW
    if turn and not is_for_onednn(rows, vectors):
        return product_with(vectors, rows).T
    # The few vectors last, and the result turned: oneDNN rearranges what comes last.
    products = product_with(rows, vectors)
    return products.T.contiguous().T if turn else products


def clean_log_posterior(
    cosines: torch.Tensor, log_prior: torch.Tensor, kappa: float
) -> torch.Tensor:
    """Log of the clean posterior, ``log p(l | x)``.

    Parameters
    ----------
    cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . mu_l``.
    log_prior : torch.Tensor of shape (n_classes,)
        ``log pi``.
    kappa : float
        Concentration of the von Mises-Fisher components, > 0.

    Returns
    -------
    torch.Tensor of shape (n_rows, n_classes)
        Rows are normalised: their exponentials sum to 1.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import clean_log_posterior
    >>> log_p = clean_log_posterior(torch.tensor([[1.0, 0.0]]), torch.zeros(2), 2.0)
    >>> log_p.exp()
    tensor([[0.8808, 0.1192]])
    """
    if _lies_class_major(cosines):
        logits = torch.add(log_prior[:, None], cosines.T, alpha=kappa)
        return torch.log_softmax(logits.contiguous(), dim=0).T
    return torch.log_softmax(kappa * cosines + log_prior, dim=1)


def _lies_class_major(rows: torch.Tensor) -> bool:
    """Whether rows along the last axis are faster: seven times over a few classes.

    (Not in float64, where a row's result must not depend on its neighbours.)
    """
    on_host = rows.device.type == "cpu" and rows.dtype is torch.float32
    return on_host and rows.shape[1] < CLASS_MAJOR_BELOW


def poisoning_log_rule(table: torch.Tensor, nu: float) -> torch.Tensor:
    """Log of the approximate corrupted posterior, ``log p(y | l)``.

    Parameters
    ----------
    table : torch.Tensor of shape (n_classes, n_classes)
        ``mu_l . eta_y`` at [l, y].
    nu : float
        Concentration, >= 0.

    Returns
    -------
    torch.Tensor of shape (n_classes, n_classes)
        Entry [l, y]; every row is normalised over y. Read as a table it is the
        recovered poisoning rule: how often clean class l is labelled y.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import poisoning_log_rule
    >>> poisoning_log_rule(torch.eye(2), 2.0).exp()
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """
    return torch.log_softmax(nu * table, dim=1)


def corrupted_log_posterior(
    cosines: torch.Tensor,
    given_cosines: torch.Tensor,
    table: torch.Tensor,
    given: torch.Tensor,
    nu: float,
) -> torch.Tensor:
    """Log of the full corrupted posterior at the given label, for every clean label.

    ``p(y | l, x) = softmax_y(nu eta_y . h / |h|)`` with ``h = mu_l + v``. h is
    normalised, as the text of [1]_ says: without it the backdoor passes on several
    feature spaces.

    The normaliser over y differs for every pair (row, l), yet nothing of shape (n_rows,
    n_classes, n_classes) is ever made. With many classes in single precision it is
    interpolated from a few matrix products; the bound on its error, 1e-6, is below
    the rounding of the logits themselves.

    Parameters
    ----------
    cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . mu_l``.
    given_cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . eta_y``.
    table : torch.Tensor of shape (n_classes, n_classes)
        ``mu_l . eta_y`` at [l, y].
    given : torch.Tensor of int64 of shape (n_rows,)
        Codes of the given labels y_i.
    nu : float
        Concentration, >= 0.

    Returns
    -------
    torch.Tensor of shape (n_rows, n_classes)
        ``log p(y_i | l, x_i)`` at [i, l].

    References
    ----------
    .. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
       Defense", ICCV 2025, section E.2.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import corrupted_log_posterior
    >>> eye = torch.eye(2)
    >>> corrupted_log_posterior(eye, eye, eye, torch.tensor([0, 1]), 1.0).exp()
    tensor([[0.7311, 0.5000],
            [0.5000, 0.7311]])
    """
    scale = nu / _h_norm(cosines)
    at_given = _sums_at_given(given_cosines, table, given)
    return at_given * scale - log_normaliser(scale, table, given_cosines, nu)


def corrupted_log_bound(
    cosines: torch.Tensor,
    given_cosines: torch.Tensor,
    table: torch.Tensor,
    given: torch.Tensor,
    nu: float,
) -> torch.Tensor:
    """Upper bound of `corrupted_log_posterior`, at a fraction of the cost.

    Of the normaliser's terms only the larger one of two is counted, that of the given
    label and that of the clean label itself. It is off by the log of ``n_classes`` at
    most where one of them is the largest, as it is nearly everywhere.

    Parameters
    ----------
    cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . mu_l``.
    given_cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . eta_y``.
    table : torch.Tensor of shape (n_classes, n_classes)
        ``mu_l . eta_y`` at [l, y].
    given : torch.Tensor of int64 of shape (n_rows,)
        Codes of the given labels y_i.
    nu : float
        Concentration, >= 0.

    Returns
    -------
    torch.Tensor of shape (n_rows, n_classes)
        Not below ``log p(y_i | l, x_i)`` at [i, l], but for rounding.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import corrupted_log_bound
    >>> v, mu = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    >>> corrupted_log_bound(v @ mu.T, v @ mu.T, mu @ mu.T, torch.tensor([1]), 10.0)
    tensor([[-10.,   0.]])
    """
    at_given = _sums_at_given(given_cosines, table, given)
    behind = at_given.sub_(given_cosines).sub_(table.diagonal())
    return behind.mul_(_h_norm(cosines).reciprocal_()).mul_(nu).clamp_max_(0.0)


def _sums_at_given(
    given_cosines: torch.Tensor, table: torch.Tensor, given: torch.Tensor
) -> torch.Tensor:
    """``(mu_l + v_i) . eta_y`` at the given label y_i, for every clean label l."""
    return _columns(table, given) + given_cosines.gather(1, given[:, None])


def _columns(table: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """``table[:, given].T``, stored as it is read fastest."""
    if table.is_cuda:
        # Gradients of index_select are added up there in any order.
        return table[:, given].T
    if len(table) < CLASS_MAJOR_BELOW:
        return table.index_select(1, given).T
    return table.T.contiguous().index_select(0, given)


def corrupted_log_posterior_at(
    cosines: torch.Tensor,
    given_cosines: torch.Tensor,
    table: torch.Tensor,
    given: torch.Tensor,
    clean: torch.Tensor,
    nu: float,
) -> torch.Tensor:
    """Log of the full corrupted posterior at one clean label a row (M-step).

    Parameters
    ----------
    cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . mu_l``.
    given_cosines : torch.Tensor of shape (n_rows, n_classes)
        ``v . eta_y``.
    table : torch.Tensor of shape (n_classes, n_classes)
        ``mu_l . eta_y`` at [l, y].
    given : torch.Tensor of int64 of shape (n_rows,)
        Codes of the given labels y_i.
    clean : torch.Tensor of int64 of shape (n_rows,)
        Codes of the clean labels l_i.
    nu : float
        Concentration, >= 0.

    Returns
    -------
    torch.Tensor of shape (n_rows,)
        ``log p(y_i | l_i, x_i)``. Differentiable.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import corrupted_log_posterior_at
    >>> eye, labels = torch.eye(2), torch.tensor([0, 1])
    >>> corrupted_log_posterior_at(eye, eye, eye, labels, labels, 1.0).exp()
    tensor([0.7311, 0.7311])
    """
    scale = nu / _h_norm(cosines.gather(1, clean[:, None]))
    if _lies_class_major(given_cosines):
        logits = (_columns(table.T, clean).T + given_cosines.T) * scale.T
        return torch.log_softmax(logits.contiguous(), dim=0).gather(0, given[None])[0]
    logits = (table[clean] + given_cosines) * scale
    return torch.log_softmax(logits, dim=1).gather(1, given[:, None])[:, 0]


def poison_score_from_log_posterior(
    log_posterior: torch.Tensor, given: torch.Tensor
) -> torch.Tensor:
    """How much better the best other clean label explains a row than the given one.

    ``sigmoid(max_{l != y} log p(l | x) - log p(y | x))``: 0.5 where the given label
    ties with the best other one, above it where another label is more probable.

    Parameters
    ----------
    log_posterior : torch.Tensor of shape (n_rows, n_classes)
        Clean posterior, ``log p(l | x)`` (any per-row constant cancels).
    given : torch.Tensor of int64 of shape (n_rows,)
        Codes of the given labels.

    Returns
    -------
    torch.Tensor of shape (n_rows,)
        In [0, 1]; the higher, the more suspect.

    Examples
    --------
    >>> import torch
    >>> from skvibe.posteriors import poison_score_from_log_posterior
    >>> log_p = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
    >>> poison_score_from_log_posterior(log_p, torch.tensor([0, 1]))
    tensor([0.2500, 0.7500])
    """
    own = log_posterior.gather(1, given[:, None])[:, 0]
    others = log_posterior.scatter(1, given[:, None], -torch.inf)
    return torch.sigmoid(others.max(dim=1).values - own)


def _h_norm(cosines: torch.Tensor) -> torch.Tensor:
    """|mu_l + v| of two unit vectors, from their cosine."""
    return (2 + 2 * cosines).clamp_min(_SMALLEST_H**2).sqrt()
