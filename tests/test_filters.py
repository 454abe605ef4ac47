import inspect
import pickle
import random
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from imblearn.pipeline import Pipeline as ImblearnPipeline
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import skvibe
from skvibe import OffManifoldFilter, OffManifoldSampler, filters
from skvibe.off_manifold import detect_off_manifold

N_CLASSES = 3
# The data of scikit-learn's checks are smaller than the detector asks for.
ABSTAINS = "ignore:Only:UserWarning"


def make_poisoned(n=700, n_poison=60, d=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(N_CLASSES, size=n)
    X = 10 * np.eye(d)[y] + rng.standard_normal((n, d))
    poison = rng.permutation(n)[:n_poison]
    X[poison] = 30 * np.eye(d)[-1] + rng.standard_normal((n_poison, d))
    y[poison] = 0
    return X, y, np.isin(np.arange(n), poison)


@pytest.fixture(scope="module")
def poisoned():
    return make_poisoned()


@pytest.mark.filterwarnings(ABSTAINS)
@parametrize_with_checks(
    [OffManifoldFilter(), OffManifoldFilter(n_communities=4), OffManifoldSampler()]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_removed_rows_are_nan_and_nothing_else_changes(poisoned):
    X, y, poison = poisoned
    before = X.copy(), y.copy()
    estimator = OffManifoldFilter(random_state=0)
    marked = estimator.fit_transform(X, y)
    assert np.isnan(marked[poison]).all()
    np.testing.assert_array_equal(marked[~poison], X[~poison])
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert not np.shares_memory(marked, X)
    np.testing.assert_array_equal(estimator.removed_mask_, poison)
    np.testing.assert_array_equal(estimator.support_, np.flatnonzero(~poison))
    assert estimator.n_removed_ == poison.sum()
    assert estimator.decision_ == "removed"
    assert estimator.n_communities_ == N_CLASSES + 1
    assert estimator.communities_.shape == y.shape
    assert estimator.community_distances_.shape == (N_CLASSES + 1,)
    farthest = estimator.community_distances_.argmax()
    np.testing.assert_array_equal(estimator.communities_ == farthest, poison)
    assert estimator.community_distances_[farthest] > estimator.threshold_
    assert estimator.resolution_ > 0


def test_transform_is_the_identity(poisoned):
    X, y, poison = poisoned
    estimator = OffManifoldFilter(random_state=0).fit(X, y)
    np.testing.assert_array_equal(estimator.transform(X), X)
    np.testing.assert_array_equal(estimator.removed_mask_, poison)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
    ],
)
def test_float_types(poisoned, dtype, expected):
    X, y, poison = poisoned
    X = np.round(X + 20).astype(dtype)
    estimator = OffManifoldFilter(random_state=0)
    marked = estimator.fit_transform(X, y)
    assert marked.dtype == estimator.transform(X).dtype == expected
    assert np.isnan(marked[poison]).all()
    np.testing.assert_array_equal(marked[~poison], estimator.transform(X)[~poison])


def test_lists_and_read_only_memory_maps(poisoned, tmp_path):
    X, y, poison = poisoned
    labels = [f"class {k}" for k in y]
    marked = OffManifoldFilter(random_state=0).fit_transform(X.tolist(), labels)
    assert np.isnan(marked[poison]).all()
    joblib.dump(X, tmp_path / "X")
    mapped = joblib.load(tmp_path / "X", mmap_mode="r")
    marked = OffManifoldFilter(random_state=0).fit_transform(mapped, y)
    assert np.isnan(marked[poison]).all()
    assert marked.flags.writeable


def test_labels_of_any_type_give_the_same_result(poisoned):
    X, y, poison = poisoned
    for labels in (
        y.astype(str),
        np.array(["a", "b", "c"], dtype=object)[y],
        pd.Series(y).astype("category"),
        y.astype(float),
        y == 0,
        y.reshape(-1).tolist(),
    ):
        estimator = OffManifoldFilter(random_state=0).fit(X, labels)
        np.testing.assert_array_equal(estimator.removed_mask_, poison)


