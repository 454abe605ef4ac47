import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skvibe.planted import _within_class_space, shared_displacement


def make_rows(seed=0, n_rows=600, n_features=15, n_classes=3, doubted=0.1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_rows)
    centres = 4 * rng.normal(size=(n_classes, n_features))
    X = centres[labels] + rng.normal(size=(n_rows, n_features))
    return X, labels, rng.random(n_rows) >= doubted


def look(X, labels, trusted, n_classes=3):
    return shared_displacement(
        X.__getitem__, labels, trusted, np.flatnonzero(trusted), n_classes
    )


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_rows_doubted_at_random_share_nothing(seed):
    found = look(*make_rows(seed))
    assert not found.suspicious.any()
    assert (np.abs(found.agreement) < 2).all()


def test_the_length_of_a_displacement_is_in_standard_deviations():
    X, labels, trusted = make_rows(n_rows=6000)
    direction = np.random.default_rng(1).normal(size=15)
    moved = ~trusted & (labels == 1)
    # Scatter along it is not 1 either.
    X @= np.diag(np.linspace(0.5, 2, 15))
    X[moved] += 12 * direction / np.linalg.norm(direction)
    found = look(X, labels, trusted)
    np.testing.assert_array_equal(found.suspicious, [False, True, False])
    assert found.projections[moved].mean() == pytest.approx(
        found.agreement[1], rel=0.15
    )
    own = found.projections[trusted & (labels == 1)]
    assert np.median(own) == pytest.approx(0, abs=1e-9)
    assert own.std() == pytest.approx(1, rel=0.1)
    assert (found.projections[labels != 1] == 0).all()


def test_it_is_what_is_stated():
    """The definitions written out, with dense matrices and a loop over rows."""
    rng = np.random.default_rng(3)
    labels, trusted = rng.integers(3, size=300), rng.random(300) >= 0.15
    # Skewed, so that the median is not the mean.
    X = rng.normal(size=(3, 8))[labels] + rng.exponential(size=(300, 8)) ** 1.5
    X[~trusted & (labels == 1), 4] += 9
    X[~trusted & (labels == 2), 2] += 2
    found = look(X, labels, trusted)

    means = np.array([X[trusted & (labels == code)].mean(axis=0) for code in range(3)])
    residuals = (X - means[labels])[trusted]
    covariance = residuals.T @ residuals / len(residuals)
    added = 0.1 * np.trace(covariance) / 8
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag((values + added) ** -0.5) @ vectors.T
    between = np.linalg.qr(((means[:2] - means[2]) @ root).T)[0]
    root = (np.eye(8) - between @ between.T) @ root
    size = np.trace(root @ covariance @ root.T)
    noise = np.sqrt(2 * np.sum((values / (values + added)) ** 2))
    for code in range(3):
        own = (X - means[code]) @ root.T
        doubted, kept = (own[(labels == code) & part] for part in (~trusted, trusted))
        n = len(doubted)
        inner = doubted @ doubted.T
        shared = (inner.sum() - np.trace(inner)) / (n * (n - 1))
        spread = max(np.trace(inner) / n - shared, size)
        squared = shared - spread / len(kept)
        expected = np.sign(squared) * np.sqrt(abs(squared))
        assert found.agreement[code] == pytest.approx(expected)
        limit = 4 + 3 * noise * spread / size / n
        assert found.suspicious[code] == (squared > limit)
        if not found.suspicious[code]:
            continue
        along = kept @ doubted.sum(axis=0) / np.linalg.norm(doubted.sum(axis=0))
        scale = 1.4826 * np.median(np.abs(along - np.median(along)))
        projections = found.projections[(labels == code) & trusted]
        np.testing.assert_allclose(projections, (along - np.median(along)) / scale)
        for i, row in enumerate(np.flatnonzero((labels == code) & ~trusted)):
            others = np.delete(doubted, i, axis=0).sum(axis=0)
            expected = doubted[i] @ others / np.linalg.norm(others) - np.median(along)
            assert found.projections[row] == pytest.approx(expected / scale)
    assert found.suspicious.any()
    assert not found.suspicious.all()


def test_rows_between_classes_are_not_displaced():
    X, labels, trusted = make_rows()
    centres = np.array([X[labels == code].mean(axis=0) for code in range(3)])
    doubted = ~trusted
    X[doubted] += 0.5 * (centres[(labels[doubted] + 1) % 3] - centres[labels[doubted]])
    assert not look(X, labels, trusted).suspicious.any()


@pytest.mark.parametrize("n_features", [15, 400])
def test_more_features_than_rows(n_features):
    alarms = 0
    for seed in range(20):
        X, labels, trusted = make_rows(seed, n_rows=300, n_features=n_features)
        X[~trusted & (labels == 2), 0] += 30
        suspicious = look(X, labels, trusted).suspicious
        assert suspicious[2]
        alarms += suspicious[:2].sum()
    # Measured: 3 of 120 with 400 features.
    assert alarms <= 3


def test_a_feature_that_only_the_trigger_uses():
    X, labels, trusted = make_rows()
    X[:, 0] = 0
    moved = ~trusted & (labels == 0)
    X[moved, 0] = 1
    found = look(X, labels, trusted)
    assert found.suspicious[0]
    assert (found.projections[moved] > 4).all()
    assert np.isfinite(found.projections).all()


