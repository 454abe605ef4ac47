import numpy as np
import pytest
import torch
from scipy.special import entr
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit

from skvibe import VIBEClassifier
from skvibe._batches import BatchIterator
from skvibe.em import VIBEModule, VIBENet, usual_e_step_period
from skvibe.posteriors import clean_log_posterior, corrupted_log_posterior, unit_rows


def make_rows(n=90, n_classes=3, flipped=0.1):
    """Unit vectors around a few directions, some labels turned to 0."""
    X, y = make_blobs(n, n_features=6, centers=n_classes, random_state=0)
    rng = np.random.default_rng(0)
    given = np.where(rng.random(n) < flipped, 0, y)
    X = unit_rows(torch.from_numpy(X).float())
    return X, torch.from_numpy(given)


def make_net(X, y, **params):
    n_classes = int(y.max()) + 1
    means = torch.stack([X[y == k].mean(dim=0) for k in range(n_classes)])
    params = {
        "lr": 0.05,
        "batch_size": 32,
        "max_epochs": 1000,
        "max_iter": 60,
        "e_step_period": 10,
        "criterion": torch.nn.CrossEntropyLoss,
        "iterator_train": BatchIterator,
        "iterator_train__shuffle": True,
        "iterator_train__generator": torch.Generator().manual_seed(0),
        "iterator_valid": BatchIterator,
        "train_split": None,
        "verbose": 0,
        "module__kappa": 10.0,
        **params,
    }
    log_prior = torch.full((n_classes,), -np.log(n_classes))
    return VIBENet(
        VIBEModule,
        module__prototypes=means,
        module__corrupted=means,
        module__log_prior=log_prior,
        **params,
    )


def fit(X, y, **params):
    return make_net(X, y, **params).fit({"X": X, "idx": torch.arange(len(X))}, y)


class Watch(Callback):
    """Compares every batch with what is known of its row numbers."""

    def __init__(self):
        self.rows = {True: set(), False: set()}

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        x, y = batch
        assert torch.equal(x["X"], net.em_.X[x["idx"]])
        assert torch.equal(y, net.em_.given[x["idx"]])
        assert len(net.em_.labels) == len(net.em_.X)
        self.rows[training] |= set(x["idx"].tolist())


@pytest.mark.parametrize("pseudo_labels", ["hard", "soft"])
def test_labels_are_keyed_by_original_row_numbers(pseudo_labels):
    X, y = make_rows()
    watch = Watch()
    fit(
        X,
        y,
        callbacks=[watch],
        train_split=ValidSplit(3),
        pseudo_labels=pseudo_labels,
    )
    assert len(watch.rows[True]) == 60
    assert len(watch.rows[False]) == 30
    assert watch.rows[True] | watch.rows[False] == set(range(90))


def test_every_row_is_trained_on_without_a_split():
    X, y = make_rows()
    watch = Watch()
    fit(X, y, callbacks=[watch])
    assert watch.rows == {True: set(range(90)), False: set()}


@pytest.mark.parametrize(
    ("max_iter", "period", "n_e_steps"),
    [(1, 10, 1), (10, 10, 1), (11, 10, 2), (60, 10, 6), (7, 1, 7), (5, 100, 1)],
)
def test_iterations_and_e_steps_are_counted(max_iter, period, n_e_steps):
    # A negative tolerance can not be reached: nothing stops early.
    X, y = make_rows()
    net = fit(X, y, max_iter=max_iter, e_step_period=period, em_tol=-1)
    assert net.em_.iteration == max_iter
    assert len(net.em_.lower_bounds) == len(net.em_.label_changes) == n_e_steps
    assert net.em_.finished
    assert not net.em_.converged
    assert sum(net.history[:, "train_batch_count"]) == max_iter


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "max_iter", "period"),
    [
        (1, 1024, 1000, 20),
        (20_480, 1024, 1000, 20),
        (20_481, 1024, 1000, 21),
        (40_000, 1000, 1000, 40),
        (50_000, 1024, 1000, 49),
        (10**6, 1024, 1000, 50),  # 20 E-steps at least
        (10**6, 1024, 399, 20),
        (10**6, 1024, 15_000, 750),
    ],
)
def test_usual_period_is_an_epoch_within_limits(n_rows, batch_size, max_iter, period):
    assert usual_e_step_period(n_rows, batch_size, max_iter) == period