def test_pandas_in_and_out(poisoned):
    X, y, poison = poisoned
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(len(X)) + 7)
    estimator = OffManifoldFilter(random_state=0).set_output(transform="pandas")
    marked = estimator.fit_transform(frame, y)
    assert list(marked.columns) == list("abcdef")
    np.testing.assert_array_equal(marked.index, frame.index)
    assert marked[poison].isna().all(axis=None)
    pd.testing.assert_frame_equal(estimator.transform(frame), frame)
    assert list(estimator.feature_names_in_) == list("abcdef")


def test_filters_compose(poisoned):
    X, y, poison = poisoned
    far = np.zeros(len(X), dtype=bool)
    far[np.flatnonzero(~poison)[:60]] = True
    X = X.copy()
    X[far] = 60 * np.eye(6)[-2] + np.random.default_rng(0).standard_normal((60, 6))
    first = OffManifoldFilter(random_state=0)
    second = OffManifoldFilter(random_state=0)
    marked = second.fit_transform(first.fit_transform(X, y), y)
    np.testing.assert_array_equal(first.removed_mask_, far)
    np.testing.assert_array_equal(second.removed_mask_, far | poison)
    assert second.n_removed_ == 120
    assert (second.communities_[far] == -1).all()
    assert (second.communities_[~far] >= 0).all()
    assert np.isnan(marked[far | poison]).all()
    assert np.isfinite(marked[~(far | poison)]).all()


def test_number_of_communities_from_y_or_the_parameter(poisoned):
    X, y, poison = poisoned
    with pytest.raises(ValueError, match=r"requires y to be passed.*n_communities"):
        OffManifoldFilter().fit_transform(X)
    without_y = OffManifoldFilter(n_communities=4, random_state=0)
    without_y.fit_transform(X)
    np.testing.assert_array_equal(without_y.removed_mask_, poison)
    more = OffManifoldFilter(n_communities=6, random_state=0).fit(X, y)
    assert more.n_communities_ == 6


def test_new_rows(poisoned):
    X, y, poison = poisoned
    estimator = OffManifoldFilter(random_state=0).fit(X, y)
    np.testing.assert_array_equal(estimator.is_off_manifold(X), poison)
    new, _, new_poison = make_poisoned(seed=1)
    np.testing.assert_array_equal(estimator.is_off_manifold(new), new_poison)
    new[:5] = np.nan
    assert estimator.is_off_manifold(new)[:5].all()
    nothing = OffManifoldFilter(random_state=0).fit(X[~poison], y[~poison])
    assert not nothing.is_off_manifold(X).any()


def test_pickle_holds_no_training_rows(poisoned):
    X, y, poison = poisoned
    wide = np.hstack([X, np.zeros((len(X), 500))])
    estimator = OffManifoldFilter(random_state=0).fit(wide, y)
    stored = pickle.dumps(estimator)
    assert len(stored) < wide.nbytes / 20
    np.testing.assert_array_equal(pickle.loads(stored).is_off_manifold(wide), poison)


def test_same_seed_same_communities(poisoned):
    X, y, _ = poisoned
    fits = [OffManifoldFilter(random_state=3).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].communities_, fits[1].communities_)
    np.testing.assert_array_equal(
        fits[0].community_distances_, fits[1].community_distances_
    )


def test_global_random_states_are_left_alone(poisoned):
    X, y, _ = poisoned
    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    OffManifoldFilter(random_state=0).fit(X, y)
    assert random.getstate() == python
    np.testing.assert_array_equal(np.random.get_state()[1], numpy)  # noqa: NPY002


def test_neighbors_object_and_backends(poisoned):
    X, y, poison = poisoned
    graph = KNeighborsTransformer(n_neighbors=30)
    for params in ({"neighbors": graph}, {"leiden": "leidenalg"}, {"n_jobs": 2}):
        estimator = OffManifoldFilter(random_state=0, **params).fit(X, y)
        np.testing.assert_array_equal(estimator.removed_mask_, poison)
    assert not hasattr(graph, "n_samples_fit_")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:(pynndescent|numba|llvmlite)")
def test_approximate_neighbors(poisoned):
    X, y, poison = poisoned
    estimator = OffManifoldFilter(neighbors="pynndescent", random_state=0).fit(X, y)
    np.testing.assert_array_equal(estimator.removed_mask_, poison)


