import builtins
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA, TruncatedSVD

from skvibe.displays._projection import GroupMeans, project

X = np.random.default_rng(0).normal(size=(60, 5))


def test_pca_is_scikit_learns_and_places_other_points_alike():
    points, others, names = project(X, "pca", others=X[:3])
    assert np.allclose(points, PCA(2, random_state=0).fit_transform(X))
    assert np.allclose(others, points[:3])
    assert names[0] == "principal component 1"


def test_part_of_the_rows():
    points, _, _ = project(X, "pca", rows=np.array([1, 5, 9]))
    assert points.shape == (3, 2)


def test_a_transformer_is_used():
    svd = TruncatedSVD(2, random_state=0)
    points, _, _ = project(X, svd)
    assert np.allclose(points, svd.transform(X))


def test_given_coordinates_are_kept_and_others_stand_among_their_nearest():
    given = X[:, :2]
    rows = np.arange(40)
    points, others, _ = project(X, given, rows=rows, others=X[[7]])
    assert np.array_equal(points, given[rows])
    nearest = np.argsort(-(X[rows] @ X[7]))[:5]
    assert np.allclose(others[0], given[nearest].mean(axis=0))


@pytest.mark.parametrize("features", [X[:, :1], X[:1]])
def test_too_little_for_two_components(features):
    points, _, _ = project(features, "pca")
    assert points.shape == (len(features), 2)


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match=r"\(60, 2\)"):
        project(X, X)
    with pytest.raises(ValueError, match="'pca', 'umap'"):
        project(X, "tsne")
    with pytest.raises(ValueError, match="two coordinates"):
        project(X, PCA(3))


def test_umap_is_named_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "umap":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"skvibe\[umap\]"):
        project(X, "umap")


@pytest.fixture
def umap():
    """umap-learn, which is optional; its own warnings are not ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("umap", reason="umap-learn is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_umap_keeps_groups_together_and_places_their_prototypes(umap):
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8)
    groups = np.repeat([0, 1, 2], 40)
    features = centres[groups] + 0.05 * rng.standard_normal((120, 8))
    coordinates, placed, names = project(features, "umap", others=centres)
    assert names == ("UMAP 1", "UMAP 2")
    means = np.array([coordinates[groups == k].mean(axis=0) for k in range(3)])
    for points, labels in ((coordinates, groups), (placed, np.arange(3))):
        gaps = np.linalg.norm(points[:, None] - means, axis=2)
        np.testing.assert_array_equal(gaps.argmin(axis=1), labels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_rows", [4, 7, 30])
def test_umap_repeats_itself_and_takes_few_rows(umap, n_rows):
    features = np.random.default_rng(0).standard_normal((n_rows, 5))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (project(features, "umap", random_state=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_the_plane_of_group_means_shows_what_principal_components_hide():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 200)
    features = 3 * np.eye(3, 20)[groups] + rng.normal(size=(600, 20))
    # Much spread that has nothing to do with the groups.
    features[:, 10:12] *= 4

    def told_apart(points):
        means = np.array([points[groups == group].mean(axis=0) for group in range(3)])
        nearest = ((points[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        return np.mean(nearest == groups)

    points, _, names = project(features, GroupMeans(groups))
    assert names[0] == "between class means 1"
    assert told_apart(points) > 0.9
    assert told_apart(project(features, "pca")[0]) < 0.5


@pytest.mark.parametrize("n_groups", [1, 2])
def test_few_groups_leave_a_second_direction(n_groups):
    features = np.random.default_rng(0).normal(size=(50, 6))
    points, placed, _ = project(
        features, GroupMeans(np.arange(50) % n_groups), others=features[:2]
    )
    assert points.shape == (50, 2)
    assert (points.std(axis=0) > 0.1).all()
    assert np.allclose(placed, points[:2])


def test_equal_rows_have_one_point():
    points, _, _ = project(np.ones((5, 3)), GroupMeans(np.zeros(5, dtype=int)))
    assert np.array_equal(points, np.zeros((5, 2)))
