"""Backdoor attacks, to measure defences with.

Every attack is a small scikit-learn object: parameters in ``__init__``, a method
``poison(X, y)`` that returns a :class:`PoisonedData`, and a method ``trigger(X)`` that
plants the same trigger in test rows. Names resolve on first use, because the attacks
that follow gradients load torch.
"""

from importlib import import_module

# name -> the module that defines it
_PUBLIC = {
    "AdaptiveBlend": "adaptive",
    "AdaptivePatch": "adaptive",
    "AdaptiveTrigger": "latent",
    "BadNets": "patch",
    "Blend": "blend",
    "CTRL": "frequency",
    "FTrojan": "frequency",
    "FeatureShift": "embeddings",
    "LabelConsistent": "label_consistent",
    "Narcissus": "narcissus",
    "PoisonedData": "base",
    "SIG": "sinusoid",
    "SentenceInsertion": "text",
    "TokenInsertion": "text",
    "UniversalBackdoor": "universal",
    "WaNet": "warp",
    "WitchesBrew": "gradient_matching",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"skvibe.attacks.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'skvibe.attacks' has no attribute {name!r}")


def __dir__():
    return __all__