def test_too_few_rows_remove_nothing(poisoned):
    X, y, _ = poisoned
    estimator = OffManifoldFilter()
    with pytest.warns(UserWarning, match="Only 90 rows"):
        marked = estimator.fit_transform(X[:90], y[:90])
    np.testing.assert_array_equal(marked, X[:90])
    assert estimator.decision_ == "too_few_rows"
    assert np.isnan(estimator.resolution_)


def test_attributes_are_what_the_function_found(poisoned):
    X, y, poison = poisoned
    X = X.copy()
    X[3:9] = np.nan  # removed by an earlier filter
    kept = np.isfinite(X).all(axis=1)
    params = {"n_neighbors": 31, "threshold": 0.2, "max_removed": 0.25}
    filtered = OffManifoldFilter(random_state=7, **params).fit(X, y)
    found = detect_off_manifold(X[kept], N_CLASSES, y=y[kept], random_state=7, **params)
    np.testing.assert_array_equal(filtered.communities_[kept], found.communities)
    assert set(filtered.communities_[~kept]) == {-1}
    assert filtered.communities_.dtype == np.int64
    np.testing.assert_array_equal(filtered.community_distances_, found.distances)
    np.testing.assert_array_equal(filtered.removed_mask_[kept], found.removed)
    np.testing.assert_array_equal(filtered.removed_mask_, poison | ~kept)
    assert filtered.n_removed_ == (poison | ~kept).sum()
    np.testing.assert_array_equal(filtered.support_, np.flatnonzero(~poison & kept))
    assert filtered.n_communities_ == found.n_communities == N_CLASSES + 1
    assert filtered.resolution_ == found.resolution
    assert filtered.threshold_ == found.threshold
    assert filtered.decision_ == found.decision == "removed"


@pytest.mark.parametrize("estimator", [OffManifoldFilter, OffManifoldSampler])
def test_defaults_are_those_of_the_function(estimator):
    params = estimator().get_params()
    assert params.pop("encoder") is None
    assert params.pop("n_communities") is None
    signature = inspect.signature(detect_off_manifold).parameters
    assert params == {name: signature[name].default for name in params}
    assert (params["n_neighbors"], params["threshold"]) == (
        50,
        0.275,
    )  # as in the paper


def test_every_parameter_reaches_the_function(poisoned, monkeypatch):
    X, y, _ = poisoned
    asked = {}

    def detect(X, n_classes, **options):
        asked.update(options, n_classes=n_classes)
        return detect_off_manifold(X, n_classes, **options)

    monkeypatch.setattr(filters, "detect_off_manifold", detect)
    params = {
        "n_neighbors": 40,
        "threshold": 0.3,
        "metric": "cosine",
        "distance": "paper",
        "neighbors": "exact",
        "leiden": "leidenalg",
        "max_removed": 0.2,
        "random_state": 5,
        "n_jobs": 1,
        "verbose": 0,
    }
    OffManifoldFilter(n_communities=5, **params).fit(X, y)
    assert asked.pop("n_classes") == 4
    np.testing.assert_array_equal(asked.pop("y"), y)
    assert asked == params


def test_values_whose_distances_overflow_are_refused(poisoned):
    X, y, _ = poisoned
    for sign in (1.0, -1.0):
        large = X.copy()
        large[5, 2] = sign * 1.01e150
        with pytest.raises(ValueError, match=r"as large as 1\.01e\+150.*Scale X"):
            OffManifoldFilter(random_state=0).fit(large, y)
        large[5, 2] = sign * 1e150
        OffManifoldFilter(random_state=0).fit(large, y)


