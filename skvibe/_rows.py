"""Rows that stay where they are until their turn comes.

Rows in memory are moved to the device once, in the type they have (uint8 images stay
small), and are gathered there. Memory-mapped ones are read batch by batch, so they need
not fit in memory.
"""

import mmap

import numpy as np
import torch


def place_rows(X, device):
    """Rows in memory as a tensor on the device; memory-mapped ones as they are."""
    if isinstance(X, np.ndarray):
        if is_memory_mapped(X):
            return X
        # torch knows no read-only tensors and no negative strides.
        usable = X.flags.writeable and X.flags.c_contiguous
        X = torch.from_numpy(X if usable else np.array(X, order="C"))
    return X.to(device)


def take_rows(X, rows, device):
    """Some rows as a tensor on the device.

    Parameters
    ----------
    X : torch.Tensor or ndarray
        As `place_rows` gives them.
    rows : torch.Tensor of int64
        Row numbers.
    device : torch.device
        Where the result goes.
    """
    if isinstance(X, torch.Tensor):
        return X.index_select(0, rows.to(X.device)).to(device)
    # Ascending rows are read from the disk in one sweep, then put back in order.
    ascending, back = np.unique(rows.cpu().numpy(), return_inverse=True)
    batch = torch.from_numpy(X[ascending][back])
    if torch.device(device).type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def is_memory_mapped(array):
    """Whether an array's values lie in a file, also where it is a view of such."""
    while array is not None:
        if isinstance(array, (np.memmap, mmap.mmap)):
            return True
        array = getattr(array, "base", None)
    return False
