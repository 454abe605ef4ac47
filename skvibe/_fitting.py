"""From features and given labels to a trained EM net; what `VIBEClassifier.fit` runs.

`settings` is everywhere the classifier's own parameters, as attributes.
"""

import copy
import functools
import inspect
import threading
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from skvibe._batches import BatchIterator
from skvibe._checkpoint import Checkpoint
from skvibe._class_means import class_means
from skvibe._training_state import from_plain, to_plain
from skvibe.em import VIBEModule, VIBENet, usual_e_step_period
from skvibe.trust import class_shares, trusted_rows

# Estimating the class shares: EM runs until no more than this share of the rows
# would move to another class.
_PRIOR_RUNS = 3
_PRIOR_SETTLED = 0.05
_PRIOR_ROWS = 10_000
_BLOCK = 4096
# torch's random state is one a process: fits that use it go one after the other.
_GLOBAL_RANDOM_STATE = threading.Lock()


def fit_em(
    settings,
    rows,
    features,
    given,
    n_classes,
    seed,
    encoder=None,
    checkpoint=None,
    prior=None,
):
    """Train the net, with the class shares that ``prior`` asks for.

    ``prior="auto"`` starts with equal shares: whatever an attacker adds to a class is
    then pushed out of it, together with clean rows where the class really is large.
    The rows that stay are trusted; a classifier fitted to them says how large the
    classes are, and their means are where the next run starts. Poisoned rows do not
    count for the target unless they are trusted first.

    An interruption (Ctrl-C, or a callback that ends the training) ends all runs.

    Parameters
    ----------
    settings, rows, features, given, seed, encoder
        As in `run_em`.
    n_classes : int
        Number of classes.
    checkpoint : Checkpoint, default=None
        Where the state is kept, and what it says is already done. None: nowhere.
    prior : str or array-like, default=None
        As of `VIBEClassifier`; None takes that of ``settings``.

    Returns
    -------
    VIBENet
        As `run_em` does.
    """
    if checkpoint is None:
        checkpoint = Checkpoint([seed])
    train = functools.partial(run_em, settings, given=given, seed=seed)
    train = functools.partial(train, features=features, checkpoint=checkpoint)
    prior = settings.prior if prior is None else prior
    if not (isinstance(prior, str) and prior == "auto"):
        shares = _fixed_shares(prior, given, n_classes)
        return train(rows, shares=shares, encoder=encoder)
    stage = _first_stage(n_classes, checkpoint, features.device)
    net = None
    while stage.run < _PRIOR_RUNS:
        # Frozen features are enough to count rows, also where an encoder is trained.
        try:
            net = train(features, shares=stage.shares, start=stage.start)
        except KeyboardInterrupt:
            # Outside of skorch's loop, which would have swallowed it.
            if net is None:
                raise
            net.em_.interrupt()
            break
        following = _next_stage(stage, net, features, given, seed)
        if following is None:
            break
        stage = following
        checkpoint.enter(to_plain(vars(stage)))
    if encoder is None:
        return net
    if net is not None and not net.em_.finished:
        return _with_encoder(settings, net, rows, features, encoder, seed)
    if stage.run < _PRIOR_RUNS:
        stage = Stage(_PRIOR_RUNS, stage.shares, stage.start)
        checkpoint.enter(to_plain(vars(stage)))
    return train(rows, shares=stage.shares, start=stage.start, encoder=encoder)


@dataclass
class Stage:
    """Where one of several runs starts: its number, class shares and prototypes."""

    run: int
    shares: np.ndarray
    start: torch.Tensor | None = None


def _first_stage(n_classes, checkpoint, device):
    if checkpoint.stage is None:
        return Stage(0, np.full(n_classes, 1 / n_classes))
    kept = from_plain(checkpoint.stage)
    start = kept["start"]  # None: the first run already found equal shares
    return Stage(
        kept["run"], kept["shares"], None if start is None else start.to(device)
    )


def _next_stage(stage, net, features, given, seed):
    """What a run has found for the next one; None if no other is needed."""
    if stage.run == _PRIOR_RUNS - 1 or not net.em_.finished:
        return None
    n_classes = len(stage.shares)
    try:
        trusted = _trusted(net, given)
        counted = _count_shares(features, given, trusted, n_classes, seed)
        if np.abs(counted - stage.shares).sum() < _PRIOR_SETTLED:
            return None
        means = class_means(features[trusted], given[trusted], n_classes)
    except KeyboardInterrupt:
        net.em_.interrupt()
        return None
    return Stage(stage.run + 1, counted, means)


def _with_encoder(settings, net, rows, features, encoder, seed):
    """The net with the encoder as it was given: training did not get to it."""
    module = net.module_
    whole = _build_net(
        settings,
        {
            "module__prototypes": module.prototypes.detach(),
            "module__corrupted": module.corrupted.detach(),
            "module__log_prior": module.fixed_log_prior,
            "module__theta": None,
            "module__kappa": module.kappa,
            "module__prior_temperature": module.prior_temperature,
            "module__encoder": encoder,
            "module__augment": copy.deepcopy(settings.augment),
        },
        len(rows),
        features.device,
        seed,
    )
    whole.initialize()
    whole.history_ = net.history
    whole.em_, whole._progress = net.em_, net._progress
    whole.em_.X = rows
    return whole


def _fixed_shares(prior, given, n_classes):
    """Class shares of one run; None where they are to be learned."""
    if not isinstance(prior, str):
        return np.asarray(prior, dtype=float) / np.sum(prior)
    if prior == "learned":
        return None
    if prior == "uniform":
        return np.full(n_classes, 1 / n_classes)
    counts = np.bincount(given.cpu().numpy(), minlength=n_classes)
    # A class whose rows were all removed keeps a vanishing share.
    counts = np.maximum(counts, 1e-3)
    return counts / counts.sum()


