"""What runs on an NVIDIA GPU: fits, their files, their determinism.

Skipped where there is none; `benchmarks/gpu.sh` runs them.
"""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback

import skvibe
from skvibe import VIBEClassifier
from skvibe._fused_pass import FusedPass, can_fuse
from skvibe._recorded_step import RecordedStep
from skvibe._row_pass import RowPass
from skvibe.transport import solve_transport

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)


@pytest.fixture(scope="module")
def poisoned():
    """Clouds of which a tenth is labelled 0."""
    X, y = make_blobs(2000, 20, centers=5, cluster_std=3.0, random_state=0)
    given = np.where(np.random.default_rng(0).random(2000) < 0.1, 0, y)
    return X.astype(np.float32), given, y


def fitted(poisoned, device, **options):
    options = {"max_iter": 100, "tol": 0.0, "random_state": 0} | options
    return VIBEClassifier(device=device, **options).fit(*poisoned[:2])


OPTIONS = {
    "default": {},
    "approximate": {"corrupted_posterior": "approximate"},
    "soft": {"pseudo_labels": "soft"},
    "learned prior": {"prior": "learned"},
    "uniform prior": {"prior": "uniform"},
    "without whitening": {"whitening": None, "refit": False},
    "constant first": {"first_e_step": "clean"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cuda_fit_agrees_with_the_processors(options, poisoned):
    there, here = (fitted(poisoned, d, **options) for d in ("cuda", "cpu"))
    assert next(there.net_.module_.parameters()).is_cuda
    assert np.mean(there.clean_labels_ == here.clean_labels_) > 0.999
    assert np.mean(there.predict(poisoned[0]) == here.predict(poisoned[0])) > 0.999
    np.testing.assert_allclose(there.poison_scores_, here.poison_scores_, atol=0.01)
    assert np.mean(there.clean_labels_ == poisoned[2]) > 0.95


def test_cuda_fit_is_repeatable_bit_for_bit(poisoned):
    one, two = (fitted(poisoned, "cuda") for _ in range(2))
    np.testing.assert_array_equal(one.clean_proba_, two.clean_proba_)
    np.testing.assert_array_equal(one.prototypes_, two.prototypes_)
    np.testing.assert_array_equal(one.lower_bounds_, two.lower_bounds_)
    np.testing.assert_array_equal(
        one.predict_proba(poisoned[0]), two.predict_proba(poisoned[0])
    )


def test_cuda_leaves_the_global_random_state_alone(poisoned):
    before, there = torch.random.get_rng_state(), torch.cuda.get_rng_state()
    fitted(poisoned, "cuda")
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(there, torch.cuda.get_rng_state())


@pytest.mark.parametrize("refit", [True, False])
def test_cuda_model_goes_through_files(refit, poisoned, tmp_path):
    vibe = fitted(poisoned, "cuda", refit=refit)
    expected = vibe.predict_proba(poisoned[0])
    again = pickle.loads(pickle.dumps(vibe))
    np.testing.assert_array_equal(again.predict_proba(poisoned[0]), expected)
    vibe.save(tmp_path / "model")
    for device in ("cpu", "cuda"):
        loaded = skvibe.load(tmp_path / "model", device=device)
        np.testing.assert_array_equal(loaded.predict_proba(poisoned[0]), expected)


def test_cuda_trains_an_encoder(poisoned):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU())
    weights = encoder[0].weight.clone()
    there, again, here = (
        fitted(poisoned, d, encoder=encoder, train_encoder=True)
        for d in ("cuda", "cuda", "cpu")
    )
    assert torch.equal(encoder[0].weight, weights)
    np.testing.assert_array_equal(there.clean_proba_, again.clean_proba_)
    assert np.mean(there.clean_labels_ == here.clean_labels_) > 0.99


def test_cuda_fit_goes_on_from_a_checkpoint(poisoned, tmp_path):
    class Stop(Exception):
        pass

    class Stopper(Callback):
        n_left = 60

        def on_batch_end(self, net, **kwargs):
            self.n_left -= 1
            if self.n_left == 0:
                raise Stop

    options = {"checkpoint": tmp_path / "fit", "checkpoint_every": 10}
    with pytest.raises(Stop):
        fitted(poisoned, "cuda", net_params={"callbacks": [Stopper()]}, **options)
    resumed = fitted(poisoned, "cuda", **options)
    whole = fitted(poisoned, "cuda")
    np.testing.assert_array_equal(resumed.clean_proba_, whole.clean_proba_)


@pytest.mark.parametrize("n_classes", [10, 100, 300])
def test_cuda_transport_agrees_and_is_repeatable(n_classes):
    rng = np.random.default_rng(0)
    log_p = torch.from_numpy(rng.normal(size=(20_000, n_classes)).astype(np.float32))
    log_p = torch.log_softmax(4 * log_p, dim=1)
    prior = np.full(n_classes, 1 / n_classes)
    here = solve_transport(log_p, prior, tol=1e-8)
    there, again = (solve_transport(log_p.cuda(), prior, tol=1e-8) for _ in range(2))
    assert there.converged
    assert torch.equal(there.potentials, again.potentials)
    assert torch.equal(there.labels.cpu(), here.labels)
    assert there.value == pytest.approx(here.value, abs=1e-7)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_cuda_fused_pass_never_waits(monkeypatch):
    # Ten million numbers and more are passed over by kernels of our own.
    kinds = set()
    add = RowPass.add

    def strict_add(self, block, labels=None, start=0):
        kinds.add(type(self))
        torch.cuda.set_sync_debug_mode("error")
        try:
            add(self, block, labels, start)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    generator = torch.Generator("cuda").manual_seed(0)
    log_p = torch.randn(200_000, 100, device="cuda", generator=generator)
    log_p = torch.log_softmax(4 * log_p, dim=1)
    prior = np.full(100, 0.01)
    plain = solve_transport(log_p.cpu(), prior)
    assert can_fuse(log_p)  # tried before waiting is forbidden
    monkeypatch.setattr(RowPass, "add", strict_add)
    fused = solve_transport(log_p, prior)
    assert kinds == {FusedPass}
    assert fused.converged
    assert (fused.labels.cpu() != plain.labels).double().mean() < 1e-5


def count_plays(monkeypatch):
    played = []
    play = RecordedStep.play

    def counted(self, batch):
        played.append(len(batch[1]))
        return play(self, batch)

    monkeypatch.setattr(RecordedStep, "play", counted)
    return played


@pytest.mark.parametrize("name", OPTIONS)
def test_cuda_recorded_iterations_are_those_made_one_by_one(
    poisoned, name, monkeypatch
):
    # 2,000 rows: whole batches and a smaller one at the end of an epoch.
    options = OPTIONS[name] | {"batch_size": 300}
    played = count_plays(monkeypatch)
    recorded = fitted(poisoned, "cuda", **options)
    soft = options.get("pseudo_labels") == "soft"
    assert set(played) == (set() if soft else {300})
    monkeypatch.setattr("skvibe.em.recorded_step", lambda net, batch: None)
    one_by_one = fitted(poisoned, "cuda", **options)
    np.testing.assert_array_equal(recorded.prototypes_, one_by_one.prototypes_)
    np.testing.assert_array_equal(recorded.clean_labels_, one_by_one.clean_labels_)
    pickle.loads(pickle.dumps(recorded))


def test_cuda_callbacks_see_iterations_made_one_by_one(poisoned, monkeypatch):
    played = count_plays(monkeypatch)
    net_params = {"callbacks": [("mine", Callback())]}
    fitted(poisoned, "cuda", batch_size=300, net_params=net_params)
    assert not played