@pytest.mark.parametrize(("batch_size", "period"), [(90, 20), (4, 23), (3, 25)])
def test_classifier_takes_the_usual_period(batch_size, period):
    X, y = make_rows()
    vibe = VIBEClassifier(
        batch_size=batch_size, max_iter=500, tol=0, kappa=20, nu=20, random_state=0
    )
    vibe.set_params(whitening=None, prior="uniform", refit=False).fit(X, y)
    assert len(X) == 90
    assert vibe.converged_
    assert vibe.n_iter_ == period * (len(vibe.lower_bounds_) - 1)
    same = clone(vibe).set_params(e_step_period=period).fit(X, y)
    assert np.array_equal(same.clean_proba_, vibe.clean_proba_)


def test_training_stops_when_the_labels_are_calm():
    X, y = make_rows()
    net = fit(X, y, max_iter=500)
    assert net.em_.converged
    assert net.em_.iteration < 500
    assert net.em_.label_changes[0] == 1
    assert max(net.em_.label_changes[-2:]) <= net.em_tol
    # One calm E-step is not enough.
    calm = np.array(net.em_.label_changes) <= net.em_tol
    assert not (calm[:-2] & calm[1:-1]).any()


def naive_log_joint(net, with_corrupted):
    state, module = net.em_, net.module_
    v, mu = state.X.double(), unit_rows(module.prototypes.double())
    eta = unit_rows(module.corrupted.double())
    log_p = clean_log_posterior(v @ mu.T, module.log_prior(), module.kappa)
    if with_corrupted:
        log_p = log_p + corrupted_log_posterior(
            v @ mu.T, v @ eta.T, mu @ eta.T, state.given, net.nu
        )
    return log_p.detach().numpy()


@pytest.mark.parametrize("lam", [0.5, 25.0])
def test_lower_bound_is_the_value_of_the_transport_problem(lam):
    X, y = make_rows()
    net = fit(X, y, lam=lam, pseudo_labels="soft", max_iter=11, em_tol=-1)
    net.e_step()
    log_p = naive_log_joint(net, with_corrupted=True)
    q = net.em_.responsibilities.double().numpy()
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.mean(axis=0), 1 / 3, atol=1e-4)
    value = ((q * log_p).sum() + entr(q).sum() / lam) / len(q)
    assert net.em_.lower_bounds[-1] == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("first", ["clean", "joint"])
def test_first_e_step_takes_the_corrupted_posterior_constant_on_request(first):
    X, y = make_rows()
    net = make_net(X, y, first_e_step=first)
    net.initialize()
    net.on_train_begin(net, X={"X": X}, y=y)
    log_p = []
    net.log_joint = record_calls(net.log_joint, log_p)
    net.e_step()
    np.testing.assert_allclose(
        log_p[0], naive_log_joint(net, first == "joint"), atol=1e-4
    )
    net.e_step()
    np.testing.assert_allclose(log_p[1], naive_log_joint(net, True), atol=1e-4)
    assert net.em_.label_changes[0] == 1


def record_calls(function, results):
    def recorded(*args, **kwargs):
        result = function(*args, **kwargs)
        results.append(result.detach().clone())
        return result

    return recorded


@pytest.mark.parametrize("lam", [1.0, 25.0])
@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_lower_bound_never_falls(corrupted_posterior, lam):
    # True of EM only with soft labels and small steps on all rows at once.
    X, y = make_rows()
    net = fit(
        X,
        y,
        lam=lam,
        corrupted_posterior=corrupted_posterior,
        pseudo_labels="soft",
        max_iter=200,
        em_tol=-1,
        batch_size=90,
        lr=0.01,
    )
    # The first one leaves out p(y | l, x): it is of another problem.
    bounds = np.array(net.em_.lower_bounds[1:])
    assert (bounds <= 1e-6).all()
    assert np.diff(bounds).min() > -1e-6
    assert bounds[-1] > bounds[0] + 1e-3


@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_lower_bound_rises_with_hard_labels_and_batches(corrupted_posterior):
    X, y = make_rows(200)
    net = fit(X, y, corrupted_posterior=corrupted_posterior, max_iter=300, em_tol=-1)
    bounds = np.array(net.em_.lower_bounds[1:])
    assert np.isfinite(bounds).all()
    assert bounds[-5:].mean() > bounds[0]
    assert bounds.min() == bounds[0]


