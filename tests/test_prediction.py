"""Blocks of rows through a fitted classifier's encoder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skvibe import VIBEClassifier
from skvibe._prediction import encode_inputs

CPU = torch.device("cpu")
X = np.random.default_rng(0).normal(size=(10, 6))


class Fussy(torch.nn.Module):
    """Refuses rows that start with a large number; one part is in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)
        self.norm = torch.nn.BatchNorm1d(4).eval()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, rows):
        if (rows[:, 0] > 100).any():
            raise RuntimeError("too large")
        return self.dropout(self.norm(self.linear(rows)))


def modes(module):
    return [part.training for part in module.modules()]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_features_are_unit_rows_of_the_encoder_in_evaluation_mode(batch_size):
    encoder = Fussy()
    vibe = SimpleNamespace(_encoder=encoder, batch_size=batch_size)
    before = modes(encoder)
    features = encode_inputs(vibe, X, CPU)
    assert modes(encoder) == before
    encoder.eval()
    expected = encoder(torch.from_numpy(X).float()).detach()
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features, expected)
    assert not features.requires_grad


@pytest.mark.parametrize("bad", ["raises", "NaN"])
def test_an_error_leaves_the_encoder_in_its_mode(bad):
    encoder = Fussy()
    before = modes(encoder)
    assert set(before) == {True, False}
    vibe = SimpleNamespace(_encoder=encoder, batch_size=4)
    rows = X.copy()
    rows[7, 0] = 1e6 if bad == "raises" else np.nan
    with pytest.raises((RuntimeError, ValueError), match=r"too large|NaN"):
        encode_inputs(vibe, rows, CPU)
    assert modes(encoder) == before


def test_a_prediction_that_fails_does_not_change_the_next_fit_s_encoder():
    y = np.arange(40) % 2
    rows = np.random.default_rng(1).normal(size=(40, 6)) + 3 * y[:, None]
    vibe = VIBEClassifier(encoder=Fussy(), max_iter=20, random_state=0).fit(rows, y)
    before = modes(vibe._encoder)
    expected = vibe.predict_proba(rows)
    with pytest.raises(RuntimeError, match="too large"):
        vibe.predict(1e6 * np.abs(rows))
    assert modes(vibe._encoder) == before
    np.testing.assert_array_equal(vibe.predict_proba(rows), expected)
