"""In-memory mini-batches for skorch, sliced a whole batch at a time.

A DataLoader fetches row by row and collates on the CPU; for vectors that already lie
on the device, gathering a batch by index is several times faster.
"""

import torch
from torch.utils.data import Subset


class BatchIterator:
    """Iterate over ``({"X": rows, "idx": row_numbers}, y)`` batches on one device.

    ``idx`` are the *original* row numbers, also when the data set is a subset (as
    with skorch's ``train_split``): they key what is known of each row.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset or torch.utils.data.Subset of one
        Holds ``X = {"X": tensor, "idx": tensor}`` and ``y``.
    batch_size : int
        Rows a batch; the last one may be smaller.
    shuffle : bool, default=False
        Draw a new order in every epoch.
    generator : torch.Generator, default=None
        Source of the order, on the CPU.
    """

    def __init__(self, dataset, batch_size, shuffle=False, generator=None):
        self.X, self.y, self.idx = _unwrap(dataset)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator

    def __len__(self):
        return -(-len(self.X) // self.batch_size)

    def __iter__(self):
        # Drawn on the CPU, so that every device sees the same order.
        if self.shuffle:
            order = torch.randperm(len(self.X), generator=self.generator)
        else:
            order = torch.arange(len(self.X))
        for rows in order.to(self.X.device).split(self.batch_size):
            yield {"X": self.X[rows], "idx": self.idx[rows]}, self.y[rows]


def _unwrap(dataset):
    """Tensors of a data set or of a (nested) subset of one."""
    rows = None
    while isinstance(dataset, Subset):
        indices = torch.as_tensor(dataset.indices)
        rows = indices if rows is None else indices[rows]
        dataset = dataset.dataset
    if isinstance(dataset.X, dict):
        X, idx = dataset.X["X"], dataset.X["idx"]
    else:
        X = torch.as_tensor(dataset.X)
        idx = torch.arange(len(X), device=X.device)
    y = torch.zeros_like(idx) if dataset.y is None else torch.as_tensor(dataset.y)
    y = y.to(X.device)
    if rows is None:
        return X, y, idx
    rows = rows.to(X.device)
    return X[rows], y[rows], idx[rows]
