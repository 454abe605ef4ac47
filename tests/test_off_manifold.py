import itertools
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsTransformer

from skvibe.off_manifold import DECISIONS, canonical_order, detect_off_manifold


def make_mixture(n_classes, rate, *, ratio=2.0, n=1200, d=12, seed=0, balance=None):
    """Clusters with standard deviation 1 about 10 apart, and a group ``ratio`` away.

    The displaced group (labelled 0, like an all-to-one attack) lies ``ratio`` times
    as far from the centres as they lie from one another.
    """
    rng = np.random.default_rng(seed)
    d = max(d, n_classes + 1)
    axes = special_ortho_group.rvs(d, random_state=rng)
    y = rng.choice(n_classes, size=n, p=balance)
    X = 10 / np.sqrt(2) * axes[y] + rng.standard_normal((n, d))
    apart = rng.permutation(n)[: round(rate * n)]
    displaced = 10 / np.sqrt(2) * np.sqrt(2 * ratio**2 - 1) * axes[n_classes]
    X[apart] = displaced + rng.standard_normal((len(apart), d))
    y[apart] = 0
    return X, y, np.isin(np.arange(n), apart)


def detect(X, n_classes, **params):
    return detect_off_manifold(X, n_classes, **({"random_state": 0} | params))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("n_classes", [2, 3, 10, 30])
def test_removes_exactly_the_displaced_group(n_classes, rate, labels):
    X, y, apart = make_mixture(n_classes, rate, n=4000)
    result = detect(X, n_classes, y=y if labels else None)
    assert result.decision == "removed"
    np.testing.assert_array_equal(result.removed, apart)


def test_a_group_much_smaller_than_a_neighborhood_is_removed_whole_or_not_at_all():
    """30 rows of 50 neighbours each must send edges out: most draws, not all."""
    removed = []
    for seed in range(8):
        X, _, apart = make_mixture(2, 0.01, n=3000, seed=seed)
        found = detect(X, 2, n_neighbors=50).removed
        if found.any():
            np.testing.assert_array_equal(found, apart)
        removed.append(found.any())
    assert sum(removed) >= 6


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_classes=st.sampled_from([3, 5, 10]),
    rate=st.floats(0.02, 0.1),
    ratio=st.floats(1.7, 4.0),
    seed=st.integers(0, 99),
)
def test_removes_exactly_the_displaced_group_anywhere(n_classes, rate, ratio, seed):
    X, y, apart = make_mixture(n_classes, rate, ratio=ratio, seed=seed, n=1500)
    np.testing.assert_array_equal(detect(X, n_classes, y=y).removed, apart)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_classes=st.sampled_from([2, 3, 4, 10]),
    seed=st.integers(0, 99),
    labels=st.booleans(),
    shape=st.sampled_from(["even", "uneven", "scattered"]),
)
def test_removes_nothing_where_nothing_is_displaced(n_classes, seed, labels, shape):
    balance = None
    if shape == "uneven":
        balance = np.linspace(1, 5, n_classes) / np.linspace(1, 5, n_classes).sum()
    X, y, _ = make_mixture(n_classes, 0.0, seed=seed, balance=balance)
    if shape == "scattered":  # a natural class far from the others
        centres = np.random.default_rng(seed).uniform(-40, 40, (n_classes, X.shape[1]))
        X += centres[y]
    with warnings.catch_warnings():
        # A cut of a cluster need not give exactly K + 1; too_large is a way to refuse.
        warnings.simplefilter("ignore", UserWarning)
        result = detect(X, n_classes, y=y if labels else None)
    assert not result.removed.any(), result.decision


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_of_several_clusters(n_classes):
    X, y, apart = make_mixture(8, 0.05)
    y %= n_classes
    np.testing.assert_array_equal(detect(X, n_classes, y=y).removed, apart)
    assert not detect(X[~apart], n_classes, y=y[~apart]).removed.any()


