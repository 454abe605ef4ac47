"""Parameter checks with messages that name the parameter and the remedy.

Called in ``fit``, never in ``__init__`` (scikit-learn's rule).
"""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_integer(
    name: str, value: Any, low: int | None = None, high: int | None = None
) -> int:
    """Return ``value`` as int, or say what an acceptable value is."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(
            f"{name} must be an integer{_bounds(low, high)}, got {value!r} "
            f"({type(value).__name__})."
        )
    _check_bounds(name, value, low, high, "[]")
    return int(value)


def check_real(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    closed: str = "[]",
) -> float:
    """Return ``value`` as float; ``closed`` says which bounds are allowed values."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number{_bounds(low, high, closed)}, got {value!r} "
            f"({type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{name} must be finite{_bounds(low, high, closed)}, got {value!r}."
        )
    _check_bounds(name, value, low, high, closed)
    return float(value)


def check_option(name: str, value: Any, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of the strings in ``options``."""
    if not isinstance(value, str) or value not in options:
        choice = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {choice}; got {value!r}.")
    return value


def _check_bounds(
    name: str, value: Any, low: float | None, high: float | None, closed: str
) -> None:
    too_low = low is not None and (value < low if closed[0] == "[" else value <= low)
    too_high = high is not None and (
        value > high if closed[1] == "]" else value >= high
    )
    if too_low or too_high:
        raise ValueError(
            f"{name} must be a number{_bounds(low, high, closed)}, got {value!r}."
        )


def _bounds(low: float | None, high: float | None, closed: str = "[]") -> str:
    if low is None and high is None:
        return ""
    left = "(-inf" if low is None else f"{closed[0]}{low}"
    right = "inf)" if high is None else f"{high}{closed[1]}"
    return f" in {left}, {right}"
