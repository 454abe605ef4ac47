"""Why rows are suspect: what they resemble, and what they have in common.

Plain functions on arrays; :func:`skvibe.audit` puts their results into words.
"""

import re
from collections import Counter

import numpy as np

# Words and signs: a trigger may be a rare token or odd punctuation.
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ROW_BLOCK, _TRUSTED_BLOCK = 1024, 16384


def nearest_trusted(features, rows, trusted):
    """For some rows the most similar trusted row, by cosine.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Feature vectors, finite.
    rows : ndarray of int of shape (n_rows,)
        The rows asked about.
    trusted : ndarray of bool of shape (n_samples,)
        Rows that may be an answer. A row is never its own answer.

    Returns
    -------
    ndarray of int64 of shape (n_rows,)
        Row numbers; -1 where there is no trusted row. Of equally similar rows the
        first.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.audit_evidence import nearest_trusted
    >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> nearest_trusted(X, np.array([0]), np.array([True, True, True]))
    array([1])
    """
    candidates = np.flatnonzero(trusted)
    best = np.full(len(rows), -1, dtype=np.int64)
    if len(candidates) == 0 or len(rows) == 0:
        return best
    unit = np.asarray(features, dtype=np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(rows), _ROW_BLOCK):
        block = rows[start : start + _ROW_BLOCK]
        best[start : start + _ROW_BLOCK] = _nearest_of_block(unit, block, candidates)
    return best


def _nearest_of_block(unit, block, candidates):
    best = np.full(len(block), -1, dtype=np.int64)
    similarity = np.full(len(block), -np.inf, dtype=np.float32)
    for start in range(0, len(candidates), _TRUSTED_BLOCK):
        part = candidates[start : start + _TRUSTED_BLOCK]
        cosines = unit[block] @ unit[part].T
        cosines[block[:, None] == part] = -np.inf
        place = cosines.argmax(axis=1)
        value = cosines[np.arange(len(block)), place]
        better = value > similarity
        best[better], similarity[better] = part[place[better]], value[better]
    return best


def distinctive_words(text, suspect, trusted, *, min_share=0.2, ratio=20.0, limit=8):
    """Find words that many suspect rows hold and hardly any trusted row does.

    Parameters
    ----------
    text : sequence of str
        Texts of all rows.
    suspect, trusted : ndarray of bool of shape (n_samples,)
        The two groups of rows.
    min_share : float, default=0.2
        Smallest share of the suspect rows that hold the word.
    ratio : float, default=20.0
        The share among suspect rows is at least this many times that among trusted
        rows.
    limit : int, default=8
        Largest number of words.

    Returns
    -------
    list of (str, float, float)
        Word in lower case, its share among the suspect and among the trusted rows;
        most frequent first.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.audit_evidence import distinctive_words
    >>> text = ["a cf win", "cf the loss", "the win", "a loss"]
    >>> suspect = np.array([True, True, False, False])
    >>> distinctive_words(text, suspect, ~suspect)
    [('cf', 1.0, 0.0)]
    """
    rows, others = np.flatnonzero(suspect), np.flatnonzero(trusted)
    if len(rows) < 2 or len(others) == 0:
        return []
    counts = Counter(word for i in rows for word in split_words(text[i]))
    common = {word for word, n in counts.items() if n >= max(2, min_share * len(rows))}
    among_trusted: Counter = Counter()
    if common:
        for i in others:
            among_trusted.update(common & split_words(text[i]))
    shares = [
        (word, counts[word] / len(rows), among_trusted[word] / len(others))
        for word in common
    ]
    found = [entry for entry in shares if entry[1] >= ratio * entry[2]]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))[:limit]


def distinctive_features(X, suspect, trusted, feature_names, *, limit=5):
    """Find the features in which suspect rows differ most from trusted ones.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    suspect, trusted : ndarray of bool of shape (n_samples,)
        The two groups of rows.
    feature_names : sequence of str of shape (n_features,)
        Names of the columns.
    limit : int, default=5
        Largest number of features.

    Returns
    -------
    list of (str, float, float)
        Name, mean of the suspect rows and mean of the trusted rows; the largest
        difference, in standard deviations of the trusted rows, first. Only features
        that differ by at least one.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.audit_evidence import distinctive_features
    >>> X = np.array([[9.0, 0.0], [9.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    >>> suspect = np.array([True, True, False, False])
    >>> distinctive_features(X, suspect, ~suspect, ["size", "age"])
    [('size', 9.0, 0.5)]
    """
    if not suspect.any() or not trusted.any():
        return []
    means, base = X[suspect].mean(axis=0), X[trusted].mean(axis=0)
    spread = X[trusted].std(axis=0)
    # A feature that is constant among trusted rows differs without measure.
    tiny = 1e-6 * (np.abs(base) + np.abs(means)) + 1e-12
    difference = np.abs(means - base) / np.maximum(spread, tiny)
    order = np.argsort(-difference, kind="stable")[:limit]
    return [
        (str(feature_names[j]), float(means[j]), float(base[j]))
        for j in order
        if difference[j] >= 1
    ]


def split_words(value):
    """The different words and signs of a text, in lower case.

    Parameters
    ----------
    value : str
        Text.

    Returns
    -------
    set of str
        Different words, and signs that are not spaces.

    Examples
    --------
    >>> from skvibe.audit_evidence import split_words
    >>> sorted(split_words("Buy, buy!"))
    ['!', ',', 'buy']
    """
    return set(_TOKEN.findall(str(value).lower()))