@pytest.mark.parametrize(
    "trusted",
    [np.zeros(600, dtype=bool), np.ones(600, dtype=bool), np.arange(600) != 5],
)
def test_nothing_to_compare(trusted):
    X, labels, _ = make_rows()
    found = look(X, labels, trusted)
    assert not found.suspicious.any()
    assert (found.projections == 0).all()


def test_rows_that_do_not_scatter():
    labels = np.repeat([0, 1], 50)
    X = np.repeat(np.eye(2), 50, axis=0)
    found = look(X, labels, np.arange(100) % 10 != 0, 2)
    assert not found.suspicious.any()
    assert np.isfinite(found.agreement).all()


def test_more_classes_than_features_leave_no_room():
    X, labels, trusted = make_rows(n_features=2, n_classes=8)
    found = look(X, labels, trusted, 8)
    assert not found.suspicious.any()


def test_it_does_not_depend_on_the_blocks(monkeypatch):
    X, labels, trusted = make_rows()
    X[~trusted & (labels == 1), 3] += 6
    whole = look(X, labels, trusted)
    monkeypatch.setattr("skvibe.planted._BLOCK", 7)
    parts = look(X, labels, trusted)
    np.testing.assert_allclose(parts.projections, whole.projections, atol=1e-9)
    np.testing.assert_allclose(parts.agreement, whole.agreement)


def test_space_is_what_is_stated():
    """One class has a single trusted row, and one has none."""
    rng = np.random.default_rng(4)
    labels = np.r_[np.repeat([0, 1, 2], 40), 3]
    rows = (
        rng.normal(size=(121, 7)) * np.linspace(0.5, 2, 7)
        + rng.normal(size=(5, 7))[labels]
    )
    counts = np.bincount(labels, minlength=5)
    means = np.array([rows[labels == code].mean(axis=0) for code in range(4)])
    means = np.vstack([means, 50 * np.ones(7)])  # of no meaning
    space = _within_class_space(rows, means, labels, counts)

    residuals = rows - means[labels]
    covariance = residuals.T @ residuals / 121
    added = 0.1 * np.trace(covariance) / 7
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag((values + added) ** -0.5) @ vectors.T
    np.testing.assert_allclose(space.whiten(np.eye(7)), root, atol=1e-12)
    # Four known means span three directions.
    between = np.linalg.qr(((means[:3] - means[3]) @ root).T)[0]
    assert space.between.shape == (3, 7)
    np.testing.assert_allclose(
        space.between.T @ space.between, between @ between.T, atol=1e-12
    )
    inside = (np.eye(7) - between @ between.T) @ root
    assert space.size == pytest.approx(np.trace(inside @ covariance @ inside.T))
    kept = values / (values + added)
    assert space.noise == pytest.approx(np.sqrt(2 * np.sum(kept**2)))


def test_classes_with_equal_means_leave_no_direction_out():
    rng = np.random.default_rng(5)
    rows, labels = rng.normal(size=(60, 4)), np.repeat([0, 1], 30)
    means = np.tile(rows.mean(axis=0), (2, 1))
    space = _within_class_space(rows, means, labels, np.array([30, 30]))
    assert space.between.shape == (0, 4)


@pytest.mark.parametrize(("n_trusted", "n_doubted"), [(1, 9), (2, 1), (2, 2)])
def test_two_rows_of_each_kind_are_needed(n_trusted, n_doubted):
    X, labels, _ = make_rows(n_rows=300)
    trusted = np.ones(300, dtype=bool)
    own = np.flatnonzero(labels == 1)
    trusted[own] = False
    trusted[own[:n_trusted]] = True
    doubted = own[n_trusted : n_trusted + n_doubted]
    X[doubted, 2] += 40
    rows = np.setdiff1d(np.arange(300), own[n_trusted + n_doubted :])
    found = look(X[rows], labels[rows], trusted[rows])
    enough = n_trusted > 1 and n_doubted > 1
    assert (found.agreement[1] != 0) == enough
    assert found.suspicious[1] == enough


@pytest.mark.parametrize("n_features", [9, 10])
def test_nothing_is_told_where_class_means_span_the_features(n_features):
    X, labels, trusted = make_rows(n_rows=2000, n_features=n_features, n_classes=11)
    found = look(X, labels, trusted, 11)
    assert not found.suspicious.any()
    assert np.isfinite(found.agreement).all()
    assert (found.projections == 0).all()


@pytest.mark.parametrize(("length", "suspicious"), [(1.8, False), (2.3, True)])
def test_two_standard_deviations_are_suspicious(length, suspicious):
    # Means of classes differ along other features than the displacement.
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=20_000)
    X = rng.normal(size=(20_000, 8))
    X[:, 0] += 9 * labels
    doubted = rng.random(20_000) < 0.2
    X[doubted & (labels == 1), 5] += length * np.sqrt(1.1)  # shrinkage: a tenth
    found = look(X, labels, ~doubted, 2)
    assert found.agreement[1] == pytest.approx(length, rel=0.05)
    np.testing.assert_array_equal(found.suspicious, [False, suspicious])
