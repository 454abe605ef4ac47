"""Iterations recorded on a GPU and played again; on one they run in test_cuda.py.

Here the recording is a function that does everything anew and leaves its results where
the recorded operations would.
"""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback

from skvibe import VIBEClassifier
from skvibe._recorded_step import RecordedStep


@pytest.fixture
def played(monkeypatch):
    """As if on a GPU: how long the batches are that are played."""
    sizes = []

    def record(self):
        with torch.enable_grad():
            self.loss, self.y_pred, self.gradients = self._run()

        def replay():
            sizes.append(len(self.given))
            labels, self.net.em_.labels = self.net.em_.labels, self.labels
            loss, y_pred, gradients = self._run()
            self.net.em_.labels = labels
            there = (self.loss, *self.y_pred, *self.gradients)
            for place, found in zip(there, (loss, *y_pred, *gradients), strict=True):
                place.copy_(found)

        self.graph = SimpleNamespace(replay=replay)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(RecordedStep, "_record", record)
    monkeypatch.setattr("skvibe._recorded_step._is_on_a_gpu", lambda net: True)
    return sizes


def data():
    X, y = make_blobs(500, 20, centers=5, cluster_std=3.0, random_state=0)
    given = np.where(np.random.default_rng(0).random(500) < 0.1, 0, y)
    return X.astype(np.float32), given


def fitted(**options):
    options = {"max_iter": 50, "tol": 0.0, "batch_size": 150} | options
    return VIBEClassifier(random_state=0, **options).fit(*data())


@pytest.mark.parametrize("prior", ["auto", "learned"])
@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_played_iterations_do_what_others_do(prior, corrupted_posterior, request):
    options = {"prior": prior, "corrupted_posterior": corrupted_posterior}
    expected = fitted(**options)
    sizes = request.getfixturevalue("played")
    found = fitted(**options)
    assert set(sizes) == {150}  # the last batch of an epoch has 50 rows
    np.testing.assert_array_equal(found.prototypes_, expected.prototypes_)
    np.testing.assert_array_equal(found.clean_proba_, expected.clean_proba_)
    np.testing.assert_array_equal(found.lower_bounds_, expected.lower_bounds_)
    losses = (vibe.net_.history[:, "train_loss"] for vibe in (found, expected))
    np.testing.assert_array_equal(*losses)


def test_nothing_recorded_is_left(played):
    vibe = fitted()
    assert played
    assert all(p.grad is None for p in vibe.net_.module_.parameters())
    pickle.loads(pickle.dumps(vibe))


@pytest.mark.parametrize(
    "options",
    [
        {"pseudo_labels": "soft"},
        {"net_params": {"callbacks": [("mine", Callback())]}},
    ],
)
def test_what_need_not_be_the_same_is_not_recorded(options, played):
    fitted(**options)
    assert not played


@pytest.mark.parametrize("wrong", ["loss", "gradients", "labels"])
def test_what_comes_out_wrong_is_not_played_again(played, wrong, monkeypatch, caplog):
    expected = fitted()
    played.clear()
    record = RecordedStep._record

    def record_wrongly(self):
        record(self)
        replay = self.graph.replay

        def other():
            if wrong == "labels":
                self.labels.fill_(0)
            replay()
            if wrong == "loss":
                self.loss.mul_(1.01)
            if wrong == "gradients":
                self.gradients[0][1].mul_(1.01)

        self.graph.replay = other

    monkeypatch.setattr(RecordedStep, "_record", record_wrongly)
    found = fitted()
    warnings = [line for line in caplog.messages if "other results" in line]
    assert 0 < len(played) <= 2 * len(warnings)
    np.testing.assert_array_equal(found.prototypes_, expected.prototypes_)


def test_what_cannot_be_recorded_is_made_one_by_one(played, monkeypatch, caplog):
    def fails(self):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(RecordedStep, "_record", fails)
    with caplog.at_level("INFO", logger="skvibe"):
        found = fitted()
    assert not played
    assert "not recorded" in caplog.text
    assert len(found.lower_bounds_)