def test_against_the_classes(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(700) % N_CLASSES
    # Classes that overlap, and a third of one of them moved.
    X = 0.5 * np.eye(6)[y] + rng.standard_normal((700, 6)) * np.geomspace(1, 0.1, 6)
    poison = (y == 0) & (np.arange(700) % 9 == 0)
    X[poison, 5] += 2.0
    first = np.argmax(poison)
    X[first] = np.nan  # removed before
    estimator = OffManifoldFilter(distance="classes", random_state=0)
    marked = estimator.fit_transform(X, y)
    np.testing.assert_array_equal(estimator.removed_mask_, poison)
    assert np.isnan(marked[first]).all()
    found = detect_off_manifold(
        np.delete(X, first, axis=0),
        2,
        y=np.delete(y, first),
        distance="classes",
        random_state=0,
    )
    np.testing.assert_array_equal(
        np.delete(estimator.removed_mask_, first), found.removed
    )
    assert estimator.decision_ == found.decision
    expected = estimator.is_off_manifold(X)
    assert expected[first]
    np.testing.assert_array_equal(
        np.delete(expected, first), found.is_off_manifold(np.delete(X, first, axis=0))
    )
    estimator.save(tmp_path / "filter.skvibe")
    loaded = skvibe.load(tmp_path / "filter.skvibe")
    np.testing.assert_array_equal(loaded.is_off_manifold(X), expected)
    by_count = OffManifoldFilter(distance="classes", n_communities=4, random_state=0)
    with pytest.raises(ValueError, match="needs y"):
        by_count.fit(np.delete(X, first, axis=0))


@pytest.mark.parametrize("estimator", [OffManifoldFilter, OffManifoldSampler])
def test_tags(estimator):
    tags = estimator().__sklearn_tags__()
    assert tags.target_tags.required
    assert not tags.input_tags.three_d_array
    assert estimator(encoder=np.ravel).__sklearn_tags__().input_tags.three_d_array
    tags = estimator(n_communities=4).__sklearn_tags__()
    # A sampler has labels to return.
    assert tags.target_tags.required == (estimator is OffManifoldSampler)


def test_a_single_new_row_and_single_features_behind_an_encoder(poisoned):
    X, y, poison = poisoned
    fitted = OffManifoldFilter(random_state=0).fit(X, y)
    for i in (np.argmax(poison), np.argmin(poison)):
        assert fitted.is_off_manifold(X[[i]]).tolist() == [poison[i]]
        np.testing.assert_array_equal(fitted.transform(X[[i]]), X[[i]])
    codes = np.arange(len(X))[:, None]
    by_code = OffManifoldFilter(lambda rows: X[rows[:, 0].astype(int)], random_state=0)
    np.testing.assert_array_equal(by_code.fit(codes, y).removed_mask_, poison)
    sampler = OffManifoldSampler(random_state=0).fit(X, y)
    np.testing.assert_array_equal(sampler.sample_indices_, np.flatnonzero(~poison))


# Encoders


def as_images(X):
    """Rows as 4-D arrays that the filter cannot read without an encoder."""
    return np.ascontiguousarray(X.reshape(len(X), 1, 2, 3))


def test_array_encoder(poisoned):
    X, y, poison = poisoned
    images = as_images(X)

    def flatten(batch):
        assert len(batch) <= 256
        return batch.reshape(len(batch), -1)

    estimator = OffManifoldFilter(encoder=flatten, random_state=0)
    marked = estimator.fit_transform(images, y)
    assert marked.shape == images.shape
    assert np.isnan(marked[poison]).all()
    np.testing.assert_array_equal(marked[~poison], images[~poison])
    np.testing.assert_array_equal(estimator.transform(images), images)
    np.testing.assert_array_equal(estimator.is_off_manifold(images), poison)


def test_transformer_as_encoder(poisoned):
    X, y, poison = poisoned
    encoder = PCA(4, random_state=0).fit(X)
    estimator = OffManifoldFilter(encoder=encoder, random_state=0).fit(X, y)
    np.testing.assert_array_equal(estimator.removed_mask_, poison)


def test_torch_encoder_is_not_changed(poisoned):
    import torch

    X, y, poison = poisoned
    images = as_images(X).astype(np.float32)
    encoder = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.5)
    )
    encoder[0].eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    estimator = OffManifoldFilter(encoder=encoder, random_state=0)
    marked = estimator.fit_transform(images, y)
    np.testing.assert_array_equal(np.isnan(marked).all(axis=(1, 2, 3)), poison)
    assert [part.training for part in encoder.modules()] == [True, False, True, True]
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in encoder.parameters())
    # Integer pixels, and a double-precision encoder.
    pixels = np.round(images + 20).astype(np.uint8)
    estimator = OffManifoldFilter(encoder=encoder.double(), random_state=0)
    assert estimator.fit_transform(pixels, y).dtype == np.float32
    np.testing.assert_array_equal(estimator.removed_mask_, poison)


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (3, TypeError, "encoder must be"),
        (lambda batch: batch[:1], ValueError, "one row per row"),
        (lambda batch: batch * np.nan, ValueError, "NaN or infinity"),
    ],
)
def test_bad_encoders(poisoned, encoder, error, message):
    X, y, _ = poisoned
    with pytest.raises(error, match=message):
        OffManifoldFilter(encoder=encoder).fit(X, y)


