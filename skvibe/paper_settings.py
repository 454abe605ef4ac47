"""The constants of the paper, for comparison; they are not safe on all features.

References
----------
.. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
   Defense", ICCV 2025 (section 5 and supplementary section H).
"""

# kappa = nu, up to and above this number of classes.
_MANY_CLASSES = 30
_FEW, _MANY = 10.0, 20.0

_COMMON = {
    "lam": 25.0,
    "whitening": None,
    "first_e_step": "clean",
    "prior": "learned",
    "prior_temperature": 0.02,
    "refit": False,
    "tol": 0,
}
_SETTINGS = {
    "FM": {"lr": 1e-2, "max_iter": 15_000, "e_step_period": 500, "batch_size": 1024},
    "SS": {
        "train_encoder": True,
        "lr": 1e-3,
        "max_iter": 30_000,
        "e_step_period": 1_000,
        "batch_size": 256,
    },
}


def paper_concentration(n_classes):
    """The paper's kappa and nu: 10 up to 30 classes, 20 above.

    Parameters
    ----------
    n_classes : int
        Number of classes.

    Returns
    -------
    float
        Value of both.

    Examples
    --------
    >>> from skvibe.paper_settings import paper_concentration
    >>> paper_concentration(10), paper_concentration(1000)
    (10.0, 20.0)
    """
    return _FEW if n_classes <= _MANY_CLASSES else _MANY


def paper_settings(setting):
    """Parameters of `VIBEClassifier` as in the paper.

    Parameters
    ----------
    setting : {"FM", "SS"}
        "FM": frozen features of a foundation model. "SS": an encoder, pretrained
        without labels, that is trained end to end; give it as ``encoder``.

    Returns
    -------
    dict
        To be passed to `VIBEClassifier`; ``kappa`` and ``nu`` stay "auto", which
        without whitening is `paper_concentration`.

    Raises
    ------
    ValueError
        For another setting.

    Examples
    --------
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.paper_settings import paper_settings
    >>> VIBEClassifier(**paper_settings("FM")).max_iter
    15000
    """
    if setting not in _SETTINGS:
        raise ValueError(
            f"setting must be one of {', '.join(map(repr, _SETTINGS))}; got "
            f"{setting!r}."
        )
    return {**_COMMON, **_SETTINGS[setting]}