def _trusted(net, given):
    """Row numbers of the trusted rows after a run."""
    trusted = trusted_rows(given, net.em_.labels, net.poison_scores())
    return torch.nonzero(trusted)[:, 0]


def _count_shares(features, given, trusted, n_classes, seed):
    """Class shares, by a classifier that was fitted to trusted rows."""
    if len(torch.unique(given[trusted])) < 2:
        return np.full(n_classes, 1 / n_classes)
    if len(trusted) > _PRIOR_ROWS:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randperm(len(trusted), generator=generator)[:_PRIOR_ROWS]
        trusted = trusted[draw.sort().values.to(trusted.device)]
    counter = LogisticRegression(C=10, tol=1e-3, max_iter=1000)
    counter.fit(features[trusted].cpu().numpy(), given[trusted].cpu().numpy())
    predicted = [
        counter.predict(block.cpu().numpy()) for block in features.split(_BLOCK)
    ]
    return class_shares(np.concatenate(predicted), n_classes)


def run_em(
    settings,
    rows,
    features,
    given,
    shares,
    seed,
    encoder=None,
    start=None,
    checkpoint=None,
):
    """Train one net from the class means of the given labels.

    Parameters
    ----------
    settings : VIBEClassifier
        Parameters.
    rows : torch.Tensor or ndarray
        What the net iterates over: the features, or inputs of ``encoder``.
    features : torch.Tensor of shape (n_rows, n_features)
        Unit features of the same rows.
    given : torch.Tensor of int64 of shape (n_rows,)
        Codes of the given labels.
    shares : ndarray of shape (n_classes,) or None
        Class shares; None learns them.
    seed : int
        Order of the batches and start of a learned prior.
    encoder : torch.nn.Module, default=None
        Trained together with the prototypes.
    start : torch.Tensor of shape (n_classes, n_features), default=None
        Start of the clean prototypes; None takes the means of the given labels.
    checkpoint : Checkpoint, default=None
        Where the state is kept, and the state to go on from.

    Returns
    -------
    VIBENet
        Trained; ``em_`` holds the state of the last E-step, and is not ``finished``
        if the training was interrupted.
    """
    module_params = _module_params(
        settings, features, given, shares, seed, encoder, start
    )
    net = _build_net(settings, module_params, len(rows), features.device, seed)
    net._checkpoint = checkpoint
    net._tasks = getattr(settings, "_tasks", None)
    idx = torch.arange(len(rows), device=features.device)
    if encoder is None:
        net.fit({"X": rows, "idx": idx}, given)
    else:
        # A user's module may draw random numbers (dropout) from torch's global state.
        cuda = [features.device] if features.device.type == "cuda" else []
        with _GLOBAL_RANDOM_STATE, torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            net.fit({"X": rows, "idx": idx}, given)
    del net._checkpoint, net._tasks
    return net


def _module_params(settings, features, given, shares, seed, encoder, start):
    n_classes = len(settings.classes_)
    means = class_means(features, given, n_classes)
    log_prior = theta = None
    if shares is None:
        generator = torch.Generator().manual_seed(seed)
        theta = torch.randn(n_classes, generator=generator)
    else:
        log_prior = torch.from_numpy(np.log(shares).astype(np.float32))
    return {
        "module__prototypes": means if start is None else start,
        "module__corrupted": means,
        "module__log_prior": log_prior,
        "module__theta": theta,
        "module__kappa": settings.kappa_,
        "module__prior_temperature": float(settings.prior_temperature),
        "module__encoder": encoder,
        "module__augment": None if encoder is None else copy.deepcopy(settings.augment),
    }


def _build_net(settings, module_params, n_rows, device, seed):
    batch_size = min(settings.batch_size, n_rows)
    trains_encoder = module_params["module__encoder"] is not None
    params = {
        "batch_size": batch_size,
        # More than needed: the net itself ends the training at max_iter.
        "max_epochs": settings.max_iter + 1,
        "criterion": torch.nn.CrossEntropyLoss,
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__weight_decay": 5e-4,
        "lr": settings.lr,
        "iterator_train": BatchIterator,
        "iterator_train__shuffle": True,
        "iterator_train__join_single": trains_encoder,
        "iterator_train__generator": torch.Generator().manual_seed(seed),
        "iterator_valid": BatchIterator,
        "train_split": None,
        "callbacks__print_log": None,
        "verbose": 0,
    }
    groups = []
    if module_params["module__theta"] is not None:
        groups.append(("theta", {"lr": 0.1}))
    if trains_encoder and settings.encoder_lr is not None:
        groups.append(("encoder.*", {"lr": settings.encoder_lr}))
    if groups:
        params["optimizer__param_groups"] = groups
    # Callbacks are changed by training: deep copies keep the user's as they are.
    params.update(copy.deepcopy(settings.net_params or {}))
    own = settings.net_params or {}
    takes = inspect.signature(params["optimizer"]).parameters
    if "momentum" not in takes and "optimizer__momentum" not in own:
        # Adam and others do without.
        del params["optimizer__momentum"]
    period = settings.e_step_period
    if isinstance(period, str):
        period = usual_e_step_period(n_rows, batch_size, settings.max_iter)
    return VIBENet(
        VIBEModule,
        **module_params,
        **params,
        device=device,
        lam=float(settings.lam),
        nu=settings.nu_,
        first_e_step=settings.first_e_step,
        corrupted_posterior=settings.corrupted_posterior,
        pseudo_labels=settings.pseudo_labels,
        solver=settings.solver,
        max_iter=settings.max_iter,
        e_step_period=period,
        em_tol=settings.tol,
        em_verbose=settings.verbose,
    )
