import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power

from skvibe.posteriors import unit_rows
from skvibe.whitening import (
    _positive,
    along_directions,
    principal_directions,
    shrunk_whitening,
)


def make_rows(n_rows=200, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features)) * np.geomspace(1, 0.05, n_features) + 1
    return unit_rows(torch.from_numpy(rows))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 30), st.floats(1e-2, 1e2), st.integers(0, 99))
def test_it_is_the_stated_map(n_rows, n_features, shrinkage, seed):
    rows = make_rows(n_rows, n_features, seed)
    v = rows.numpy()
    covariance = np.cov(v, rowvar=False, bias=True)
    share = shrinkage * np.trace(covariance) / n_features
    root = fractional_matrix_power(covariance + share * np.eye(n_features), -0.5)
    expected = (v - v.mean(axis=0)) @ root
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    new = make_rows(5, n_features, seed + 1).numpy()
    whiten = shrunk_whitening(rows, shrinkage)
    np.testing.assert_allclose(whiten(rows).numpy(), expected, atol=1e-7)
    # Rows that it was not fitted to may leave the span of those it was fitted to.
    outside = (new - v.mean(axis=0)) @ root
    outside /= np.linalg.norm(outside, axis=1, keepdims=True)
    np.testing.assert_allclose(
        whiten(torch.from_numpy(new)).numpy(), outside, atol=1e-6
    )


@pytest.mark.parametrize("common", [0.0, 1.0, 300.0])
@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
def test_single_precision_is_within_its_rounding(common, shrinkage):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 48)) * np.geomspace(1, 0.05, 48) + common
    rows = unit_rows(torch.from_numpy(rows)).float()
    whiten = shrunk_whitening(rows, shrinkage)
    exact = whiten(rows.double())
    assert whiten(rows).dtype is torch.float32
    # A direction is scaled by taking most of it away.
    bound = 4 * torch.finfo(torch.float32).eps / float(whiten.scales.min())
    torch.testing.assert_close(whiten(rows).double(), exact, rtol=0, atol=bound)


def test_directions_of_rows_get_the_same_spread():
    rows = make_rows(5000)
    whiten = shrunk_whitening(rows, 1e-9)
    centred = rows.double() - whiten.mean
    scaled = centred @ whiten.directions.T * whiten.scales
    torch.testing.assert_close(
        scaled.std(dim=0) / scaled.std(dim=0)[0],
        torch.ones(6).double(),
        rtol=0.02,
        atol=0,
    )


def test_a_large_shrinkage_only_centres():
    rows = make_rows()
    centred = unit_rows(rows - rows.mean(dim=0))
    torch.testing.assert_close(shrunk_whitening(rows, 1e9)(rows), centred)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_place_and_input_are_kept(dtype):
    rows = make_rows().to(dtype)
    before = rows.clone()
    whiten = shrunk_whitening(rows, 0.1)
    apart = whiten(rows)
    assert apart.dtype == dtype
    assert torch.equal(rows, before)
    assert whiten(rows, out=rows) is rows
    assert torch.equal(rows, apart)


def test_rows_that_are_all_equal():
    rows = torch.ones(4, 3) / 3**0.5
    assert torch.equal(shrunk_whitening(rows, 0.1)(rows), torch.zeros(4, 3))


def test_poison_can_not_steer_it_by_its_labels_and_weakens_its_own_direction():
    rows = make_rows(1000)
    trigger = torch.zeros(6, dtype=torch.float64)
    trigger[5] = 1.0
    poisoned = rows.clone()
    poisoned[:100] = unit_rows(rows[:100] + trigger)

    def gain(whiten):
        """How long the trigger's direction becomes, beside the longest."""
        along = whiten.directions @ trigger
        kept = (
            trigger
            - along @ whiten.directions
            + (along * whiten.scales) @ (whiten.directions)
        )
        return kept.norm()

    assert gain(shrunk_whitening(poisoned, 0.1)) < gain(shrunk_whitening(rows, 0.1))


def test_rounding_errors_are_no_directions():
    values = torch.tensor([-1e-20, 0.0, 3.9e-12, 4.1e-12, 1.0, 4.0]).double()
    kept, vectors = _positive(values, torch.arange(12.0).reshape(2, 6))
    assert torch.equal(kept, values[3:])  # above 1e-12 of the largest
    assert torch.equal(vectors, torch.tensor([[3.0, 4, 5], [9, 10, 11]]))
    for nothing in (torch.zeros(3).double(), -torch.ones(3).double()):
        assert not len(_positive(nothing, torch.eye(3))[0])


@pytest.mark.parametrize("n_directions", [0, 1, 4, 5, 8])
@pytest.mark.parametrize("n_rows", [None, 1, 30])
def test_parts_along_directions(n_directions, n_rows):
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(8, 8)))[0][:n_directions]
    factors = rng.normal(size=n_directions)
    rows = rng.normal(size=8 if n_rows is None else (n_rows, 8))
    expected = np.zeros_like(rows)
    for direction, factor in zip(directions, factors, strict=True):
        expected += factor * np.multiply.outer(rows @ direction, direction)
    found = along_directions(directions, factors)(rows)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize(("n_rows", "n_features"), [(5, 9), (9, 9), (300, 9)])
def test_directions_are_those_of_the_covariance(n_rows, n_features, monkeypatch):
    monkeypatch.setattr("skvibe.whitening._BLOCK", 7)
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(rng.normal(size=(n_rows, n_features)))
    mean = torch.from_numpy(rng.normal(size=n_features))
    before = rows.clone()
    values, directions = principal_directions(rows, mean)
    assert torch.equal(rows, before)
    centred = rows - mean
    covariance = centred.T @ centred / n_rows
    rank = min(n_rows, n_features)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(covariance)[-rank:])
    assert len(directions) == rank
    torch.testing.assert_close(directions @ directions.T, torch.eye(rank).double())
    torch.testing.assert_close(covariance @ directions.T, directions.T * values)


def test_rows_are_mapped_in_blocks(monkeypatch):
    rows = make_rows(50)
    whiten = shrunk_whitening(rows, 0.1)
    whole = whiten(rows)
    monkeypatch.setattr("skvibe.whitening._MAPPED", 7)
    torch.testing.assert_close(whiten(rows), whole, rtol=1e-12, atol=1e-12)
