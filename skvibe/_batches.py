"""Mini-batches for skorch, sliced a whole batch at a time.

A DataLoader fetches row by row and collates on the CPU; for vectors that already lie
on the device, gathering a batch by index is several times faster.
"""

import torch
from torch.utils.data import Subset

from skvibe._rows import take_rows


class BatchIterator:
    """Iterate over ``({"X": rows, "idx": row_numbers}, y)`` batches on one device.

    The device is that of ``idx``; memory-mapped rows are read batch by batch.

    ``idx`` are the *original* row numbers, also when the data set is a subset (as
    with skorch's ``train_split``): they key what is known of each row.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset or torch.utils.data.Subset of one
        Holds ``X = {"X": tensor or memory-mapped array, "idx": tensor}`` and ``y``.
    batch_size : int
        Rows a batch; the last one may be smaller.
    shuffle : bool, default=False
        Draw a new order in every epoch.
    generator : torch.Generator, default=None
        Source of the order, on the CPU.
    join_single : bool, default=False
        A single row left over joins the batch before it: batch norm cannot train on
        one row.
    """

    def __init__(
        self, dataset, batch_size, shuffle=False, generator=None, join_single=False
    ):
        self.X, self.y, self.idx, self.rows = _unwrap(dataset)
        self.batch_size = batch_size
        self.join_single = join_single
        self.shuffle = shuffle
        self.generator = generator

    def __len__(self):
        return len(self._sizes())

    def __iter__(self):
        # Drawn on the CPU, so that every device sees the same order.
        if self.shuffle:
            order = torch.randperm(len(self.y), generator=self.generator)
        else:
            order = torch.arange(len(self.y))
        device = self.y.device
        for rows in order.to(device).split(self._sizes()):
            stored = rows if self.rows is None else self.rows[rows]
            batch = take_rows(self.X, stored, device)
            yield {"X": batch, "idx": self.idx[rows]}, self.y[rows]

    def _sizes(self):
        full, rest = divmod(len(self.y), self.batch_size)
        sizes = [self.batch_size] * full + [rest] * (rest > 0)
        if self.join_single and rest == 1 and full:
            sizes[-2:] = [self.batch_size + 1]
        return sizes


def _unwrap(dataset):
    """Rows, labels and row numbers of a data set or of a (nested) subset of one.

    The last of the four says which of the rows a subset has, None for all.
    """
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
    y = y.to(idx.device)
    if rows is None:
        return X, y, idx, None
    rows = rows.to(idx.device)
    return X, y[rows], idx[rows], rows