@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_hard_is_the_limit_of_soft(corrupted_posterior):
    X, y = make_rows()
    fits = [
        fit(
            X,
            y,
            lam=1e5,
            pseudo_labels=kind,
            corrupted_posterior=corrupted_posterior,
            iterator_train__generator=torch.Generator().manual_seed(0),
        )
        for kind in ("hard", "soft")
    ]
    assert torch.equal(fits[0].em_.labels, fits[1].em_.labels)
    torch.testing.assert_close(
        fits[0].module_.prototypes, fits[1].module_.prototypes, atol=1e-3, rtol=1e-3
    )


def test_loss_is_minus_the_expected_log_likelihood():
    X, y = make_rows()
    net = fit(X, y, max_iter=1, pseudo_labels="soft")
    idx = torch.arange(10, 20)
    loss = net.get_loss(net.module_(X[idx]), y[idx], X={"X": X[idx], "idx": idx})
    log_p = naive_log_joint(net, with_corrupted=True)[10:20]
    expected = -(net.em_.responsibilities[idx].numpy() * log_p).sum(axis=1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_frozen_features_fix_the_corrupted_prototypes():
    X, y = make_rows()
    net = fit(X, y)
    means = torch.stack([X[y == k].mean(dim=0) for k in range(3)])
    assert torch.equal(net.module_.corrupted, means)
    assert not torch.equal(net.module_.prototypes, means)


def test_a_trained_encoder_frees_them():
    X, y = make_rows()
    encoder = torch.nn.Linear(6, 6)
    before = encoder.weight.detach().clone()
    net = fit(X, y, module__encoder=encoder, max_iter=5)
    assert net.module_.corrupted.requires_grad
    assert not torch.equal(net.module_.encoder.weight, before)


def test_learned_prior_moves():
    X, y = make_rows()
    theta = torch.zeros(3)
    net = fit(
        X,
        y,
        module__theta=theta,
        module__prior_temperature=1.0,
        optimizer__param_groups=[("theta", {"lr": 0.1})],
    )
    assert net.module_.log_prior().exp().sum().item() == pytest.approx(1, rel=1e-5)
    assert not torch.equal(net.module_.theta, theta)
    assert theta.eq(0).all()


def test_final_e_step_agrees_with_the_fitted_module():
    X, y = make_rows()
    net = fit(X, y, lam=1.0)
    responsibilities = net.final_e_step()
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(responsibilities.mean(axis=0), 1 / 3, atol=1e-4)


# -- skorch's features stay open -----------------------------------------------------


def test_losses_are_in_the_history():
    X, y = make_rows()
    net = fit(X, y, train_split=ValidSplit(3))
    for name in ("train_loss", "valid_loss"):
        assert np.isfinite(net.history[:, name]).all()
    batches = net.history[0, "batches"]
    assert all(np.isfinite(batch["train_loss"]) for batch in batches[:2])


def test_callbacks_work():
    X, y = make_rows()
    net = fit(
        X,
        y,
        em_tol=-1,
        callbacks=[
            EarlyStopping("train_loss", patience=2, threshold=1e6),
            LRScheduler("StepLR", step_size=1, gamma=0.5),
            EpochScoring("accuracy", name="valid_acc", lower_is_better=False),
        ],
        train_split=ValidSplit(3),
    )
    # A first epoch to compare with, then two that are not better.
    assert len(net.history) == 3
    assert net.history[1, "event_lr"] < net.history[0, "event_lr"]
    assert net.history[-1, "valid_acc"] > 0.5


@pytest.mark.parametrize("callbacks", [[], None, "disable"])
def test_no_callback_list_switches_the_e_step_off(callbacks):
    X, y = make_rows()
    net = fit(X, y, callbacks=callbacks, em_tol=-1, max_iter=21)
    assert len(net.em_.lower_bounds) == 3


class Interrupt(Callback):
    def on_batch_end(self, net, training=None, **kwargs):
        if net.em_.iteration == 15:
            raise KeyboardInterrupt


def test_interrupted_training_leaves_a_marked_model():
    X, y = make_rows()
    vibe = VIBEClassifier(
        random_state=0,
        batch_size=16,
        e_step_period=10,
        net_params={"callbacks": [Interrupt()]},
    )
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        vibe.fit(X.numpy(), y.numpy())
    assert not vibe.converged_
    assert vibe.n_iter_ == 15
    assert vibe.predict(X.numpy()).shape == (90,)


@pytest.mark.parametrize("pseudo_labels", ["hard", "soft"])
def test_chunks_change_nothing(pseudo_labels):
    X, y = make_rows()
    one, many = (
        fit(
            X,
            y,
            chunk_size=chunk,
            pseudo_labels=pseudo_labels,
            iterator_train__generator=torch.Generator().manual_seed(0),
        )
        for chunk in (None, 7)
    )
    assert torch.equal(one.em_.labels, many.em_.labels)
    torch.testing.assert_close(one.module_.prototypes, many.module_.prototypes)
    np.testing.assert_allclose(one.em_.lower_bounds, many.em_.lower_bounds, rtol=1e-5)


@pytest.mark.parametrize("pseudo_labels", ["hard", "soft"])
@pytest.mark.parametrize("posterior", ["full", "approximate"])
def test_log_joint_is_that_of_double_precision(posterior, pseudo_labels):
    X, y = make_rows(n=600, n_classes=5)
    net = fit(X, y, corrupted_posterior=posterior, pseudo_labels=pseudo_labels)
    mu = unit_rows(net.module_.prototypes.detach().double())
    eta = unit_rows(net.module_.corrupted.double())
    cosines, table = X.double() @ mu.T, mu @ eta.T
    log_prior = net.module_.log_prior().double()
    clean = clean_log_posterior(cosines, log_prior, net.module_.kappa)
    if posterior == "full":
        given = corrupted_log_posterior(cosines, X.double() @ eta.T, table, y, net.nu)
    else:
        given = torch.log_softmax(net.nu * table, dim=1).T[y]
    # Logits of a few tens, in single precision.
    torch.testing.assert_close(
        net.log_joint(True).double(), clean + given, atol=2e-5, rtol=0
    )
    torch.testing.assert_close(net.log_joint(False).double(), clean, atol=1e-5, rtol=0)


def clouds(n_rows, n_classes):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, 40))
    y = np.arange(n_rows) % n_classes
    X = centres[y] + 0.7 * rng.standard_normal((n_rows, 40))
    given = np.where(rng.random(n_rows) < 0.1, 0, y)
    return unit_rows(torch.from_numpy(X).float()), torch.from_numpy(given)


