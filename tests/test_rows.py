"""Rows in memory and in files give the same batches."""

import numpy as np
import pytest
import torch

from skvibe._rows import is_memory_mapped, place_rows, take_rows

CPU = torch.device("cpu")


@pytest.fixture
def rows():
    return np.arange(24, dtype=np.uint8).reshape(8, 3)


def test_mapped_rows_stay_in_their_file(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for array in (mapped, np.asarray(mapped), mapped[2:], mapped.reshape(4, 6)):
        assert is_memory_mapped(array)
        assert place_rows(array, CPU) is array
    for array in (rows, rows[::2], mapped[[0, 1]], np.array(mapped)):
        assert not is_memory_mapped(array)


def test_batches_are_equal_in_any_order(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    wanted = torch.tensor([5, 0, 5, 7, 2])
    for X in (place_rows(rows, CPU), mapped):
        batch = take_rows(X, wanted, CPU)
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), rows[wanted.numpy()])


@pytest.mark.parametrize("change", ["read-only", "backwards", "transposed"])
def test_awkward_arrays(rows, change):
    if change == "read-only":
        rows.flags.writeable = False
    X = {"read-only": rows, "backwards": rows[::-1], "transposed": rows.T}[change]
    np.testing.assert_array_equal(place_rows(X, CPU).numpy(), X)
