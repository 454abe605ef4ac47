"""Mean of the rows of each class, over blocks of rows."""

import torch

_BLOCK = 4096


def class_means(features, codes, n_classes):
    """Mean feature vector of each class, zero for a class without rows.

    Parameters
    ----------
    features : torch.Tensor of shape (n_rows, n_features)
        Rows.
    codes : torch.Tensor of int64 of shape (n_rows,)
        Their classes.
    n_classes : int
        Number of classes.

    Returns
    -------
    torch.Tensor of float32 of shape (n_classes, n_features)
        Summed in float64.
    """
    blocks = zip(features.split(_BLOCK), codes.split(_BLOCK), strict=True)
    return class_means_of(blocks, n_classes).float()


def class_means_of(blocks, n_classes):
    """The same of rows that come block by block, in float64.

    Parameters
    ----------
    blocks : iterable of (rows, codes)
        Tensors of shape (n, n_features) and of int64 of shape (n,), on one device; at
        least one block.
    n_classes : int
        Number of classes.

    Returns
    -------
    torch.Tensor of float64 of shape (n_classes, n_features)
        Summed in float64, in the order of the blocks.
    """
    sums = counts = torch.zeros(0)
    for rows, codes in blocks:
        if not len(counts):
            shape = (n_classes, rows.shape[1])
            sums = torch.zeros(shape, dtype=torch.float64, device=rows.device)
            counts = torch.zeros(n_classes, dtype=torch.int64, device=rows.device)
        if sums.is_cuda:  # where index_add_ adds in any order
            sums.index_put_((codes,), rows.double(), accumulate=True)
        else:
            sums.index_add_(0, codes, rows.double())
        counts += torch.bincount(codes, minlength=n_classes)
    return sums / counts.clamp_min(1)[:, None]