@pytest.mark.parametrize("posterior", ["full", "approximate"])
@pytest.mark.parametrize("n_classes", [5, 70])
def test_an_e_step_finds_what_one_over_all_rows_finds(
    posterior, n_classes, monkeypatch
):
    X, y = clouds(3000, n_classes)
    taken = {"corrupted_posterior": posterior, "batch_size": 256, "em_tol": -1.0}
    taken["module__kappa"] = 20.0
    left, look = [], VIBENet.unsettled_rows

    def looked(net):
        rows = look(net)
        left.append(len(rows.places))
        return rows

    monkeypatch.setattr(VIBENet, "unsettled_rows", looked)
    some = fit(X, y, **taken, nu=20.0)
    assert left
    assert max(left) < 2500
    monkeypatch.setattr(VIBENet, "_solve_unsettled", lambda net: None)
    taken["iterator_train__generator"] = torch.Generator().manual_seed(0)
    all_rows = fit(X, y, **taken, nu=20.0)
    assert torch.equal(some.em_.labels, all_rows.em_.labels)
    np.testing.assert_allclose(
        some.em_.lower_bounds, all_rows.em_.lower_bounds, rtol=1e-6
    )
    # A balance of few rows: the tolerance leaves them some room.
    np.testing.assert_allclose(some.em_.potentials, all_rows.em_.potentials, atol=0.2)


def test_potentials_out_of_reach_are_found_among_all_rows():
    X, y = clouds(1000, 5)
    net = fit(X, y, nu=20.0, max_iter=21, em_tol=-1.0)
    state = net.em_
    net.e_step()
    found = state.labels, state.potentials
    # From here the solution is farther than any row aside would allow.
    state.potentials = found[1] + 300.0 * torch.arange(5)
    net.e_step()
    assert torch.equal(state.labels, found[0])
    torch.testing.assert_close(state.potentials, found[1], atol=1e-3, rtol=0)


def test_nothing_is_put_aside_before_labels_are_calm():
    X, y = clouds(300, 3)
    net = make_net(X, y)
    net.initialize()
    net.on_train_begin(net, X={"X": X}, y=y)
    assert net._solve_unsettled() is None
    net.e_step()
    assert net.em_.label_changes == [1.0]
    assert net._solve_unsettled() is None
    net.e_step()
    assert net._solve_unsettled() is not None


def test_progress_is_printed_on_request_only(capsys):
    X, y = make_rows()
    fit(X, y)
    assert capsys.readouterr().out == ""
    fit(X, y, em_verbose=1)
    out = capsys.readouterr().out
    assert "[EM] 0/60" in out
    assert "elbo=" in out
