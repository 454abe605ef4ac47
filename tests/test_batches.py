import pytest
import torch
from skorch.dataset import Dataset
from torch.utils.data import Subset

from skvibe._batches import BatchIterator


def numbered(n=10):
    """Rows that hold their own number, labelled by it."""
    rows = torch.arange(n)
    X = rows[:, None].repeat(1, 3).float()
    return Dataset({"X": X, "idx": rows}, rows * 10)


def check_aligned(iterator):
    seen = []
    for batch, y in iterator:
        assert (batch["X"][:, 0] == batch["idx"]).all()
        assert (y == batch["idx"] * 10).all()
        seen.append(batch["idx"])
    return torch.cat(seen)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 99])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_and_aligned(batch_size, shuffle):
    iterator = BatchIterator(numbered(), batch_size, shuffle=shuffle)
    assert len(iterator) == len(list(iterator)) == -(-10 // batch_size)
    assert all(len(y) <= batch_size for _, y in iterator)
    assert sorted(check_aligned(iterator).tolist()) == list(range(10))


def test_order_without_shuffle():
    assert check_aligned(BatchIterator(numbered(), 4)).tolist() == list(range(10))


def test_subsets_keep_the_original_row_numbers():
    subset = Subset(numbered(), [7, 2, 9, 4])
    assert check_aligned(BatchIterator(subset, 3)).tolist() == [7, 2, 9, 4]
    nested = Subset(subset, [3, 0])
    assert check_aligned(BatchIterator(nested, 3)).tolist() == [4, 7]


def test_orders_come_from_the_generator_and_not_from_global_state():
    def orders(seed):
        generator = torch.Generator().manual_seed(seed)
        iterator = BatchIterator(numbered(), 4, shuffle=True, generator=generator)
        return [check_aligned(iterator).tolist() for _ in range(3)]

    state = torch.get_rng_state()
    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    assert orders(0)[0] != orders(0)[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_without_numbers_or_labels():
    rows = torch.arange(5)
    X = rows[:, None].float()
    batches = list(BatchIterator(Dataset(X, rows * 10), 2))
    assert torch.cat([batch["idx"] for batch, _ in batches]).tolist() == rows.tolist()
    batches = list(BatchIterator(Dataset(X, None), 2))
    assert torch.cat([y for _, y in batches]).tolist() == [0] * 5
