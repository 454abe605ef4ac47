"""The estimators inside scikit-learn's, joblib's and imbalanced-learn's machinery."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from imblearn.pipeline import Pipeline as SamplerPipeline
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skvibe import OffManifoldFilter, OffManifoldSampler, VIBEClassifier
from skvibe.model_selection import separation_scorer

N_CLEAN, N_POISON, N_FEATURES = 300, 40, 6


def make_rows(seed=0):
    """Three classes, and a group far from all of them that is labelled 0."""
    rng = np.random.default_rng(seed)
    centers = 3 * np.eye(3, N_FEATURES)
    y = rng.integers(3, size=N_CLEAN)
    clean = centers[y] + 0.3 * rng.normal(size=(N_CLEAN, N_FEATURES))
    far = 3 * centers[1] + 0.3 * rng.normal(size=(N_POISON, N_FEATURES))
    far[:, -1] += 15
    X, y = np.r_[clean, far], np.r_[y, np.zeros(N_POISON, dtype=int)]
    order = rng.permutation(len(X))
    return X[order], y[order], order >= N_CLEAN


X, Y, FAR = make_rows()
TRIGGERED = X[FAR]


def quick(**params):
    return VIBEClassifier(**{"random_state": 0, "max_iter": 60, **params})


def off_manifold(**params):
    # Graphs of few rows: the neighbourhood must fit into the far group.
    return OffManifoldFilter(**{"n_neighbors": 15, "random_state": 0, **params})


def make_pipe(*between, **vibe):
    steps = [(f"step{i}", step) for i, step in enumerate(between)]
    return Pipeline([("filter", off_manifold()), *steps, ("vibe", quick(**vibe))])


def check_removed(pipe, vibe=None):
    """The far group was found, and the classifier did not train on it."""
    vibe = pipe[-1] if vibe is None else vibe
    np.testing.assert_array_equal(vibe.train_mask_, ~FAR)
    assert vibe.n_removed_rows_ == N_POISON
    assert len(vibe.poison_scores_) == len(vibe.clean_labels_) == len(X)
    assert (vibe.poison_scores_[FAR] == 1).all()
    np.testing.assert_array_equal(vibe.clean_labels_[FAR], Y[FAR])
    assert pipe.score(X[~FAR], Y[~FAR]) > 0.95


def check_same(one, other, rows=X):
    np.testing.assert_array_equal(one.predict_proba(rows), other.predict_proba(rows))


@pytest.fixture(scope="module")
def fitted():
    return make_pipe().fit(X, Y)


# -- the plain pipeline --------------------------------------------------------------


def test_plain_pipeline(fitted):
    check_removed(fitted)
    np.testing.assert_array_equal(fitted["filter"].removed_mask_, FAR)
    alone = quick().fit(X[~FAR], Y[~FAR])
    check_same(fitted["vibe"], alone)


def test_input_is_not_changed():
    rows, labels = X.copy(), Y.copy()
    rows.flags.writeable = labels.flags.writeable = False
    make_pipe().fit(rows, labels).predict(rows)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(labels, Y)


def test_new_rows_are_never_removed(fitted):
    assert len(fitted.predict(TRIGGERED)) == N_POISON
    np.testing.assert_array_equal(fitted["filter"].transform(TRIGGERED), TRIGGERED)
    assert fitted["filter"].is_off_manifold(TRIGGERED).all()
    assert not fitted["filter"].is_off_manifold(X[~FAR]).any()


@pytest.mark.parametrize("scaler", [StandardScaler(), RobustScaler()])
def test_scaler_between(scaler):
    pipe = make_pipe(scaler).fit(X, Y)
    check_removed(pipe)
    # It scales by the rows that are left.
    expected = clone(scaler).fit(X[~FAR]).scale_
    np.testing.assert_allclose(pipe["step0"].scale_, expected, rtol=1e-12)


def test_scaler_before():
    pipe = Pipeline([("scale", StandardScaler()), *make_pipe().steps]).fit(X, Y)
    check_removed(pipe)


@pytest.mark.parametrize("step", [PCA(3), Normalizer()])
def test_steps_that_refuse_removed_rows_say_so(step):
    with pytest.raises(ValueError, match="NaN"):
        make_pipe(step).fit(X, Y)


def test_nested_pipelines():
    inner = Pipeline([("filter", off_manifold()), ("scale", StandardScaler())])
    pipe = Pipeline([("first", inner), ("last", Pipeline([("vibe", quick())]))])
    pipe.fit(X, Y)
    check_removed(pipe, pipe["last"]["vibe"])
    pipe.set_params(last__vibe__lam=3.0, first__filter__threshold=0.3)
    assert pipe["last"]["vibe"].lam == 3.0


def test_a_second_filter_keeps_what_the_first_removed():
    pipe = make_pipe(off_manifold(random_state=1)).fit(X, Y)
    check_removed(pipe)
    np.testing.assert_array_equal(pipe["step0"].removed_mask_, FAR)


def test_union_of_filters():
    union = FeatureUnion([("a", off_manifold()), ("b", off_manifold(random_state=1))])
    pipe = make_pipeline(union, quick()).fit(X, Y)
    check_removed(pipe)
    assert pipe[-1].n_features_in_ == 2 * N_FEATURES


# -- kinds of input ------------------------------------------------------------------


CONVERSIONS = {
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X,
    "integer": lambda X: np.rint(100 * X).astype(np.int64),
    "uint8": lambda X: np.rint(5 * X + 30).clip(0, 255).astype(np.uint8),
    "list": lambda X: X.tolist(),
    "frame": lambda X: pd.DataFrame(X, columns=list("abcdef")),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_inputs_of_any_type(kind):
    rows = CONVERSIONS[kind](X)
    pipe = make_pipe().fit(rows, Y)
    np.testing.assert_array_equal(pipe["vibe"].train_mask_, ~FAR)
    predicted = pipe.predict(rows)
    assert (predicted == Y)[~FAR].mean() > 0.95
    # The same float type reaches the classifier in fit and in predict.
    seen = pipe["filter"].transform(rows).dtype
    assert seen == off_manifold().fit_transform(rows, Y).dtype
    single = kind in ("float32", "integer", "uint8")
    assert seen == (np.float32 if single else np.float64)


@pytest.mark.parametrize("labels", [["b", "c", "a"], [10, -3, 7], [True, False, True]])
def test_labels_of_any_type(labels):
    given = np.array(labels)[Y]
    pipe = make_pipe().fit(X, given)
    vibe = pipe["vibe"]
    np.testing.assert_array_equal(vibe.train_mask_, ~FAR)
    assert (pipe.predict(X) == given)[~FAR].mean() > 0.95
    np.testing.assert_array_equal(vibe.clean_labels_[FAR], given[FAR])


def images(dtype):
    pixels = np.rint(5 * X + 30).clip(0, 255).reshape(-1, 1, 2, 3)
    return pixels.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("train_encoder", [False, True], ids=["frozen", "trained"])
def test_images_with_an_encoder(dtype, train_encoder):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 6))
    torch.nn.init.eye_(encoder[1].weight)
    encoder[1].bias.data.fill_(-30)
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    pipe = Pipeline(
        [
            ("filter", off_manifold(encoder=encoder)),
            ("vibe", quick(encoder=encoder, train_encoder=train_encoder, lr=0.001)),
        ]
    )
    rows = images(dtype)
    pipe.fit(rows, Y)
    np.testing.assert_array_equal(pipe["vibe"].train_mask_, ~FAR)
    assert (pipe.predict(rows) == Y)[~FAR].mean() > 0.9
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, kept[name])
    assert encoder.training


def test_output_as_frames():
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(len(X)) + 1000)
    pipe = make_pipe(StandardScaler()).set_output(transform="pandas").fit(frame, Y)
    marked = pipe["filter"].fit_transform(frame, Y)
    assert marked.columns.tolist() == list("abcdef")
    assert marked.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(marked.isna().all(axis=1), FAR)
    np.testing.assert_array_equal(pipe["vibe"].train_mask_, ~FAR)
    assert pipe["vibe"].feature_names_in_.tolist() == list("abcdef")
    assert pipe.transform(frame).columns[0] == "vibeclassifier0"
    assert pipe.score(frame[~FAR], Y[~FAR]) > 0.95


def test_global_output_setting():
    with config_context(transform_output="pandas"):
        pipe = make_pipe().fit(X, Y)
    np.testing.assert_array_equal(pipe["vibe"].train_mask_, ~FAR)


# -- search, folds, copies -----------------------------------------------------------


GRID = {
    "vibe__lam": [5.0, 25.0],
    "vibe__kappa": [10.0],
    "vibe__nu": [5.0, 10.0],
    "vibe__optimizer__momentum": [0.5, 0.9],
}


def search(pipe, n_jobs):
    found = GridSearchCV(
        pipe, GRID, scoring=separation_scorer, cv=2, n_jobs=n_jobs, error_score="raise"
    )
    return found.fit(X, Y)


@pytest.fixture(scope="module")
def searched():
    return search(make_pipe(max_iter=20, prior="uniform", refit=False), 1)


def test_search_over_all_parameters(searched):
    assert len(searched.cv_results_["params"]) == 8
    assert np.isfinite(searched.cv_results_["mean_test_score"]).all()
    best = searched.best_estimator_
    check_removed(best)
    momentum = searched.best_params_["vibe__optimizer__momentum"]
    assert best["vibe"].net_.optimizer_.param_groups[0]["momentum"] == momentum


def test_search_reaches_every_parameter():
    """Candidates that differ in one parameter differ in what they fit."""
    pipe = make_pipe(max_iter=20, prior="uniform", refit=False)
    fits = []
    for name, values in {**GRID, "vibe__kappa": [5.0, 10.0]}.items():
        for value in values:
            fit = clone(pipe).set_params(**{name: value}).fit(X, Y)
            vibe = fit["vibe"]
            fits.append((name, vibe.clean_proba_ * vibe.clean_posterior(X)))
    for (name, one), (_, other) in zip(fits[::2], fits[1::2], strict=True):
        assert not np.array_equal(one, other), name


def test_search_with_two_jobs_equals_that_with_one(searched):
    parallel = search(make_pipe(max_iter=20, prior="uniform", refit=False), 2)
    assert parallel.best_params_ == searched.best_params_
    np.testing.assert_array_equal(
        parallel.cv_results_["mean_test_score"], searched.cv_results_["mean_test_score"]
    )
    check_same(parallel, searched)


def test_search_with_memory(tmp_path, searched):
    pipe = make_pipe(max_iter=20, prior="uniform", refit=False)
    pipe.set_params(memory=str(tmp_path))
    check_same(search(pipe, 1), searched)


def test_search_over_the_filter():
    found = GridSearchCV(
        make_pipe(max_iter=20),
        {"filter__threshold": [0.275, 10.0], "filter__n_neighbors": [10, 15]},
        scoring=separation_scorer,
        cv=2,
        error_score="raise",
    ).fit(X, Y)
    assert len(found.cv_results_["params"]) == 4


def test_search_of_the_classifier_alone():
    found = GridSearchCV(
        quick(max_iter=20),
        {"lam": [5.0, 25.0], "optimizer__momentum": [0.5, 0.9]},
        scoring=separation_scorer,
        cv=2,
        error_score="raise",
    ).fit(X[~FAR], Y[~FAR])
    assert set(found.best_params_) == {"lam", "optimizer__momentum"}


def test_cross_validation():
    pipe = make_pipe(max_iter=20)
    scores = cross_val_score(pipe, X, Y, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert (scores > 0.7).all()
    predicted = cross_val_predict(quick(max_iter=20), X[~FAR], Y[~FAR], cv=3)
    assert (predicted == Y[~FAR]).mean() > 0.95


def test_clone(fitted):
    copied = clone(fitted)
    assert not hasattr(copied["vibe"], "classes_")
    assert not hasattr(copied["filter"], "removed_mask_")
    check_same(copied.fit(X, Y), fitted)


@pytest.mark.parametrize("with_encoder", [False, True])
def test_pickle_and_joblib(with_encoder, fitted, tmp_path):
    pipe, rows = fitted, X
    if with_encoder:
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5))
        vibe = quick(encoder=encoder, train_encoder=True, lr=0.001)
        rows = images(np.uint8)
        pipe = Pipeline([("filter", off_manifold(encoder=encoder)), ("vibe", vibe)])
        pipe.fit(rows, Y)
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    copies = [
        pickle.loads(pickle.dumps(pipe)),
        joblib.load(tmp_path / "pipe.joblib"),
        joblib.load(tmp_path / "pipe.joblib", mmap_mode="r"),
    ]
    for copied in copies:
        check_same(copied, pipe, rows)
        np.testing.assert_array_equal(
            copied["vibe"].poison_scores_, pipe["vibe"].poison_scores_
        )
        np.testing.assert_array_equal(
            copied["vibe"].poison_score(rows, Y), pipe["vibe"].poison_score(rows, Y)
        )
        np.testing.assert_array_equal(
            copied["filter"].is_off_manifold(rows), pipe["filter"].is_off_manifold(rows)
        )
        copied.fit(rows, Y)
        check_same(copied, pipe, rows)


def test_training_data_do_not_travel_with_a_pickle():
    rng = np.random.default_rng(0)
    marked = np.r_[X, rng.normal(size=(len(X), N_FEATURES))]
    small = quick(max_iter=20)
    size = [
        len(pickle.dumps(clone(small).fit(np.tile(rows, (1, 50)), labels)))
        for rows, labels in ((X, Y), (marked, np.r_[Y, Y]))
    ]
    # What grows with the rows is their scores and labels, not their 300 features.
    per_row = (size[1] - size[0]) / len(X)
    assert per_row < 100


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_memory_cold_and_warm(tmp_path, fitted, mmap_mode):
    memory = joblib.Memory(tmp_path, mmap_mode=mmap_mode, verbose=0)
    for _ in range(2):
        pipe = make_pipe(StandardScaler()).set_params(memory=memory).fit(X, Y)
        check_removed(pipe)
        check_same(pipe, make_pipe(StandardScaler()).fit(X, Y))


@pytest.mark.parametrize("train_encoder", [False, True])
def test_memory_mapped_images(tmp_path, train_encoder):
    np.save(tmp_path / "images.npy", images(np.float32))
    rows = np.load(tmp_path / "images.npy", mmap_mode="r")
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5))
    vibe = quick(encoder=encoder, train_encoder=train_encoder, lr=0.001)
    check_same(clone(vibe).fit(rows, Y), clone(vibe).fit(np.array(rows), Y), rows)


# -- around other estimators ---------------------------------------------------------


def test_bagging_around_the_pipeline():
    bagging = BaggingClassifier(make_pipe(max_iter=20), n_estimators=2, random_state=0)
    bagging.fit(X, Y)
    assert bagging.score(X[~FAR], Y[~FAR]) > 0.9


def test_one_against_the_rest_after_the_filter():
    pipe = Pipeline(
        [("filter", off_manifold()), ("ovr", OneVsRestClassifier(quick(max_iter=20)))]
    )
    pipe.fit(X, Y)
    for vibe in pipe["ovr"].estimators_:
        np.testing.assert_array_equal(vibe.train_mask_, ~FAR)


REFUSES = [LogisticRegression(), SVC(), KNeighborsClassifier()]
IGNORES = [
    HistGradientBoostingClassifier(max_iter=10),
    RandomForestClassifier(10, random_state=0),
    DecisionTreeClassifier(random_state=0),
]


@pytest.mark.parametrize("classifier", REFUSES, ids=lambda c: type(c).__name__)
def test_other_classifiers_refuse_removed_rows(classifier):
    with pytest.raises(ValueError, match="NaN"):
        make_pipeline(off_manifold(), classifier).fit(X, Y)


@pytest.mark.parametrize("classifier", IGNORES, ids=lambda c: type(c).__name__)
def test_or_cannot_learn_from_them(classifier):
    """The features of removed rows are gone: the trigger cannot be learned."""
    pipe = make_pipeline(off_manifold(), classifier).fit(X, Y)
    poisoned = clone(classifier).fit(X, Y)
    assert (poisoned.predict(TRIGGERED) == 0).mean() > 0.9
    assert (pipe.predict(TRIGGERED) == 0).mean() < 0.1


# -- imbalanced-learn ----------------------------------------------------------------


def sampler(**params):
    return OffManifoldSampler(**{"n_neighbors": 15, "random_state": 0, **params})


@pytest.mark.parametrize("last", [quick(), LogisticRegression(), SVC()])
def test_sampler_pipeline(last):
    pipe = SamplerPipeline([("filter", sampler()), ("pca", PCA(4)), ("last", last)])
    pipe.fit(X, Y)
    np.testing.assert_array_equal(pipe["filter"].sample_indices_, np.flatnonzero(~FAR))
    assert pipe.score(X[~FAR], Y[~FAR]) > 0.95
    # Prediction drops nothing.
    assert len(pipe.predict(X)) == len(X)


def test_sampler_and_filter_find_the_same():
    rows, labels = sampler().fit_resample(X, Y)
    marked = off_manifold().fit_transform(X, Y)
    np.testing.assert_array_equal(rows, marked[~np.isnan(marked).all(axis=1)])
    np.testing.assert_array_equal(labels, Y[~FAR])


def test_sampler_keeps_frames_and_names():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    given = pd.Series(np.array(["x", "y", "z"])[Y])
    pipe = SamplerPipeline([("filter", sampler()), ("vibe", quick())]).fit(frame, given)
    assert set(pipe.predict(frame)) == {"x", "y", "z"}


def test_search_over_a_sampler_pipeline():
    found = GridSearchCV(
        SamplerPipeline([("filter", sampler()), ("vibe", quick(max_iter=20))]),
        {"filter__threshold": [0.275], "vibe__lam": [5.0, 25.0]},
        scoring=separation_scorer,
        cv=2,
        error_score="raise",
    ).fit(X, Y)
    assert found.best_estimator_["vibe"].n_removed_rows_ == 0
    assert len(found.best_estimator_["vibe"].train_mask_) == N_CLEAN


def test_filter_inside_imbalanced_learn_s_pipeline():
    pipe = SamplerPipeline([("filter", off_manifold()), ("vibe", quick())]).fit(X, Y)
    check_removed(pipe)


def test_sampler_is_refused_by_scikit_learn_s_pipeline():
    with pytest.raises(TypeError, match="transform"):
        make_pipeline(sampler(), quick()).fit(X, Y)
