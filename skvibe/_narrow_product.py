"""Matrix products of many rows with a few vectors.

For so narrow a product the BLAS library that torch calls on processors reaches half
the speed of oneDNN, which torch has on board as well.
"""

import torch

# Fewer columns are multiplied faster by the BLAS library.
_ONEDNN_FROM = 8


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
    wants_grad = torch.is_grad_enabled() and (one.requires_grad or other.requires_grad)
    narrow = (
        one.device.type == "cpu"
        and one.dtype is torch.float32
        and min(len(one), len(other)) >= _ONEDNN_FROM
        and torch.backends.mkldnn.is_available()
    )
    if not narrow or wants_grad:
        return torch.matmul(one, other.T, out=out)
    product = torch.nn.functional.linear(one.to_mkldnn(), other.to_mkldnn())
    return product.to_dense() if out is None else out.copy_(product.to_dense())