@pytest.mark.parametrize("n_classes", [3, 10])
def test_not_the_central_community(n_classes):
    rng = np.random.default_rng(0)
    X, _, _ = make_mixture(n_classes, 0.0)
    corners = special_ortho_group.rvs(X.shape[1], random_state=rng)[:n_classes]
    y = rng.integers(n_classes, size=1200)
    X = 30 * corners[y] + rng.standard_normal(X.shape)
    X[:80] = 30 * corners.mean(axis=0) + rng.standard_normal((80, X.shape[1]))
    y[:80] = 0
    assert not detect(X, n_classes, y=y).removed.any()
    paper = detect(X, n_classes, y=y, distance="paper")
    assert paper.removed[:80].all()  # the authors' statistic does remove it
    assert paper.removed.sum() == 80


def test_rotation_scaling_translation_and_permutation_change_only_the_order():
    X, y, _ = make_mixture(10, 0.05, n=1500)
    rng = np.random.default_rng(1)
    expected = detect(X, 10, y=y)
    shuffle = rng.permutation(len(X))
    rotation = special_ortho_group.rvs(X.shape[1], random_state=rng)
    for changed, labels, order in [
        (X[shuffle], y[shuffle], shuffle),
        (X @ rotation, y, slice(None)),
        (X * 37.0, y, slice(None)),
        (X * 1e-6, y, slice(None)),
        (X + 5.0, y, slice(None)),
        ((X @ rotation * 0.1)[shuffle], y[shuffle], shuffle),
    ]:
        result = detect(changed, 10, y=labels)
        np.testing.assert_array_equal(result.removed, expected.removed[order])
        np.testing.assert_array_equal(result.communities, expected.communities[order])
        np.testing.assert_allclose(result.distances, expected.distances, atol=1e-4)


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 99), overlap=st.floats(1.0, 4.0), levels=st.booleans())
def test_permutation_changes_only_the_order_in_hard_cases(seed, overlap, levels):
    """Overlapping groups and repeated rows: here the partition itself is a choice."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 5))[rng.integers(6, size=500)] * overlap
    X += rng.standard_normal(X.shape)
    if levels:
        X = X.round()
    shuffle = rng.permutation(len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = detect(X, 5, n_neighbors=15)
        result = detect(X[shuffle], 5, n_neighbors=15)
    np.testing.assert_array_equal(result.communities, expected.communities[shuffle])
    np.testing.assert_array_equal(result.removed, expected.removed[shuffle])


def test_same_seed_same_result_and_other_settings_agree():
    X, y, apart = make_mixture(5, 0.05)
    expected = detect(X, 5, y=y)
    again = detect(X, 5, y=y)
    np.testing.assert_array_equal(again.communities, expected.communities)
    np.testing.assert_array_equal(again.distances, expected.distances)
    for params in (
        {"leiden": "leidenalg"},
        {"metric": "cosine"},
        {"metric": "manhattan"},
        {"neighbors": "exact", "n_jobs": 2},
        {"neighbors": KNeighborsTransformer(n_neighbors=30)},
        {"n_neighbors": 20},
        {"random_state": 7},
        {"distance": "paper"},
    ):
        np.testing.assert_array_equal(detect(X, 5, y=y, **params).removed, apart)


def test_float32_and_float64_agree():
    X, y, _ = make_mixture(5, 0.05)
    single = X.astype(np.float32)
    expected = detect(single.astype(np.float64), 5, y=y)
    result = detect(single, 5, y=y)
    np.testing.assert_array_equal(result.communities, expected.communities)


def test_clean_digits_lose_nothing():
    X, y = load_digits(return_X_y=True)
    result = detect(X, 10, y=y)
    assert result.decision == "none_far"
    assert result.distances.max() < 0.15


def test_a_whole_class_is_spared_and_the_poison_still_found():
    X, y, apart = make_mixture(4, 0.05)
    X[y == 3] += 60.0  # a natural class far from everything
    assert y[apart].max() == 0
    result = detect(X, 4, y=y)
    assert not result.removed[y == 3].any()
    without_poison = detect(X[~apart], 4, y=y[~apart])
    assert not without_poison.removed.any()
    assert without_poison.decision in ("whole_class", "none_far")


@pytest.mark.parametrize(
    ("tail", "share", "decision"),
    [(0.9, 0.05, "removed"), (0.9, 0.3, "mixed_labels"), (0.0, 0.3, "removed")],
)
def test_a_group_of_several_labels_must_be_cut_off(tail, share, decision):
    """With a tail of rows towards the classes it is a natural group, not planted."""
    X, y, apart = make_mixture(5, 0.1, ratio=2.3, n=1500, seed=3)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(apart)
    towards = X[rng.choice(np.flatnonzero(~apart), len(rows))]
    X[rows] += tail * rng.random((len(rows), 1)) * (towards - X[rows])
    mixed = rows[: round(share * len(rows))]
    y[mixed] = np.arange(len(mixed)) % 4 + 1
    result = detect(X, 5, y=y)
    assert result.decision == decision
    assert result.removed.any() == (decision == "removed")
    assert not result.removed[~apart].any()
    # The labels are what spares it.
    assert detect(X, 5).removed.any()


def test_too_large_a_group_is_not_removed():
    X, y, apart = make_mixture(5, 0.1)
    with pytest.warns(UserWarning, match="more than max_removed=0.05"):
        result = detect(X, 5, y=y, max_removed=0.05)
    assert result.decision == "too_large"
    assert not result.removed.any()
    assert detect(X, 5, y=y, max_removed=0.2).removed.sum() == apart.sum()


def test_a_group_that_is_not_apart_is_not_removed():
    X, y, _ = make_mixture(3, 0.0)
    far = np.abs(X).sum(axis=1).argsort()[-80:]  # outliers on all sides, no group
    X[far] *= 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert not detect(X, 3, y=y).removed.any()


@pytest.mark.parametrize(("n", "n_neighbors"), [(60, 10), (120, 120), (2, 50)])
def test_too_few_rows_abstain_with_a_warning(n, n_neighbors):
    X = np.random.default_rng(0).standard_normal((n, 4))
    with pytest.warns(UserWarning, match=f"Only {n} rows"):
        result = detect(X, 2, n_neighbors=n_neighbors)
    assert result.decision == "too_few_rows"
    assert not result.removed.any()
    assert result.n_communities == 1
    assert not result.is_off_manifold(X).any()


def test_communities_not_reached_are_reported():
    X = np.ones((150, 3))
    X[100:, 0] = 5.0
    with pytest.warns(UserWarning, match="communities were found instead of 161"):
        result = detect(X, 160, n_neighbors=140)
    assert not result.removed.any()


def test_constant_features():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = detect(np.ones((200, 3)), 3, y=np.arange(200) % 3)
    assert not result.removed.any()
    assert np.isfinite(result.distances).all()


def test_new_rows_are_judged_as_the_training_rows():
    X, y, _ = make_mixture(5, 0.05)
    result = detect(X, 5, y=y)
    np.testing.assert_array_equal(result.is_off_manifold(X), result.removed)
    new, _, new_apart = make_mixture(5, 0.2, seed=0, n=1200)
    np.testing.assert_array_equal(result.is_off_manifold(new), new_apart)


def test_result_is_documented_and_frozen():
    X, y, _ = make_mixture(3, 0.05)
    result = detect(X, 3, y=y)
    assert result.decision in DECISIONS
    assert len(result.distances) == len(result.conductances) == result.n_communities
    assert result.removed.shape == result.communities.shape == (1200,)
    with pytest.raises(AttributeError):
        result.threshold = 0.0


def test_verbose_says_what_was_found(capsys):
    X, y, _ = make_mixture(3, 0.05)
    detect(X, 3, y=y, verbose=1)
    printed = capsys.readouterr().out
    assert "edges" in printed
    assert "removed" in printed
    detect(X, 3, y=y)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be"),
        ({"n_neighbors": 5.0}, "n_neighbors must be an integer"),
        ({"threshold": 0.0}, "threshold must be"),
        ({"threshold": "far"}, "threshold must be a number"),
        ({"max_removed": 1.5}, "max_removed must be"),
        ({"distance": "absolute"}, "distance must be one of"),
        ({"leiden": "louvain"}, "leiden must be one of"),
        ({"neighbors": "annoy"}, "neighbors must be one of"),
        ({"neighbors": 3}, "neighbors must be"),
        ({"n_classes": 1}, "n_classes must be"),
    ],
)
def test_bad_parameters(params, message):
    X = np.random.default_rng(0).standard_normal((150, 3))
    params = {"n_classes": 3} | params
    with pytest.raises((TypeError, ValueError), match=message):
        detect_off_manifold(X, **params)


@settings(max_examples=30)
@given(seed=st.integers(0, 99), levels=st.sampled_from([2, 3, 100]))
def test_canonical_order_forgets_the_order_given(seed, levels):
    rng = np.random.default_rng(seed)
    X = rng.integers(levels, size=(80, 3)).astype(float)
    shuffle = rng.permutation(80)
    np.testing.assert_array_equal(
        X[shuffle][canonical_order(X[shuffle])], X[canonical_order(X)]
    )


def make_overlapping(rate, *, n=1600, d=16, seed=0, n_classes=4):
    """Classes that overlap, as a weak encoder shows them, and a mark on one of them.

    Five backgrounds in which every class is found vary most; poison of class 0, a
    share ``rate`` of it with its label true, is moved in a direction of little spread.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    axes = special_ortho_group.rvs(d, random_state=rng)
    shares = rng.dirichlet(np.full(5, 2.0), n_classes)
    background = np.array([rng.choice(5, p=shares[code]) for code in y])
    spread = np.geomspace(1.0, 0.15, d)
    X = 2.0 * axes[background] + 0.5 * axes[5 + y]
    X += (rng.standard_normal((n, d)) * spread) @ axes
    poison = rng.permutation(np.flatnonzero(y == 0))
    poison = poison[: round(rate * len(poison))]
    X[poison] += axes[-1]
    return X, y, np.isin(np.arange(n), poison)


