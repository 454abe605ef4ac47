"""What the parameters of `VIBEClassifier` may be; called at the start of a fit."""

from os import PathLike

import numpy as np
import torch
from sklearn.base import is_classifier

from skvibe._checks import check_integer, check_option, check_real

# set_params("optimizer__momentum") and the like reach the inner skorch net.
NET_PREFIXES = (
    "optimizer",
    "callbacks",
    "iterator_train",
    "iterator_valid",
    "train_split",
    "dataset",
)
_PRIORS = ("auto", "uniform", "empirical", "learned")


def check_parameters(vibe):
    """Raise unless every parameter that needs no data to judge is in range.

    Parameters
    ----------
    vibe : VIBEClassifier
        Its parameters, as attributes.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter and what it may be.
    """
    _check_encoder(vibe)
    _check_numbers(vibe)
    _check_refit(vibe.refit)
    _check_net_params(vibe.net_params)
    _check_checkpoint(vibe)


def check_prior(prior, n_classes):
    """Raise unless ``prior`` is one of the names or a share for each class."""
    if isinstance(prior, str):
        check_option("prior", prior, _PRIORS)
        return
    prior = np.asarray(prior, dtype=float)
    if (
        prior.shape != (n_classes,)
        or not np.isfinite(prior).all()
        or (prior <= 0).any()
    ):
        raise ValueError(
            "prior must be 'auto', 'uniform', 'empirical', 'learned' or an array of "
            f"{n_classes} positive numbers, one for each class; got {prior!r}."
        )


def _check_encoder(vibe):
    if vibe.encoder is not None and not isinstance(vibe.encoder, torch.nn.Module):
        raise TypeError(
            "encoder must be a torch.nn.Module or None, got "
            f"{type(vibe.encoder).__name__}. Apply other transformers as an "
            "earlier step of the pipeline."
        )
    if vibe.train_encoder and vibe.encoder is None:
        raise ValueError("train_encoder=True needs an encoder; got encoder=None.")
    if vibe.augment is not None and not callable(vibe.augment):
        raise TypeError(
            "augment must be None, a torch.nn.Module or a callable on batches, got "
            f"{type(vibe.augment).__name__}."
        )
    if vibe.augment is not None and not vibe.train_encoder:
        raise ValueError(
            "augment needs train_encoder=True: the features of a fixed encoder are "
            "computed once."
        )


def _check_numbers(vibe):
    if vibe.encoder_lr is not None:
        check_real("encoder_lr", vibe.encoder_lr, 0, closed="()")
    check_real("lam", vibe.lam, 0, closed="()")
    if vibe.whitening is not None:
        _check_auto_or(check_real, "whitening", vibe.whitening, 0, closed="()")
    _check_auto_or(check_real, "kappa", vibe.kappa, 0, closed="()")
    _check_auto_or(check_real, "nu", vibe.nu, 0)
    check_option("first_e_step", vibe.first_e_step, ("joint", "clean"))
    check_real("prior_temperature", vibe.prior_temperature, 0, closed="()")
    check_real("lr", vibe.lr, 0, closed="()")
    check_real("tol", vibe.tol, 0)
    check_integer("max_iter", vibe.max_iter, 1)
    _check_auto_or(check_integer, "e_step_period", vibe.e_step_period, 1)
    check_integer("batch_size", vibe.batch_size, 1)
    check_option(
        "corrupted_posterior", vibe.corrupted_posterior, ("full", "approximate")
    )
    check_option("pseudo_labels", vibe.pseudo_labels, ("hard", "soft"))
    check_option("solver", vibe.solver, ("torch", "pot"))


def _check_auto_or(check, name, value, *limits, **more):
    if isinstance(value, str):
        check_option(name, value, ("auto",))
    else:
        check(name, value, *limits, **more)


def _check_refit(refit):
    if not isinstance(refit, bool) and not (
        hasattr(refit, "predict_proba") and is_classifier(refit)
    ):
        raise TypeError(
            "refit must be True, False or a scikit-learn classifier with "
            f"predict_proba, got {refit!r}."
        )


def _check_net_params(net_params):
    if net_params is not None and not isinstance(net_params, dict):
        raise TypeError(
            "net_params must be a dict of skorch parameters or None, got "
            f"{type(net_params).__name__}."
        )
    for name in net_params or {}:
        if name.partition("__")[0] not in NET_PREFIXES:
            raise ValueError(
                f"net_params holds {name!r}; it may hold "
                f"{', '.join(NET_PREFIXES)} and what they take, such as "
                "optimizer__momentum. Other settings are parameters of the "
                "classifier itself."
            )


def _check_checkpoint(vibe):
    check_integer("checkpoint_every", vibe.checkpoint_every, 1)
    if vibe.checkpoint is not None and not isinstance(vibe.checkpoint, (str, PathLike)):
        raise TypeError(
            "checkpoint must be None or the path of a file, got "
            f"{type(vibe.checkpoint).__name__}."
        )
