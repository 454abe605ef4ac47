"""A trained EM net as plain arrays, and back.

skorch hides a pickle inside its own state, so a net is not stored as it is: what is
kept are the weights and the history, and the net is built anew around them.
"""

import numpy as np
import torch
from skorch.history import History

from skvibe._fitting import _build_net

_ENCODER = "encoder."


def describe_net(net):
    """Arrays and numbers that `restore_net` needs; no torch or skorch object.

    Parameters
    ----------
    net : VIBENet
        Trained.

    Returns
    -------
    dict
        ``"weights"``: arrays by name, those of a trained encoder left out;
        ``"history"``: list of dict.
    """
    weights = {
        name: to_array(value)
        for name, value in net.module_.state_dict().items()
        if not name.startswith(_ENCODER)
    }
    return {"weights": weights, "history": list(net.history)}


def restore_net(settings, description, encoder=None):
    """Build the net that was described, on the CPU or its encoder's device.

    Parameters
    ----------
    settings : VIBEClassifier
        Its parameters.
    description : dict
        From `describe_net`.
    encoder : torch.nn.Module, default=None
        The trained encoder, if it is part of the net.

    Returns
    -------
    VIBENet
        Predicts as before. The optimiser's momentum is not restored.
    """
    weights = {
        name: torch.from_numpy(np.array(value))
        for name, value in description["weights"].items()
    }
    parameter = torch.empty(0) if encoder is None else next(encoder.parameters())
    net = _build_net(
        settings,
        {
            "module__prototypes": weights["prototypes"],
            "module__corrupted": weights["corrupted"],
            "module__log_prior": weights.get("fixed_log_prior"),
            "module__theta": weights.get("theta"),
            "module__kappa": settings.kappa_,
            "module__prior_temperature": float(settings.prior_temperature),
            "module__encoder": encoder,
            "module__augment": None,
        },
        settings.batch_size,
        parameter.device,
        seed=0,
    )
    net.initialize()
    net.history_ = History(description["history"])
    return net


def check_fitted_shapes(vibe):
    """Raise unless the fitted arrays of a classifier fit each other.

    Parameters
    ----------
    vibe : VIBEClassifier
        With fitted attributes from a file.

    Raises
    ------
    ValueError
        If one has another shape than the classes, features and rows ask for.
    """
    n_classes, n_rows = vibe.classes_.shape[0], vibe.train_mask_.shape[0]
    n_features = vibe._n_features_out
    expected = {
        "classes_": (n_classes,),
        "train_mask_": (n_rows,),
        "prototypes_": (n_classes, n_features),
        "corrupted_prototypes_": (n_classes, n_features),
        "poisoning_rule_": (n_classes, n_classes),
        "prior_": (n_classes,),
        "clean_proba_": (n_rows, n_classes),
        "clean_labels_": (n_rows,),
        "poison_scores_": (n_rows,),
    }
    for name, shape in expected.items():
        if getattr(vibe, name).shape != shape:
            raise ValueError(f"{name} must have shape {shape}")
    for name in ("prototypes_", "prior_", "poison_scores_", "clean_proba_"):
        if not np.isfinite(getattr(vibe, name)).all():
            raise ValueError(f"{name} must be finite")


def to_array(tensor):
    """Array with the values of a tensor; bfloat16 becomes float32, which holds it."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy().copy()
