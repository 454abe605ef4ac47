"""Pictures of what was found, in scikit-learn's display convention.

Every display has ``from_estimator`` and ``from_predictions``, draws itself with
``plot(ax=None)`` and then has the attributes ``ax_`` and ``figure_``. Colours are
those of Okabe and Ito, which people with any common form of colour blindness can tell
apart, and no display relies on colour alone. matplotlib is loaded when something is
drawn, not before: ``pip install skvibe[plot]``.
"""

from importlib import import_module

_PUBLIC = {
    "AccuracyAttackDisplay": "accuracy_attack",
    "CommunityDisplay": "communities",
    "EMProgressDisplay": "em_progress",
    "LatentSpaceDisplay": "latent_space",
    "PoisonScoreDisplay": "poison_scores",
    "PoisoningRuleDisplay": "poisoning_rule",
}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"skvibe.displays.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'skvibe.displays' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
