"""Classifiers that hold against poisoned training data, in scikit-learn's terms.

Public names resolve on first use, so that ``import skvibe`` stays light: torch,
igraph, pynndescent and matplotlib are loaded by the part that needs them.
"""

from importlib import import_module

from skvibe._version import __version__

# name -> the module that defines it
_PUBLIC = {
    "Audit": "skvibe.auditing",
    "OffManifoldFilter": "skvibe.filters",
    "OffManifoldSampler": "skvibe.filters",
    "TriggerFilter": "skvibe.trigger_filter",
    "VIBEClassifier": "skvibe.classifier",
    "audit": "skvibe.auditing",
    "load": "skvibe.persistence",
    "save": "skvibe.persistence",
}
_MODULES = (
    "attacks",
    "datasets",
    "displays",
    "encoders",
    "metrics",
    "model_selection",
    "transport",
)

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return import_module(f"skvibe.{name}")
    raise AttributeError(f"module 'skvibe' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
