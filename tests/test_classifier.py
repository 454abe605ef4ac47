import pickle
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from skorch.callbacks import Callback, EpochScoring
from skorch.dataset import ValidSplit

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate


def make_rows(n=120, n_classes=3, seed=0):
    """Blobs with a few labels turned to class 0."""
    X, y = make_blobs(n, n_features=5, centers=n_classes, random_state=seed)
    turned = np.random.default_rng(seed).random(n) < 0.05
    return X, np.where(turned, 0, y)


def quick(**params):
    return VIBEClassifier(**{"random_state": 0, "max_iter": 100, **params})


def encoder():
    """A small net with everything that could leak: batch norm, dropout, weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(8, 6),
        torch.nn.BatchNorm1d(6),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.2),
    )


def make_images(n=120, dtype=np.float32):
    X, y = make_blobs(n, n_features=8, centers=3, random_state=0)
    X = X.reshape(n, 2, 2, 2)
    if dtype == np.uint8:
        X = 127 + 100 * X / np.abs(X).max()
    return X.astype(dtype), y


METHODS = (
    "predict",
    "predict_proba",
    "decision_function",
    "clean_posterior",
    "transform",
)
ENCODERS = [
    pytest.param({"encoder": encoder()}, id="frozen"),
    pytest.param({"encoder": encoder(), "train_encoder": True}, id="trained"),
]


# -- the purpose ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 1, 2])
def digits(request):
    return load_poisoned_digits(target=0, rate=0.1, random_state=request.param)


@pytest.fixture(scope="module", params=["pixels", "nystroem"])
def features(request, digits):
    """Map to features, and what an undefended model on them does."""
    identity = request.param == "pixels"
    mapping = Nystroem(gamma=0.1, n_components=300, random_state=0).fit(digits.X)
    transform = (lambda X: X) if identity else mapping.transform
    undefended = LogisticRegression(max_iter=500).fit(transform(digits.X), digits.y)
    return transform, undefended


@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_digits_are_defended(digits, features, corrupted_posterior):
    transform, undefended = features
    X_test, X_triggered = transform(digits.X_test), transform(digits.X_triggered)
    vibe = VIBEClassifier(random_state=0, corrupted_posterior=corrupted_posterior)
    vibe.fit(transform(digits.X), digits.y)

    def asr(model):
        predicted = model.predict(X_triggered)
        return attack_success_rate(digits.y_test, predicted, target=digits.target)

    # The attack is real: without that a low success rate means nothing.
    assert asr(undefended) > 0.9
    assert asr(vibe) <= 0.02
    accuracy = accuracy_score(digits.y_test, undefended.predict(X_test))
    assert accuracy_score(digits.y_test, vibe.predict(X_test)) >= accuracy - 0.03
    assert roc_auc_score(digits.poison_mask, vibe.poison_scores_) >= 0.97
    recovered = vibe.clean_labels_[digits.poison_mask]
    assert (recovered == digits.y_true[digits.poison_mask]).mean() > 0.8


# -- what is published ---------------------------------------------------------------


def test_warns_if_the_labels_do_not_settle():
    digits = load_poisoned_digits(random_state=0)
    vibe = quick(max_iter=20, prior="uniform", whitening=0.1, kappa=15, nu=10)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=20 .* \(tol\)"):
        vibe.fit(digits.X, digits.y)
    assert not vibe.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vibe.set_params(tol=0).fit(digits.X, digits.y)
        assert not vibe.converged_
        vibe.set_params(tol=0.5, max_iter=100).fit(digits.X, digits.y)
    assert vibe.converged_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_attributes(n_classes):
    X, y = make_rows(n_classes=n_classes)
    vibe = quick().fit(X, y)
    n, k = len(X), n_classes
    assert vibe.classes_.tolist() == list(range(k))
    assert vibe.clean_labels_.shape == (n,)
    assert vibe.clean_proba_.shape == (n, k)
    np.testing.assert_allclose(vibe.clean_proba_.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        vibe.classes_[vibe.clean_proba_.argmax(axis=1)], vibe.clean_labels_
    )
    assert vibe.poison_scores_.shape == (n,)
    assert ((vibe.poison_scores_ >= 0) & (vibe.poison_scores_ <= 1)).all()
    assert vibe.train_mask_.dtype == bool
    assert vibe.train_mask_.all()
    assert vibe.n_removed_rows_ == 0
    agree = (vibe.clean_labels_ == y) & (vibe.poison_scores_ < 0.5)
    np.testing.assert_array_equal(vibe.trusted_mask_, agree)
    np.testing.assert_allclose(vibe.prior_, 1 / k, rtol=1e-6)
    for prototypes in (vibe.prototypes_, vibe.corrupted_prototypes_):
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-9)
        assert prototypes.shape == (k, 5)
    np.testing.assert_allclose(vibe.poisoning_rule_.sum(axis=1), 1, rtol=1e-9)
    assert len(vibe.lower_bounds_) == len(vibe.label_changes_)
    assert np.isfinite(vibe.lower_bounds_).all()
    assert isinstance(vibe.converged_, bool)
    assert 0 < vibe.n_iter_ <= 100
    assert vibe.n_features_in_ == 5
    assert len(vibe.history_) > 0


def test_clean_labels_are_balanced_to_the_prior():
    X, y = make_rows(n=300)
    vibe = quick(prior=[0.2, 0.3, 0.5], lam=2.0).fit(X, y)
    np.testing.assert_allclose(vibe.prior_, [0.2, 0.3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(vibe.clean_proba_.mean(axis=0), vibe.prior_, atol=1e-3)


def test_priors():
    X, y = make_rows()
    shares = np.bincount(y) / len(y)
    np.testing.assert_allclose(quick(prior="empirical").fit(X, y).prior_, shares, 1e-5)
    # Shares in any unit.
    counts = quick(prior=np.array([1, 2, 1])).fit(X, y).prior_
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], rtol=1e-6)
    learned = quick(prior="learned").fit(X, y).prior_
    np.testing.assert_allclose(learned, 1 / 3, atol=0.05)
    assert len(set(learned)) == 3
    np.testing.assert_allclose(quick(prior="uniform").fit(X, y).prior_, 1 / 3, 1e-6)
    warm = quick(prior="learned", prior_temperature=2.0).fit(X, y).prior_
    assert np.ptp(warm) > np.ptp(learned)


def test_poisoning_rule_shows_who_was_turned_into_whom():
    data = load_poisoned_digits(target=3, rate=0.1, random_state=0)
    vibe = VIBEClassifier(corrupted_posterior="approximate", random_state=0)
    rule = vibe.fit(data.X, data.y).poisoning_rule_
    np.fill_diagonal(rule, 0)
    # Every class was turned into the target more than into the average class.
    others = np.delete(np.arange(10), 3)
    assert (rule[others, 3] > rule[others].mean(axis=1)).mean() > 0.7


def test_prediction_methods_agree():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    proba = vibe.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_array_equal(vibe.predict(X), vibe.classes_[proba.argmax(axis=1)])
    decision = vibe.decision_function(X)
    np.testing.assert_array_equal(decision.argmax(axis=1), proba.argmax(axis=1))
    ratio = decision[:, 1] - decision[:, 0]
    np.testing.assert_allclose(ratio, np.log(proba[:, 1] / proba[:, 0]), atol=1e-6)
    assert vibe.score(X, y) == accuracy_score(y, vibe.predict(X))


def test_decision_function_of_two_classes_is_their_log_odds():
    X, y = make_rows(n_classes=2)
    vibe = quick().fit(X, y)
    proba = vibe.predict_proba(X)
    decision = vibe.decision_function(X)
    assert decision.shape == (120,)
    np.testing.assert_allclose(decision, np.log(proba[:, 1] / proba[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(decision > 0, vibe.predict(X) == 1)


@pytest.mark.parametrize("whitening", [None, 0.5])
def test_posterior_is_the_stated_one(whitening):
    X, y = make_rows()
    params = {"kappa": 7.0, "prior": [0.2, 0.3, 0.5], "whitening": whitening}
    vibe = quick(**params).fit(X, y)
    v = X / np.linalg.norm(X, axis=1, keepdims=True)
    if whitening is not None:
        covariance = np.cov(v, rowvar=False, bias=True)
        shrunk = covariance + whitening * np.trace(covariance) / 5 * np.eye(5)
        v = (v - v.mean(axis=0)) @ fractional_matrix_power(shrunk, -0.5)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
    # Fitted in float32.
    np.testing.assert_allclose(
        vibe.transform(X), v, atol=0 if whitening is None else 1e-5, rtol=1e-12
    )
    v = vibe.transform(X)
    weights = np.exp(7.0 * v @ vibe.prototypes_.T) * vibe.prior_
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(vibe.clean_posterior(X), expected, rtol=1e-9)
    plain = quick(**params, refit=False).fit(X, y)
    np.testing.assert_array_equal(plain.predict_proba(X), vibe.clean_posterior(X))


def test_refit():
    X, y = make_rows()
    kept = KNeighborsClassifier(3)
    prototypes, logistic, neighbors = (
        quick(refit=refit).fit(X, y) for refit in (False, True, kept)
    )
    assert prototypes.refit_classifier_ is None
    assert isinstance(logistic.refit_classifier_, LogisticRegression)
    assert neighbors.refit_classifier_.n_neighbors == 3
    # The classifier given is a template.
    assert not hasattr(kept, "classes_")
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    # It predicts, and changes nothing else.
    for vibe in (logistic, neighbors):
        np.testing.assert_array_equal(vibe.poison_scores_, prototypes.poison_scores_)
        np.testing.assert_array_equal(
            vibe.clean_posterior(X), prototypes.clean_posterior(X)
        )
        assert not np.array_equal(vibe.predict_proba(X), prototypes.predict_proba(X))
        expected = vibe.refit_classifier_.predict_proba(unit)
        np.testing.assert_allclose(vibe.predict_proba(X), expected, atol=1e-12)


def test_only_the_direction_of_a_row_counts():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    np.testing.assert_allclose(
        vibe.predict_proba(X), vibe.predict_proba(1e6 * X), rtol=1e-9
    )


def test_transform():
    X, y = make_rows()
    vibe = quick().fit(X.astype(np.float32), y)
    assert vibe.transform(X.astype(np.float32)).dtype == np.float32
    assert vibe.transform(X).dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(vibe.transform(X), axis=1), 1)
    names = vibe.get_feature_names_out()
    assert len(names) == 5
    assert names[0] == "vibeclassifier0"
    vibe = quick().fit(X, y)
    np.testing.assert_array_equal(quick().fit_transform(X, y), vibe.transform(X))


# -- poison scores -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.float16])
@pytest.mark.parametrize("corrupted_posterior", ["full", "approximate"])
def test_poison_score_agrees_with_the_published_ones(dtype, corrupted_posterior):
    X, y = make_rows()
    X = X.astype(dtype)
    vibe = quick(corrupted_posterior=corrupted_posterior).fit(X, y)
    np.testing.assert_array_equal(vibe.poison_score(X, y), vibe.poison_scores_)


@pytest.mark.parametrize("params", ENCODERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_poison_score_agrees_with_an_encoder(params, dtype):
    X, y = make_images(dtype=dtype)
    vibe = quick(batch_size=32, **params).fit(X, y)
    np.testing.assert_array_equal(vibe.poison_score(X, y), vibe.poison_scores_)


def test_poison_score_is_the_stated_formula():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    proba = vibe.clean_posterior(X)
    own = proba[np.arange(len(y)), y].copy()
    proba[np.arange(len(y)), y] = 0
    other = proba.max(axis=1)
    np.testing.assert_allclose(vibe.poison_scores_, other / (own + other), rtol=1e-6)


def test_poison_score_of_single_rows_equals_that_of_many():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    one_by_one = [vibe.poison_score(X[i : i + 1], y[i : i + 1])[0] for i in range(20)]
    np.testing.assert_allclose(one_by_one, vibe.poison_scores_[:20], rtol=1e-9)


def test_turned_labels_score_high():
    X, y = make_blobs(200, n_features=5, centers=3, random_state=0)
    turned = np.random.default_rng(0).random(200) < 0.1
    given = np.where(turned, (y + 1) % 3, y)
    vibe = quick().fit(X, given)
    assert roc_auc_score(turned, vibe.poison_scores_) > 0.99
    # The three clouds touch.
    assert np.mean(vibe.clean_labels_ == y) >= 0.995


# -- removed rows --------------------------------------------------------------------


def with_removed(X, removed):
    marked = np.array(X, dtype=float)
    marked[removed] = np.nan
    return marked


def test_removed_rows_leave_no_trace_but_keep_their_place():
    X, y = make_rows()
    removed = np.random.default_rng(1).random(len(X)) < 0.2
    names = np.array(["b", "c", "a"])[y]
    vibe = quick().fit(with_removed(X, removed), names)
    alone = quick().fit(X[~removed], names[~removed])
    np.testing.assert_array_equal(vibe.train_mask_, ~removed)
    assert vibe.n_removed_rows_ == removed.sum()
    assert not vibe.trusted_mask_[removed].any()
    np.testing.assert_array_equal(vibe.predict_proba(X), alone.predict_proba(X))
    for name in ("clean_labels_", "clean_proba_", "poison_scores_"):
        published = getattr(vibe, name)
        assert len(published) == len(X)
        np.testing.assert_array_equal(published[~removed], getattr(alone, name))
    assert (vibe.poison_scores_[removed] == 1).all()
    np.testing.assert_array_equal(vibe.clean_labels_[removed], names[removed])
    one_hot = vibe.classes_ == names[removed][:, None]
    np.testing.assert_array_equal(vibe.clean_proba_[removed], one_hot)


@pytest.mark.parametrize("params", ENCODERS)
def test_removed_images(params):
    X, y = make_images()
    removed = np.arange(len(X)) % 10 == 3
    marked = X.copy()
    marked[removed] = np.nan
    vibe = quick(batch_size=32, **params).fit(marked, y)
    alone = quick(batch_size=32, **params).fit(X[~removed], y[~removed])
    np.testing.assert_array_equal(vibe.predict_proba(X), alone.predict_proba(X))
    np.testing.assert_array_equal(vibe.train_mask_, ~removed)
    np.testing.assert_array_equal(vibe.poison_scores_[~removed], alone.poison_scores_)


def test_a_class_that_is_removed_as_a_whole_stays_known():
    X, y = make_rows()
    vibe = quick().fit(with_removed(X, y == 1), y)
    assert vibe.classes_.tolist() == [0, 1, 2]
    assert vibe.predict_proba(X).shape == (120, 3)
    assert np.isfinite(vibe.predict_proba(X)).all()
    assert np.isfinite(vibe.lower_bounds_).all()
    assert (vibe.clean_labels_[y == 1] == 1).all()


def test_fit_transform_keeps_removed_rows_removed():
    X, y = make_rows()
    removed = np.arange(len(X)) < 7
    features = quick().fit_transform(with_removed(X, removed), y)
    assert np.isnan(features[removed]).all()
    assert np.isfinite(features[~removed]).all()


def test_prediction_takes_no_removed_rows():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    marked = with_removed(X, np.arange(len(X)) < 1)
    for method in METHODS:
        with pytest.raises(ValueError, match="contains NaN"):
            getattr(vibe, method)(marked)
    with pytest.raises(ValueError, match="contains NaN"):
        vibe.poison_score(marked, y)


# -- same seed, same result; nothing of the user's is changed -------------------------


def state_of_the_world():
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    return (
        python,
        numpy_state[1].tolist(),
        numpy_state[2:],
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    )


def fitted_arrays(vibe):
    return {
        name: value
        for name, value in vars(vibe).items()
        if name.endswith("_") and isinstance(value, np.ndarray | int | bool)
    }


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"pseudo_labels": "soft", "prior": "learned"},
        {"encoder": encoder()},
        {"encoder": encoder(), "train_encoder": True},
    ],
    ids=["default", "soft-learned", "frozen", "trained"],
)
def test_same_seed_same_bits_and_no_change_of_the_world(params):
    X, y = make_images() if "encoder" in params else make_rows()
    X.flags.writeable = y.flags.writeable = False
    before_world = state_of_the_world()
    module = params.get("encoder")
    before_module = pickle.dumps(module and module.state_dict())
    training = module and module.training

    vibe = quick(batch_size=32, **params)
    first = fitted_arrays(vibe.fit(X, y))
    assert state_of_the_world() == before_world
    torch.rand(3)
    np.random.random(3)  # noqa: NPY002
    second = fitted_arrays(vibe.fit(X, y))
    third = fitted_arrays(clone(vibe).fit(X.copy(), y.tolist()))
    assert len(first) > 8
    for other in (second, third):
        assert first.keys() == other.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], other[name], err_msg=name)

    before_world = state_of_the_world()
    vibe.predict(X)
    vibe.transform(X)
    assert state_of_the_world() == before_world
    assert vibe.encoder is module
    assert pickle.dumps(module and module.state_dict()) == before_module
    assert (module and module.training) == training
    for parameter in [] if module is None else module.parameters():
        assert parameter.grad is None


def test_seeds_differ():
    X, y = make_rows()
    one, two, three = (
        quick(random_state=seed, batch_size=16).fit(X, y).prototypes_
        for seed in (0, 1, np.random.RandomState(0))
    )
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_no_seed_reads_numpy_s_global_state_as_scikit_learn_does():
    X, y = make_rows()
    torch_state = torch.get_rng_state()
    fits = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002
        fits.append(quick(random_state=None, batch_size=16).fit(X, y).prototypes_)
    np.testing.assert_array_equal(*fits)
    assert torch.equal(torch.get_rng_state(), torch_state)


class Counting(Callback):
    def __init__(self):
        self.epochs = 0

    def on_epoch_end(self, net, **kwargs):
        self.epochs += 1


def test_the_user_s_callbacks_are_copied():
    X, y = make_rows()
    scoring, counting = EpochScoring("accuracy", name="acc"), Counting()
    before = set(vars(scoring))
    params = {"callbacks": [scoring, ("count", counting)], "train_split": ValidSplit(3)}
    kept = dict(params)
    vibe = quick(net_params=params).fit(X, y)
    assert params == kept
    assert vibe.net_params is params
    assert set(vars(scoring)) == before
    assert counting.epochs == 0
    assert dict(vibe.net_.callbacks_)["count"].epochs > 0


def test_given_arrays_are_untouched():
    X, y = make_rows()
    X_before, y_before = X.copy(), y.copy()
    vibe = quick().fit(X, y)
    vibe.predict(X)
    vibe.poison_score(X, y)
    vibe.transform(X)[:] = 0
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    prior = np.array([1.0, 2.0, 3.0])
    quick(prior=prior).fit(X, y)
    np.testing.assert_array_equal(prior, [1, 2, 3])


# -- kinds of input ------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ham", "spam", "eggs"]),
        np.array(["ham", "spam", "eggs"], dtype=object),
        np.array([-5, 3, 10**12]),
        np.array([2.0, 0.0, 1.0]),
        np.array([7, 8, 9], dtype=np.uint8),
        pd.Categorical(["u", "v", "w"]),
    ],
    ids=["str", "object", "int", "float", "uint8", "categorical"],
)
def test_labels_of_any_type(labels):
    X, y = make_rows()
    given = labels[y]
    vibe = quick().fit(X, given)
    assert set(vibe.predict(X)) <= set(labels)
    assert set(vibe.clean_labels_) <= set(labels)
    np.testing.assert_array_equal(vibe.poison_score(X, given), vibe.poison_scores_)
    np.testing.assert_array_equal(
        vibe.poison_score(X, list(given)), vibe.poison_scores_
    )
    assert vibe.score(X, given) > 0.8


def test_two_boolean_classes():
    X, y = make_rows(n_classes=2)
    vibe = quick().fit(X, y == 1)
    assert vibe.classes_.tolist() == [False, True]
    assert vibe.predict(X).dtype == bool


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.astype(np.float32),
        lambda X: np.rint(10 * X).astype(np.int64),
        lambda X: np.clip(10 * X + 128, 0, 255).astype(np.uint8),
        lambda X: X.astype(np.float16),
        lambda X: X.tolist(),
        lambda X: pd.DataFrame(X, columns=list("abcde")),
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    ],
    ids=["float32", "int64", "uint8", "float16", "list", "frame", "fortran", "strided"],
)
def test_inputs_of_any_type(convert):
    X, y = make_rows()
    X = convert(X)
    vibe = quick().fit(X, y)
    reference = quick().fit(np.asarray(X, dtype=np.float64), y)
    np.testing.assert_array_equal(vibe.predict(X), reference.predict(np.asarray(X)))
    np.testing.assert_allclose(
        vibe.predict_proba(X), reference.predict_proba(np.asarray(X)), atol=1e-3
    )
    assert vibe.score(X, y) > 0.8


def test_feature_names_are_kept():
    X, y = make_rows()
    frame = pd.DataFrame(X, columns=list("abcde"))
    vibe = quick().fit(frame, pd.Series(y))
    assert vibe.feature_names_in_.tolist() == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        vibe.predict(frame[list("edcba")])


@pytest.mark.parametrize("params", ENCODERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
def test_images_through_an_encoder(params, dtype):
    X, y = make_images(dtype=dtype)
    vibe = quick(batch_size=32, max_iter=200, **params).fit(X, y)
    assert vibe.prototypes_.shape == (3, 6)
    assert vibe.transform(X).shape == (120, 6)
    np.testing.assert_allclose(np.linalg.norm(vibe.transform(X), axis=1), 1, rtol=1e-5)
    assert vibe.predict_proba(X).shape == (120, 3)
    changed = any(
        not torch.equal(fitted, given)
        for fitted, given in zip(
            vibe._encoder.state_dict().values(),
            params["encoder"].state_dict().values(),
            strict=True,
        )
    )
    assert changed == params.get("train_encoder", False)


def test_a_trained_encoder_fits_better_than_a_frozen_one():
    X, y = make_images()
    fits = [
        VIBEClassifier(
            encoder(),
            train_encoder=trained,
            whitening=None,
            lr=0.1,
            batch_size=32,
            random_state=0,
        )
        .fit(X, y)
        .lower_bounds_[-1]
        for trained in (False, True)
    ]
    assert fits[1] > fits[0]


def test_soft_labels_and_both_solvers():
    X, y = make_rows()
    # Sinkhorn needs very many rounds where lam is large.
    torch_labels = quick(max_iter=50, lam=2.0).fit(X, y).clean_labels_
    pot = quick(max_iter=50, lam=2.0, solver="pot").fit(X, y)
    np.testing.assert_array_equal(pot.clean_labels_, torch_labels)
    soft = quick(pseudo_labels="soft").fit(X, y)
    assert soft.score(X, y) > 0.8


def test_verbose_prints_and_silence_is_the_default(capsys):
    X, y = make_rows()
    quick().fit(X, y)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    quick(verbose=1).fit(X, y)
    told = capsys.readouterr().out
    assert "[EM] setting: " in told
    assert "[EM] 0/" in told
    assert f"of {len(X)} rows" in told


# -- parameters of the inner net -----------------------------------------------------


def test_net_parameters_are_reached_by_name():
    params = {"optimizer__momentum": 0.5}
    vibe = quick(net_params=params)
    assert vibe.get_params()["optimizer__momentum"] == 0.5
    assert "optimizer__momentum" not in vibe.get_params(deep=False)
    other = clone(vibe).set_params(optimizer__momentum=0.7, lam=3.0)
    assert other.lam == 3.0
    assert other.get_params()["optimizer__momentum"] == 0.7
    assert params == {"optimizer__momentum": 0.5}
    assert vibe.get_params()["optimizer__momentum"] == 0.5
    X, y = make_rows()
    optimizer = other.fit(X, y).net_.optimizer_
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_net_parameters_change_the_fit():
    X, y = make_rows()
    plain = quick(max_iter=20).fit(X, y).prototypes_
    other = quick(max_iter=20).set_params(optimizer__momentum=0.0).fit(X, y)
    assert not np.array_equal(other.prototypes_, plain)
    # Adam takes no momentum: SGD's default does not get in its way, one given does.
    adam = quick(max_iter=20, net_params={"optimizer": torch.optim.Adam})
    assert not np.array_equal(adam.fit(X, y).prototypes_, plain)
    with pytest.raises(TypeError, match="momentum"):
        adam.set_params(optimizer__momentum=0.5).fit(X, y)


@pytest.mark.parametrize("name", ["kapa", "module_", "optimiser__momentum"])
def test_misspelt_parameters_are_refused(name):
    with pytest.raises(ValueError, match="Invalid parameter"):
        quick().set_params(**{name: 1})


def test_clone_does_not_carry_what_was_learned():
    X, y = make_images()
    vibe = quick(encoder=encoder(), train_encoder=True, batch_size=32).fit(X, y)
    copied = clone(vibe)
    assert not hasattr(copied, "classes_")
    given, cloned = vibe.encoder.state_dict(), copied.encoder.state_dict()
    for name in given:
        assert torch.equal(given[name], cloned[name])


# -- bad input: an error that names the parameter and the remedy ----------------------


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"lam": 0}, ValueError, "lam must be"),
        ({"lam": -1.0}, ValueError, "lam must be"),
        ({"lam": "25"}, TypeError, "lam must be a number"),
        ({"lam": np.nan}, ValueError, "lam must be finite"),
        ({"lam": True}, TypeError, "lam must be a number"),
        ({"kappa": 0}, ValueError, "kappa must be"),
        ({"kappa": np.inf}, ValueError, "kappa must be finite"),
        ({"kappa": [1]}, TypeError, "kappa must be"),
        ({"nu": -1e-9}, ValueError, "nu must be"),
        ({"nu": None}, TypeError, "nu must be"),
        ({"prior_temperature": 0}, ValueError, "prior_temperature must be"),
        ({"lr": 0}, ValueError, "lr must be"),
        ({"lr": -0.1}, ValueError, "lr must be"),
        ({"tol": -1}, ValueError, "tol must be"),
        ({"max_iter": 0}, ValueError, "max_iter must be"),
        ({"max_iter": 10.0}, TypeError, "max_iter must be an integer"),
        ({"e_step_period": 0}, ValueError, "e_step_period must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"batch_size": "all"}, TypeError, "batch_size must be an integer"),
        ({"corrupted_posterior": "ful"}, ValueError, "corrupted_posterior .* 'full'"),
        ({"pseudo_labels": None}, ValueError, "pseudo_labels .* 'hard'"),
        ({"solver": "POT"}, ValueError, "solver must be one of 'torch', 'pot'"),
        ({"prior": "balanced"}, ValueError, "prior must be one of .*'uniform'"),
        ({"prior": [0.5, 0.5]}, ValueError, "prior must be .* 3 positive numbers"),
        ({"prior": [1, 0, 1]}, ValueError, "prior must be .* positive"),
        ({"prior": [1, np.nan, 1]}, ValueError, "prior must be"),
        ({"prior": [[1, 1, 1]]}, ValueError, "prior must be"),
        ({"device": "cuda:99"}, ValueError, "device='cuda:99' is not there.*'cpu'"),
        ({"device": "gpu"}, ValueError, "device must be 'auto'"),
        ({"device": 1.5}, ValueError, "device must be 'auto'"),
        ({"device": "meta"}, ValueError, "device='meta' is not supported"),
        ({"encoder": "resnet18"}, TypeError, "encoder must be a torch.nn.Module"),
        ({"encoder": torch.nn.Linear}, TypeError, "encoder must be a torch.nn.Module"),
        ({"train_encoder": True}, ValueError, "train_encoder=True needs an encoder"),
        ({"refit": None}, TypeError, "refit must be True, False or a .* classifier"),
        ({"refit": LinearRegression()}, TypeError, "refit must be"),
        ({"refit": LinearSVC()}, TypeError, "refit must be .* predict_proba"),
        ({"net_params": [1]}, TypeError, "net_params must be a dict"),
        ({"random_state": "zero"}, ValueError, "cannot be used to seed"),
    ],
)
def test_parameters_out_of_range(params, error, message):
    X, y = make_rows()
    # The constructor stores anything; fit says what is wrong.
    vibe = VIBEClassifier(**params)
    with pytest.raises(error, match=message):
        vibe.fit(X, y)


@pytest.mark.parametrize(
    "name", ["max_epochs", "batch_size", "lam", "modul__x", "module__kappa", "device"]
)
def test_net_parameters_that_are_not_the_net_s_to_take(name):
    X, y = make_rows()
    with pytest.raises((TypeError, ValueError), match=name):
        quick(net_params={name: 1}).fit(X, y)


def bad_row(value, whole=False):
    X, y = make_rows()
    X[3, slice(None) if whole else 1] = value
    return X, y


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (bad_row(np.nan), ValueError, "NaN or infinity in some features"),
        (bad_row(np.inf), ValueError, "NaN or infinity"),
        (bad_row(-np.inf, whole=True), ValueError, "NaN or infinity"),
        ((np.full((5, 2), np.nan), [0, 1, 0, 1, 0]), ValueError, "no rows are left"),
        (([[1.0], [2.0], [3.0]], [0, 1, 0]), ValueError, "minimum of 2 is required"),
        (([[1.0, 2.0]], [0]), ValueError, "minimum of 2 is required"),
        ((np.empty((0, 3)), []), ValueError, "0 sample"),
        ((np.ones((4, 0)), [0, 1, 0, 1]), ValueError, "0 feature"),
        ((np.eye(3), [0, 1]), ValueError, "inconsistent numbers of samples"),
        ((np.eye(3), [1, 1, 1]), ValueError, "at least 2 classes.*1 class"),
        ((np.eye(3), None), ValueError, "requires y to be passed"),
        ((np.eye(3), [0.5, 1.5, 2.5]), ValueError, "Unknown label type"),
        ((np.eye(3), np.eye(3, dtype=int)), ValueError, "1d array"),
        ((np.eye(3), [0, 1, np.nan]), ValueError, "NaN"),
        ((np.arange(3.0), [0, 1, 0]), ValueError, "Expected 2D array, got 1D"),
        ((np.ones((3, 2, 2)), [0, 1, 0]), ValueError, "3"),
        ((np.eye(3) + 1j, [0, 1, 0]), ValueError, "Complex data not supported"),
        (([["a", "b"], ["c", "d"]], [0, 1]), ValueError, "could not convert string"),
        ((scipy.sparse.eye_array(3).tocsr(), [0, 1, 0]), TypeError, "[Ss]parse"),
    ],
    ids=[
        "nan",
        "inf",
        "inf-row",
        "all-removed",
        "one-feature",
        "one-row",
        "no-rows",
        "no-features",
        "lengths",
        "one-class",
        "no-y",
        "continuous",
        "y-2d",
        "y-nan",
        "x-1d",
        "x-3d",
        "complex",
        "text",
        "sparse",
    ],
)
def test_data_that_can_not_be_fitted(data, error, message):
    with pytest.raises(error, match=message):
        quick().fit(*data)


def test_one_class_left():
    X, y = make_rows(n_classes=2)
    with pytest.raises(ValueError, match=r"Only one class is left.*max_removed"):
        quick().fit(with_removed(X, y == 0), y)


def test_a_failed_fit_leaves_an_unfitted_estimator():
    vibe = quick()
    with pytest.raises(ValueError, match="Only one class is left"):
        vibe.fit(*make_rows_with_one_class_left())
    with pytest.raises(NotFittedError):
        vibe.predict(np.eye(5))


def test_a_failed_refit_does_not_keep_half_of_the_old_model():
    X, y = make_rows()
    vibe = quick().fit(X, y)
    with pytest.raises(ValueError, match="Only one class is left"):
        vibe.fit(*make_rows_with_one_class_left())
    with pytest.raises(NotFittedError):
        vibe.predict(X)


def make_rows_with_one_class_left():
    X, y = make_rows(n_classes=2)
    return with_removed(X, y == 0), y


@pytest.mark.parametrize("method", METHODS)
def test_prediction_needs_a_fit_and_the_same_features(method):
    X, y = make_rows()
    with pytest.raises(NotFittedError):
        getattr(quick(), method)(X)
    vibe = quick().fit(X, y)
    with pytest.raises(ValueError, match="expecting 5 features"):
        getattr(vibe, method)(X[:, :4])
    with pytest.raises(ValueError, match="infinity"):
        getattr(vibe, method)(np.full((2, 5), np.inf))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 7], "y holds 7, which is not in classes_"),
        ([0], r"y must have shape \(2,\)"),
        ([[0, 1]], r"y must have shape \(2,\)"),
        ([0, np.nan], "not in classes_"),
        (["0", "1"], "not in classes_"),
        ([None, None], "not in classes_"),
    ],
)
def test_labels_that_poison_score_does_not_know(labels, message):
    X, y = make_rows()
    vibe = quick().fit(X, y)
    with pytest.raises(ValueError, match=message):
        vibe.poison_score(X[:2], labels)


def test_poison_score_needs_a_fit():
    with pytest.raises(NotFittedError):
        quick().poison_score(np.eye(5), np.arange(5))


def test_images_need_an_encoder():
    X, y = make_images()
    with pytest.raises(ValueError, match="dim 4"):
        quick().fit(X, y)


def test_training_that_diverges_names_the_learning_rate(digits):
    vibe = VIBEClassifier(lr=1e30, random_state=0)
    with pytest.raises(ValueError, match="Lower lr"):
        vibe.fit(digits.X, digits.y)
