import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf

from skvibe.trigger_mixture import (
    ClassMixture,
    normalise,
    pooled_whitening,
    shrunk_covariance,
)


def make_class(n=300, moved=60, d=20, length=6.0, seed=0):
    """Rows of class 0 among which some come from classes 1 to 3, moved together."""
    rng = np.random.default_rng(seed)
    means = 5 * np.eye(d)[:4]
    source = np.zeros(n, dtype=int)
    source[:moved] = 1 + np.arange(moved) % 3
    rows = means[source] + rng.normal(size=(n, d))
    rows[:moved] += length * np.eye(d)[-1]
    return rows, means, np.arange(n) < moved, np.arange(n) % 5


@pytest.mark.parametrize(("n", "d"), [(500, 8), (40, 100), (60, 1)])
def test_shrinkage_is_that_of_ledoit_and_wolf(n, d):
    X = np.random.default_rng(0).normal(size=(n, d)) * (1 + np.arange(d))
    expected, _ = ledoit_wolf(X, assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(X), expected, rtol=1e-10)


def test_whitening_gives_unit_covariance_and_undoes_itself():
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=(20_000, 6)) @ rng.normal(size=(6, 6))
    whiten, unwhiten = pooled_whitening(residuals)
    np.testing.assert_allclose(np.cov((residuals @ whiten).T), np.eye(6), atol=0.03)
    np.testing.assert_allclose(whiten @ unwhiten, np.eye(6), atol=1e-9)


def test_whitening_survives_constant_and_repeated_features():
    rng = np.random.default_rng(0)
    residuals = np.repeat(rng.normal(size=(100, 3)), 2, axis=1)
    residuals[:, 0] = 0.0
    whiten, unwhiten = pooled_whitening(residuals)
    assert np.isfinite(whiten).all()
    assert np.isfinite(unwhiten).all()
    assert np.isfinite(pooled_whitening(np.zeros((10, 3)))[0]).all()


@given(st.integers(1, 6), st.integers(1, 30), st.floats(0, 300))
def test_normalise_agrees_with_its_definition(m, n, scale):
    joint = np.random.default_rng(m * n).normal(size=(m, n)) * scale
    log_density, posterior = normalise(joint)
    np.testing.assert_allclose(posterior, softmax(joint, axis=0), atol=1e-12)
    np.testing.assert_allclose(log_density, logsumexp(joint, axis=0))


def test_moved_rows_and_their_shift_are_recovered():
    rows, means, moved, folds = make_class()
    mixture = ClassMixture(rows, means[1:], np.ones(3), folds)
    start = np.where(moved, 0.7, 0.3)
    fit = mixture.fit((1 - start)[None], start)
    np.testing.assert_array_equal(fit.group > 0.5, moved)
    np.testing.assert_allclose(fit.shift, 6 * np.eye(20)[-1], atol=0.7)
    np.testing.assert_allclose(fit.centers[0], means[0], atol=0.4)
    np.testing.assert_array_equal(
        fit.moved[:, moved].argmax(axis=0), np.arange(moved.sum()) % 3
    )


def test_posteriors_of_a_row_add_up_to_one_in_the_order_given():
    rows, means, moved, folds = make_class()
    shuffled = np.random.default_rng(1).permutation(len(rows))
    start = np.where(moved, 0.7, 0.3)
    fits = []
    for order in (np.arange(len(rows)), shuffled):
        mixture = ClassMixture(rows[order], means[1:], np.ones(3), folds[order])
        fits.append(mixture.fit((1 - start[order])[None], start[order]))
        total = fits[-1].natural.sum(0) + fits[-1].group + fits[-1].noise.sum(0)
        np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(fits[0].group[shuffled], fits[1].group, atol=1e-9)


def test_cross_fitting_keeps_pure_noise_from_confirming_itself():
    # 30 rows in 400 dimensions: fitted in-sample, any start would stay as it is.
    rng = np.random.default_rng(0)
    rows, sources = rng.normal(size=(30, 400)), 9 * np.eye(400)[:2]
    group = (np.arange(30) < 10) * 0.98 + 0.01
    fit = ClassMixture(rows, sources, np.ones(2), np.arange(30) % 5).fit(
        np.stack([1 - group, group])
    )
    mean = np.linalg.norm(fit.centers[1] - fit.centers[0])
    assert mean < 3


def test_label_noise_is_not_called_moved():
    rows, means, moved, folds = make_class(length=0.0)
    mixture = ClassMixture(rows, means[1:], np.ones(3), folds)
    start = np.where(moved, 0.7, 0.3)
    fit = mixture.fit((1 - start)[None], start)
    assert np.linalg.norm(fit.shift) < 0.5
    np.testing.assert_allclose(mixture.reach_contrast(fit, 3.0), 0, atol=1e-9)
    assert fit.natural[0][moved].max() < 0.1
