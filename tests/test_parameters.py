"""Every parameter of every estimator: a wrong value is refused by name, in fit.

The table must list them all, so a new parameter without a line here fails. What right
values do is tested beside each estimator.
"""

import inspect

import numpy as np
import pytest

from skvibe import OffManifoldFilter, OffManifoldSampler, TriggerFilter, VIBEClassifier
from skvibe.encoders import SelfSupervisedEncoder

RNG = np.random.default_rng(0)
Y = np.arange(120) % 3
X = 3 * np.eye(3, 6)[Y] + 0.2 * RNG.normal(size=(120, 6))
IMAGES = RNG.random((12, 8, 8)).astype(np.float32)

COUNT = (0, -1, 1.5, "3", None, True, np.nan)
POSITIVE = (0.0, -1.0, np.nan, np.inf, "1", None, True)
SHARE = (-0.1, 1.1, np.nan, "0.3", None)
OPTION = ("nothing", 3, None, "")
SEED = ("a", -1, 1.5)
FREE = ()
OFF_MANIFOLD = {
    "encoder": ("model", 3, [1]),
    "n_neighbors": COUNT,
    "threshold": POSITIVE,
    "n_communities": (2, 0, -1, 2.5, "3", True),
    "metric": ("nothing", ""),
    "distance": OPTION,
    "neighbors": ("nothing", 3, None, object()),
    "leiden": OPTION,
    "max_removed": SHARE,
    "random_state": SEED,
    "n_jobs": FREE,  # joblib's
    "verbose": FREE,  # compared with 0
}
WRONG = {
    OffManifoldFilter: OFF_MANIFOLD,
    OffManifoldSampler: OFF_MANIFOLD,
    TriggerFilter: {
        "alpha": (0, 1, -0.1, 1.1, np.nan, "0.05", None),
        "min_samples": COUNT,
        "min_class_size": (1, *COUNT),
        "max_removed": SHARE,
        "undecided": OPTION,
        "random_state": SEED,
        "verbose": FREE,
    },
    VIBEClassifier: {
        "encoder": ("model", 3, np.tanh),
        "train_encoder": FREE,  # truth value
        "encoder_lr": POSITIVE[:3],
        "augment": (3, "crop"),
        "lam": POSITIVE,
        "kappa": POSITIVE,
        "nu": (-1.0, np.nan, np.inf, "1", None, True),
        "whitening": FREE,
        "corrupted_posterior": OPTION,
        "pseudo_labels": OPTION,
        "first_e_step": OPTION,
        "prior": ("nothing", 3, [1.0], [0.0, 1.0, 1.0], [-1.0, 1.0, 1.0]),
        "prior_temperature": POSITIVE,
        "max_iter": COUNT,
        "e_step_period": COUNT,
        "batch_size": COUNT,
        "lr": POSITIVE,
        "tol": (-1.0, np.nan, "1", None),
        "refit": (3, "logistic"),
        "solver": OPTION,
        "device": ("nothing", 3.5),
        "net_params": (3, "optimizer"),
        "checkpoint": FREE,
        "checkpoint_every": FREE,
        "random_state": SEED,
        "verbose": FREE,
    },
    SelfSupervisedEncoder: {
        "encoder": ("nothing", 3, None),
        "augment": (3, "crop"),
        "max_epochs": COUNT,
        "batch_size": (1, *COUNT),
        "lr": POSITIVE,
        "temperature": POSITIVE,
        "projection_size": COUNT,
        "mixed_precision": ("nothing", 3, None),
        "recalibrate": FREE,  # truth value
        "checkpoint": FREE,
        "checkpoint_every": COUNT,
        "device": ("nothing", 3.5),
        "net_params": (3, "optimizer"),
        "random_state": SEED,
        "verbose": FREE,
    },
}
# scikit-learn's own words, which do not name the parameter, are good enough.
NAMED_OTHERWISE = {"random_state", "metric"}


@pytest.mark.parametrize("cls", WRONG)
def test_the_table_lists_every_parameter(cls):
    assert set(WRONG[cls]) == set(inspect.signature(cls).parameters)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (cls, name, value)
        for cls, table in WRONG.items()
        for name, values in table.items()
        for value in values
    ],
)
def test_wrong_values_are_refused_by_name(cls, name, value):
    if name == "prior_temperature":
        estimator = cls(prior="learned", prior_temperature=value)
    elif name == "encoder_lr":
        import torch

        layer = torch.nn.Linear(6, 4)
        estimator = cls(encoder=layer, train_encoder=True, encoder_lr=value)
    else:
        estimator = cls(**{name: value})
    data = (IMAGES,) if cls is SelfSupervisedEncoder else (X, Y)
    match = None if name in NAMED_OTHERWISE else name
    with pytest.raises((ValueError, TypeError), match=match) as refusal:
        estimator.fit(*data)
    assert len(str(refusal.value)) > 15


@pytest.mark.parametrize("cls", WRONG)
def test_the_constructor_only_stores(cls):
    """Nothing is checked or copied before fit, as scikit-learn's clone needs it."""
    for name in WRONG[cls]:
        value = object()
        assert getattr(cls(**{name: value}), name) is value
