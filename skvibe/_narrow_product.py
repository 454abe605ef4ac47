"""Matrix products of many rows with a few vectors.

For so narrow a product the BLAS library that torch calls on processors reaches half
the speed of oneDNN, which torch has on board as well.
"""

import functools

import torch

# Fewer columns are multiplied faster by the BLAS library.
_ONEDNN_FROM = 8
# Numbers handed to oneDNN at a time.
_AT_A_TIME = 1 << 23


def product_with(one, other, out=None):
    """``one @ other.T`` within rounding.

    Parameters
    ----------
    one : torch.Tensor of shape (n, n_features)
    other : torch.Tensor of shape (m, n_features)
    out : torch.Tensor of shape (n, m), default=None
        Where to write, without a gradient.

    Returns
    -------
    torch.Tensor of shape (n, m)
        Differentiable where that is asked for.
    """
    if not is_for_onednn(one, other):
        return torch.matmul(one, other.T, out=out)
    n_rows = max(1, _AT_A_TIME // one.shape[1])
    if out is None and max(len(one), len(other)) <= n_rows:
        return _product(one, other)
    if out is None:
        out = one.new_empty((len(one), len(other)))
    for at, few in zip(out.split(n_rows), one.split(n_rows), strict=True):
        for part, rows in zip(
            at.split(n_rows, dim=1), other.split(n_rows), strict=True
        ):
            part.copy_(_product(few, rows))
    return out


def is_for_onednn(one, other):
    """Whether oneDNN is asked for the product: on processors, without a gradient."""
    wants_grad = torch.is_grad_enabled() and (one.requires_grad or other.requires_grad)
    return (
        one.device.type == "cpu"
        and one.dtype is torch.float32
        and min(len(one), len(other)) >= _ONEDNN_FROM
        and torch.backends.mkldnn.is_available()
        and not wants_grad
    )


def _product(one, other):
    plain = _plain_product()
    if plain is not None:
        return plain(one, other, None, "none", [], "")
    return torch.nn.functional.linear(one.to_mkldnn(), other.to_mkldnn()).to_dense()


@functools.cache
def _plain_product():
    """oneDNN's product of plain tensors: without a copy of the rows, equal to rounding.

    It is no part of torch's public interface: None where this torch has it not.
    """
    try:
        product = torch.ops.mkldnn._linear_pointwise
        product(torch.eye(8), torch.eye(8), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product
