"""Checkpoints of a self-supervised fit: whole or not there at all."""

import errno
import os
import resource

import pytest
import torch

from skvibe.encoders._checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
DESCRIPTION = {"lr": "0.1"}
OLD, NEW = torch.zeros(20_000), torch.ones(20_000)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.pt"
    save_checkpoint(path, DESCRIPTION, {"weights": OLD})
    return path


def kept(path):
    return load_checkpoint(path, DESCRIPTION, CPU)["weights"]


def test_what_is_saved_is_loaded(path):
    assert torch.equal(kept(path), OLD)
    save_checkpoint(str(path), DESCRIPTION, {"weights": NEW})
    assert torch.equal(kept(path), NEW)
    assert list(path.parent.iterdir()) == [path]
    assert load_checkpoint(path.with_name("none.pt"), DESCRIPTION, CPU) is None


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(path):
    # The file may not grow beyond 4 kB: writing stops in its middle.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(path, DESCRIPTION, {"weights": NEW})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(kept(path), OLD)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_late_does_the_same(path, monkeypatch, step):
    def fail(*arguments):
        raise OSError(errno.EIO, "lost")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="lost"):
            save_checkpoint(path, DESCRIPTION, {"weights": NEW})
    assert torch.equal(kept(path), OLD)
    assert list(path.parent.iterdir()) == [path]


def test_a_state_that_cannot_be_pickled_keeps_the_old_file(path):
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, DESCRIPTION, {"weights": lambda: None})
    assert torch.equal(kept(path), OLD)
    assert list(path.parent.iterdir()) == [path]


def test_another_description_is_named(path):
    with pytest.raises(ValueError, match=r"state\.pt was made with another lr, seed"):
        load_checkpoint(path, {"lr": "0.2", "seed": "1"}, CPU)
