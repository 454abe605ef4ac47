"""Mini-batches of images without labels."""

import torch
from torch.utils.data import Subset

from skvibe._rows import place_rows, take_rows


class ImageBatches:
    """Iterate over ``(images, row_numbers)``; labels are never looked at.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset or torch.utils.data.Subset of one
        Its ``X`` is an ndarray, a memory-mapped one included, or a tensor.
    batch_size : int
        Images a batch.
    shuffle : bool, default=False
        Draw a new order in every epoch.
    drop_last : bool, default=False
        Leave out a last batch that is not full.
    generator : torch.Generator, default=None
        Source of the order, on the CPU.
    device : torch.device, default="cpu"
        Where the batches go.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        shuffle=False,
        drop_last=False,
        generator=None,
        device="cpu",
    ):
        rows = None
        while isinstance(dataset, Subset):
            indices = torch.as_tensor(dataset.indices)
            rows = indices if rows is None else indices[rows]
            dataset = dataset.dataset
        self.rows = torch.arange(len(dataset.X)) if rows is None else rows
        self.images = place_rows(dataset.X, device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.generator = generator
        self.device = device

    def __len__(self):
        if self.drop_last:
            return len(self.rows) // self.batch_size
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self):
        order = self.rows
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=self.generator)]
        for rows in order.split(self.batch_size)[: len(self)]:
            yield take_rows(self.images, rows, self.device), rows