def test_images_without_encoder(poisoned):
    X, y, _ = poisoned
    with pytest.raises(ValueError, match="encoder"):
        OffManifoldFilter().fit(as_images(X), y)


# Bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"n_neighbors": 2.5}, "n_neighbors"),
        ({"threshold": -1}, "threshold"),
        ({"max_removed": 2}, "max_removed"),
        ({"n_communities": 2}, "n_communities"),
        ({"n_communities": "4"}, "n_communities"),
        ({"distance": "far"}, "distance"),
        ({"leiden": "louvain"}, "leiden"),
        ({"neighbors": "annoy"}, "neighbors"),
        ({"metric": "nearness"}, "metric"),
    ],
)
@pytest.mark.parametrize("estimator", [OffManifoldFilter, OffManifoldSampler])
def test_bad_parameters_are_named_in_fit(poisoned, estimator, params, message):
    X, y, _ = poisoned
    built = estimator(**params)  # never in __init__
    with pytest.raises((TypeError, ValueError), match=message):
        built.fit(X, y)


@pytest.mark.parametrize("estimator", [OffManifoldFilter(), OffManifoldSampler()])
def test_bad_data(poisoned, estimator):
    X, y, _ = poisoned
    for value, message in [
        (np.nan, "NaN or infinity in some features"),
        (np.inf, "NaN or infinity in some features"),
    ]:
        holed = X.copy()
        holed[3, 2] = value
        with pytest.raises(ValueError, match=message):
            clone(estimator).fit(holed, y)
    with pytest.raises(ValueError, match="no rows are left"):
        clone(estimator).fit(np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match="1 class"):
        clone(estimator).fit(X, np.zeros(len(X), dtype=int))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        clone(estimator).fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        clone(estimator).fit(X[:, :1], y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(estimator).fit(X, y[:-1])
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        clone(estimator).fit(csr_matrix(X), y)
    with pytest.raises(ValueError, match="Unknown label type"):
        clone(estimator).fit(X, X[:, 0])
    fitted = clone(estimator).set_params(random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="X has 5 features"):
        fitted.is_off_manifold(X[:, :5])


# Composition


def test_clone_and_set_params():
    estimator = OffManifoldFilter(n_neighbors=20, threshold=0.3)
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.set_params(threshold=0.2).threshold == 0.2


def test_a_classifier_that_does_not_know_the_convention(poisoned):
    X, y, poison = poisoned
    with pytest.raises(ValueError, match="NaN"):
        make_pipeline(OffManifoldFilter(random_state=0), LogisticRegression()).fit(X, y)
    # One that accepts NaN never sees a poisoned value: it cannot learn the trigger.
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=0)
    target = make_pipeline(OffManifoldFilter(random_state=0), trees).fit(X, y)
    trigger = np.zeros((1, 6))
    trigger[0, [1, -1]] = 10.0, 30.0
    assert target.predict(trigger)[0] == 1
    assert clone(trees).fit(X, y).predict(X[poison]).max() == 0


def test_scaler_between_ignores_removed_rows(poisoned):
    X, y, poison = poisoned
    pipe = make_pipeline(OffManifoldFilter(random_state=0), StandardScaler())
    scaled = pipe.fit_transform(X, y)
    expected = StandardScaler().fit(X[~poison])
    np.testing.assert_allclose(pipe[-1].mean_, expected.mean_)
    np.testing.assert_allclose(scaled[~poison], expected.transform(X[~poison]))
    assert np.isnan(scaled[poison]).all()


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_pipeline_memory_cold_and_warm(poisoned, tmp_path, mmap_mode):
    X, y, poison = poisoned
    memory = joblib.Memory(tmp_path, mmap_mode=mmap_mode, verbose=0)
    for _ in range(2):
        pipe = Pipeline(
            [
                ("filter", OffManifoldFilter(random_state=0)),
                ("scale", StandardScaler()),
            ],
            memory=memory,
        )
        marked = pipe.fit_transform(X, y)
        np.testing.assert_array_equal(np.isnan(marked).all(axis=1), poison)
        np.testing.assert_array_equal(pipe["filter"].removed_mask_, poison)


