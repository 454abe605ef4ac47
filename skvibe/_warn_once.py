"""Warnings that a search over folds and settings does not repeat.

Python shows a warning once for each place in the code, but forgets that it did so
whenever anyone touches the filters, as scikit-learn and NumPy do in every fit.
"""

import inspect
import warnings
from pathlib import Path

import sklearn

_SAID: set[str] = set()


# Frames of these are passed over: the warning names the person's own line.
_INSIDE = tuple(str(Path(file).parent) for file in (__file__, sklearn.__file__))


def warn_once(text):
    """Give a UserWarning, unless the same text was given and the filters say once.

    Where a person has asked for "always" or "error" every warning is given.

    Parameters
    ----------
    text : str
        Should hold no counts, which differ from fold to fold.
    """
    if _action(text) in ("default", "module", "once"):
        if text in _SAID:
            return
        _SAID.add(text)
    warnings.warn(text, UserWarning, stacklevel=_level_outside() + 1)


def _level_outside():
    """Stack level, seen from the caller, of the first frame outside both packages."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    return max(level - 1, 1)


def _action(text):
    """What the filters in force say about the text, whatever module it is in."""
    for action, message, category, module, line in warnings.filters:
        if (
            issubclass(UserWarning, category)
            and (message is None or message.match(text))
            and module is None
            and line == 0
        ):
            return action
    return "default"