def test_poison_of_a_class_is_found_against_the_classes():
    # Draws depend on SciPy's version. Of twelve seeds one is missed at a quarter.
    missed = 0
    for seed, rate in itertools.product(range(4), (0.25, 0.5)):
        X, y, poison = make_overlapping(rate, seed=seed)
        assert not detect(X, 4, y=y).removed.any()
        result = detect(X, 4, y=y, distance="classes")
        clean = detect(X[~poison], 4, y=y[~poison], distance="classes")
        assert not clean.removed.any()
        if result.decision != "removed":
            assert not result.removed.any()
            missed += 1
            continue
        assert (result.removed & poison).sum() >= 0.97 * poison.sum()
        assert (result.removed & ~poison).sum() <= 0.01 * len(X)
        # New rows, whose labels are not known.
        assert np.mean(result.is_off_manifold(X) == result.removed) > 0.95
    assert missed <= 1


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_classes=st.sampled_from([2, 3, 4]),
    n=st.sampled_from([4, 7, 10, 12]),
    data=st.data(),
)
def test_classes_made_of_clusters_lose_nothing_against_the_classes(n_classes, n, data):
    X, y, _ = make_mixture(n, 0.0, seed=data.draw(st.integers(0, 99)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = detect(X, n_classes, y=y % n_classes, distance="classes")
    assert not result.removed.any()


@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_clean_digits_in_few_classes_lose_nothing_against_the_classes(n_groups):
    X, y = load_digits(return_X_y=True)
    for labels in (y % n_groups, y * n_groups // 10):
        assert not detect(X, n_groups, y=labels, distance="classes").removed.any()


def test_against_the_classes_order_and_size_change_only_the_order():
    X, y, _ = make_overlapping(0.4, n=900)
    expected = detect(X, 4, y=y, distance="classes")
    shuffle = np.random.default_rng(1).permutation(len(X))
    result = detect(37.0 * X[shuffle], 4, y=y[shuffle], distance="classes")
    np.testing.assert_array_equal(result.removed, expected.removed[shuffle])
    np.testing.assert_array_equal(result.communities, expected.communities[shuffle])


def test_against_the_classes_labels_are_needed():
    with pytest.raises(ValueError, match="needs y"):
        detect(np.random.default_rng(0).random((150, 3)), 3, distance="classes")


def test_against_the_classes_too_large_a_group_is_not_removed():
    X, y, poison = make_overlapping(0.5)
    assert 0.1 < poison.mean() < 0.14
    with pytest.warns(UserWarning, match="more than max_removed=0.1"):
        result = detect(X, 4, y=y, distance="classes", max_removed=0.1)
    assert result.decision == "too_large"
    assert not result.removed.any()
    assert not result.is_off_manifold(X).any()