def test_nested_pipelines_and_joblib(poisoned, tmp_path):
    X, y, poison = poisoned
    inner = make_pipeline(PCA(5, random_state=0), OffManifoldFilter(random_state=0))
    outer = make_pipeline(inner, StandardScaler())
    marked = outer.fit_transform(X, y)
    np.testing.assert_array_equal(np.isnan(marked).all(axis=1), poison)
    joblib.dump(outer, tmp_path / "pipe")
    loaded = joblib.load(tmp_path / "pipe")
    np.testing.assert_array_equal(loaded.transform(X), outer.transform(X))


def test_sampler_keeps_types_and_indices(poisoned):
    X, y, poison = poisoned
    sampler = OffManifoldSampler(random_state=0)
    X_kept, y_kept = sampler.fit_resample(X, y)
    np.testing.assert_array_equal(X_kept, X[~poison])
    np.testing.assert_array_equal(y_kept, y[~poison])
    np.testing.assert_array_equal(sampler.sample_indices_, np.flatnonzero(~poison))
    frame, series = pd.DataFrame(X).add_prefix("x"), pd.Series(y.astype(str))
    X_kept, y_kept = sampler.fit_resample(frame, series)
    pd.testing.assert_frame_equal(X_kept, frame[~poison])
    pd.testing.assert_series_equal(y_kept, series[~poison])
    X_kept, y_kept = sampler.fit_resample(X.tolist(), y.tolist())
    assert X_kept.shape == (np.count_nonzero(~poison), 6)
    marked = OffManifoldFilter(random_state=0).fit_transform(X, y)
    np.testing.assert_array_equal(np.isnan(marked).all(axis=1), poison)


def test_sampler_in_imbalanced_learn(poisoned):
    X, y, poison = poisoned
    pipe = ImblearnPipeline(
        [
            ("drop", OffManifoldSampler(random_state=0)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression()),
        ]
    )
    pipe.fit(X, y)
    expected = StandardScaler().fit(X[~poison])
    np.testing.assert_allclose(pipe["scale"].mean_, expected.mean_)
    assert pipe.score(X[~poison], y[~poison]) > 0.95
    assert cross_val_score(pipe, X, y, cv=2).min() > 0.8
    search = GridSearchCV(pipe, {"drop__threshold": [0.2, 0.3]}, cv=2, n_jobs=2)
    assert search.fit(X, y).best_score_ > 0.8
    # The filter works there as well.
    ImblearnPipeline([("filter", OffManifoldFilter(random_state=0))]).fit(X, y)


def test_sampler_is_refused_by_scikit_learn(poisoned):
    X, y, _ = poisoned
    with pytest.raises(TypeError, match="transform"):
        make_pipeline(OffManifoldSampler(), LogisticRegression()).fit(X, y)


def test_import_loads_no_graph_library():
    code = (
        "import sys; from skvibe import OffManifoldFilter; OffManifoldFilter();"
        "print([m for m in ('torch', 'igraph', 'leidenalg', 'pynndescent', 'imblearn',"
        "'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_transform_names_rows_that_are_not_finite(bad):
    X = np.random.default_rng(0).normal(size=(120, 3))
    kept = OffManifoldFilter(n_communities=3, random_state=0).fit(X)
    X[5, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity in some features"):
        kept.transform(X)


def test_the_removed_group_may_be_the_first():
    X = np.random.default_rng(0).normal(size=(120, 2))
    kept = OffManifoldFilter(n_communities=3, random_state=0).fit(X)
    kept._far_group, kept._centroids = 0, np.array([[9.0, 0.0], [0.0, 0.0]])
    off = kept.is_off_manifold(np.array([[8.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(off, [True, False])
