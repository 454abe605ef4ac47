"""Values as they can leave Python: for JSON, for a spreadsheet, as counts."""

import re
from collections import Counter

import numpy as np

# At the start, and after what some spreadsheet takes for the end of a cell: a semicolon
# where the comma is the decimal point, and line ends within quotes it does not see.
_FORMULA = re.compile(
    r"^(?=\s*[=+\-@＝＋－＠]|[\t\r\n])|(?<=[;,\t\r\n])(?=\s*[=+\-@＝＋－＠])"
)
_NUMBER = re.compile(r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$")


def csv_cell(value):
    """A value as a spreadsheet may hold it without running it as a formula.

    Parameters
    ----------
    value : object
        Cell value. Numbers, also as text, stay as they are.

    Returns
    -------
    object
        The value, or its text with an apostrophe before everything that starts a
        formula.

    Examples
    --------
    >>> from skvibe.report.plain_values import csv_cell
    >>> csv_cell("=1+1"), csv_cell("-1"), csv_cell("fine"), csv_cell("a;=1+1")
    ("'=1+1", '-1', 'fine', "a;'=1+1")
    """
    if isinstance(value, str) and not _NUMBER.match(value):
        return _FORMULA.sub("'", value)
    return value


def count_values(values):
    """How often each value occurs, the most frequent first.

    Parameters
    ----------
    values : array-like of shape (n_values,)

    Returns
    -------
    dict

    Examples
    --------
    >>> from skvibe.report.plain_values import count_values
    >>> count_values(["b", "a", "b"])
    {'b': 2, 'a': 1}
    """
    return dict(Counter(np.asarray(values).tolist()).most_common())


def plain_value(value):
    """A NumPy scalar as Python's own type; anything else as it is.

    Parameters
    ----------
    value : object

    Returns
    -------
    object

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.report.plain_values import plain_value
    >>> plain_value(np.int64(3))
    3
    """
    return value.item() if hasattr(value, "item") else value
