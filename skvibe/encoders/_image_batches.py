"""Mini-batches of images that stay where they are until their turn comes.

Images in memory are moved to the device once, as small as they are (uint8), and are
gathered there. Memory-mapped ones are read batch by batch, so they need not fit.
"""

import mmap

import numpy as np
import torch
from torch.utils.data import Subset


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
        self.images = place_images(dataset.X, device)
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
            yield take_images(self.images, rows, self.device), rows


def place_images(images, device):
    """Images in memory as a tensor on the device; memory-mapped ones as they are."""
    if isinstance(images, np.ndarray):
        if is_memory_mapped(images):
            return images
        # A copy of a read-only array: torch does not know such tensors.
        images = torch.from_numpy(images if images.flags.writeable else images.copy())
    return images.to(device)


def take_images(images, rows, device):
    """The images of some rows, as a tensor on the device."""
    if isinstance(images, torch.Tensor):
        return images[rows.to(images.device)]
    # Ascending rows are read from the disk in one sweep, then put back in order.
    ascending, back = np.unique(rows.numpy(), return_inverse=True)
    batch = torch.from_numpy(images[ascending][back])
    if torch.device(device).type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def is_memory_mapped(array):
    """Whether an array's rows lie in a file, also where it is a view of such."""
    while array is not None:
        if isinstance(array, (np.memmap, mmap.mmap)):
            return True
        array = getattr(array, "base", None)
    return False
