import sys
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).resolve().parents[2] / "benchmarks"
# The scripts import each other by name, as they do when run from the shell.
if str(DIRECTORY) not in sys.path:
    sys.path.append(str(DIRECTORY))


@pytest.fixture(scope="session")
def poisoned():
    """Three classes; 6 % of the rows moved by one vector and labelled 0."""
    import numpy as np

    rng = np.random.default_rng(0)
    n_rows, n_features = 600, 20
    y_true = np.arange(n_rows) % 3
    X = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    X[np.arange(n_rows), y_true] += 4
    mask = np.zeros(n_rows, dtype=bool)
    mask[rng.permutation(np.flatnonzero(y_true != 0))[:36]] = True
    X[mask, -1] += 8
    return X, np.where(mask, 0, y_true), y_true, mask
